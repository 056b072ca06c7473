"""The way of commands: fetched, asked of the image step by step, and posted as done.

Numbers in comments are sections of NVM Express 1.4.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from typing import Final

from attrs import define, field, frozen

from mmiod.device.accesses import Access, MemoryRead, MemoryWrite
from mmiod.device.block import MAX_RANGE, BlockClient, Medium
from mmiod.device.nvme import features
from mmiod.device.nvme.admin import Admin
from mmiod.device.nvme.entries import SUBMISSION_SIZE, Refused, Status, Submission
from mmiod.device.nvme.identify import Unit
from mmiod.device.nvme.logs import Counters
from mmiod.device.nvme.nvm import Nvm
from mmiod.device.nvme.prp import gather, scatter
from mmiod.device.nvme.queues import Command, CompletionQueue, SubmissionQueue
from mmiod.device.nvme.session import Session
from mmiod.device.work import Moves

MAX_COMMANDS: Final = 32
"""Under way at once, abandoned ones among them; others wait in their queues."""
_ASK: Final[Mapping[str, Callable[[BlockClient, int, int], int]]] = {
    "read": BlockClient.read,
    "discard": BlockClient.discard,
    "write_zeroes": BlockClient.write_zeroes,
}
_FAILURES: Final = {"read": Status.UNRECOVERED_READ_ERROR, "write": Status.WRITE_FAULT}


@define
class NvmeState:
    """What a controller has besides its registers."""

    enabled: bool = False
    medium: Medium = field(factory=Medium)
    identification: int = 0
    """Number of the request for `medium`, until it is answered."""
    closing: int = 0
    """Number of the flush that ends a shutdown."""
    session: Session = field(factory=Session)
    abandoned: list[int] = field(factory=list)
    """Numbers of requests whose commands a controller reset, or a deleted queue, has taken."""
    counters: Counters = field(factory=Counters)

    def disable(self) -> None:
        """The image's answers to what is under way are nobody's (7.3.2)."""
        self.abandoned += [command.request for command in self.session.flight]
        if self.closing:
            self.abandoned.append(self.closing)
        self.enabled, self.closing, self.session = False, 0, Session()

    @property
    def room(self) -> int:
        """How many commands may be under way."""
        return MAX_COMMANDS - len(self.abandoned)


@frozen
class Commands:
    """Those of a controller; `interrupt` is called when completions were posted."""

    state: NvmeState
    disk: BlockClient
    unit: Unit
    vectors: int
    interrupt: Callable[[], None]

    def serve(self) -> Moves:
        """Post what is done and take what is new, until there is neither."""
        session = self.state.session
        while True:
            if ready := session.postable():
                yield from self._post(session, *ready)
            elif any(queue.owed for queue in session.completions):
                self.interrupt()
            elif queue := session.turn(self.state.room):
                yield from self._take(session, queue)
            else:
                return

    def answered(self, number: int, data: bytes) -> None:
        """The image has done what it was asked."""
        if command := self._waiting(number):
            self.state.counters.add(command.step)
            command.data = data
            self._go_on(self.state.session, command)

    def failed(self, number: int) -> bool:
        """The image has not; whether it was for a command."""
        command = self._waiting(number)
        if command is None:
            return False
        command.status, command.steps = _FAILURES.get(command.step.kind, Status.INTERNAL_ERROR), []
        self.state.counters.failed(command.submissions, command.identifier, command.status)
        self._go_on(self.state.session, command)
        return True

    def _waiting(self, number: int) -> Command | None:
        if number in self.state.abandoned:
            self.state.abandoned.remove(number)
        return self.state.session.answered(number)

    def _take(self, session: Session, queue: SubmissionQueue) -> Moves:
        """Fetch a command with its data, and begin it."""
        entry = Submission.of((yield MemoryRead(queue.first, SUBMISSION_SIZE)))
        command = Command(queue.number, queue.completions, entry.identifier, entry.prp1, entry.prp2)
        data, ended = b"", True
        try:
            if queue.number:
                data = yield from self._prepare(session, entry, command)
            else:
                admin = Admin(session, self.unit, self.state.counters, self.vectors, self.state.abandoned)
                ended = admin.execute(entry, command)
        except Refused as refused:
            command.status = refused.status
        queue.advance()
        if ended:
            session.accept(command)
            self._go_on(session, command, data)

    def _prepare(
        self, session: Session, entry: Submission, command: Command
    ) -> Generator[Access, bytes, bytes]:
        """Find the steps of an I/O command; the data that the host gives."""
        cached = features.value(session.features, features.WRITE_CACHE)
        nvm = Nvm(self.unit.medium, bool(cached))
        length = nvm.length(entry)
        data = (yield from gather(entry.prp1, entry.prp2, length)) if length else b""
        command.steps = nvm.steps(entry, data)
        return data

    def _go_on(self, session: Session, command: Command, data: bytes = b"") -> None:
        """Ask the image for a command's next step; without one it is done."""
        if not command.steps:
            session.done.append(command)
            return
        command.step = step = command.steps.pop(0)
        if step.kind == "write":
            command.request = self.disk.write(step.block, data)
        elif step.kind == "flush":
            command.request = self.disk.flush()
        else:
            first, rest = step.split(MAX_RANGE)
            command.steps[:0] = rest
            command.request = _ASK[step.kind](self.disk, first.block, first.count)
        session.flight.append(command)

    def _post(self, session: Session, command: Command, queue: CompletionQueue) -> Moves:
        """Give the host what it asked for, then tell it so."""
        if command.data:
            try:
                yield from scatter(command.prp1, command.prp2, command.data)
            except Refused as refused:
                command.status = refused.status
            command.data = b""
        yield MemoryWrite(queue.next, session.entry(command, queue))
        session.post(command, queue)
