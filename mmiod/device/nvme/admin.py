"""Admin commands (NVM Express 1.4, 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from attrs import frozen

from mmiod.device.nvme import features, identify, logs
from mmiod.device.nvme.entries import AdminOpcode, Refused, Status, Submission
from mmiod.device.nvme.identify import Unit
from mmiod.device.nvme.logs import Counters
from mmiod.device.nvme.prp import PAGE
from mmiod.device.nvme.queues import (
    IO_QUEUES,
    MAX_ENTRIES,
    Command,
    CompletionQueue,
    SubmissionQueue,
)
from mmiod.device.nvme.session import Session

_CONTIGUOUS, _INTERRUPTS = 1, 2
"""PC and IEN of dword 11."""
_NOT_ABORTED: Final = 1


@frozen
class Admin:
    """What admin commands look at and change."""

    session: Session
    unit: Unit
    counters: Counters
    vectors: int
    """Interrupt vectors that a completion queue may name."""
    abandoned: list[int]
    """Numbers of requests whose answers nobody awaits any more."""

    def execute(self, entry: Submission, command: Command) -> bool:
        """Do a command; False if it ends later.

        Raises:
            Refused: it was not done, and nothing has changed.
        """
        action = _ACTIONS.get(entry.opcode)
        if action is None:
            raise Refused(Status.INVALID_OPCODE)
        entry.check()
        action(self, entry, command)
        return action is not Admin.request_event

    # --- queues

    def create_completion_queue(self, entry: Submission, _command: Command) -> None:
        """5.3: dword 10 has size and number, 11 the vector."""
        number, size = _place(entry, self.session.completion(entry.low) is not None)
        vector = entry.dwords[1] >> 16
        if vector >= self.vectors:
            raise Refused(Status.INVALID_INTERRUPT_VECTOR)
        interrupts = bool(entry.dwords[1] & _INTERRUPTS)
        self.session.completions.append(CompletionQueue(number, entry.prp1, size, vector, interrupts))

    def create_submission_queue(self, entry: Submission, _command: Command) -> None:
        """5.4: the upper half of dword 11 is the completion queue, which may serve several."""
        completions = entry.dwords[1] >> 16
        if not completions or self.session.completion(completions) is None:
            raise Refused(Status.COMPLETION_QUEUE_INVALID)
        number, size = _place(entry, self.session.submission(entry.low) is not None)
        self.session.submissions.append(SubmissionQueue(number, entry.prp1, size, completions))

    def delete_submission_queue(self, entry: Submission, _command: Command) -> None:
        """5.6."""
        queue = self.session.submission(entry.low)
        if queue is None or not queue.number:
            raise Refused(Status.INVALID_QUEUE_IDENTIFIER)
        self.abandoned.extend(self.session.delete_submission(queue))

    def delete_completion_queue(self, entry: Submission, _command: Command) -> None:
        """5.5: not while a submission queue leads to it."""
        queue = self.session.completion(entry.low)
        if queue is None or not queue.number:
            raise Refused(Status.INVALID_QUEUE_IDENTIFIER)
        if any(other.completions == queue.number for other in self.session.submissions):
            raise Refused(Status.INVALID_QUEUE_DELETION)
        self.session.delete_completion(queue)

    # --- what the controller says

    def identify(self, entry: Submission, command: Command) -> None:
        """5.15."""
        command.data = identify.structure(self.unit, entry)

    def get_log_page(self, entry: Submission, command: Command) -> None:
        """5.14."""
        command.data = logs.page(self.counters, entry)
        if logs.clears_event(entry):
            self.session.unmask()

    def set_features(self, entry: Submission, command: Command) -> None:
        """5.21."""
        has_io_queues = len(self.session.completions) > 1
        command.result = features.set_feature(self.session.features, entry, has_io_queues=has_io_queues)

    def get_features(self, entry: Submission, command: Command) -> None:
        """5.9."""
        command.result = features.get_feature(self.session.features, entry)

    def abort(self, _entry: Submission, command: Command) -> None:
        """5.1: what has begun goes on to its end."""
        command.result = _NOT_ABORTED

    def request_event(self, _entry: Submission, command: Command) -> None:
        """5.2."""
        self.session.hold(command)


_ACTIONS: Final[Mapping[int, Callable[[Admin, Submission, Command], None]]] = {
    AdminOpcode.DELETE_IO_SUBMISSION_QUEUE: Admin.delete_submission_queue,
    AdminOpcode.CREATE_IO_SUBMISSION_QUEUE: Admin.create_submission_queue,
    AdminOpcode.GET_LOG_PAGE: Admin.get_log_page,
    AdminOpcode.DELETE_IO_COMPLETION_QUEUE: Admin.delete_completion_queue,
    AdminOpcode.CREATE_IO_COMPLETION_QUEUE: Admin.create_completion_queue,
    AdminOpcode.IDENTIFY: Admin.identify,
    AdminOpcode.ABORT: Admin.abort,
    AdminOpcode.SET_FEATURES: Admin.set_features,
    AdminOpcode.GET_FEATURES: Admin.get_features,
    AdminOpcode.ASYNCHRONOUS_EVENT_REQUEST: Admin.request_event,
}


def _place(entry: Submission, taken: bool) -> tuple[int, int]:
    """Number and entries of a queue that is to be created; it is in one piece, as CAP.CQR asks."""
    if not 1 <= entry.low <= IO_QUEUES or taken:
        raise Refused(Status.INVALID_QUEUE_IDENTIFIER)
    if not 1 <= entry.high < MAX_ENTRIES:
        raise Refused(Status.INVALID_QUEUE_SIZE)
    if not entry.dwords[1] & _CONTIGUOUS:
        raise Refused(Status.INVALID_FIELD)
    if entry.prp1 % PAGE:
        raise Refused(Status.INVALID_PRP_OFFSET)
    return entry.low, entry.high + 1
