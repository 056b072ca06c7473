"""Guest memory that a client does not share, by messages to it.

A message goes out behind the answer to whatever the client waits for, and nothing here waits:
QEMU serves these only when none of its vCPUs waits for an access.  So DMA_UNMAP is answered at
once as well.  What is under way then is the client's to answer, by the memory it has by then:
QEMU takes all of its memory away and back while the guest runs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import define, field

from mmiod.device.accesses import MemoryRead
from mmiod.device.work import RANGE
from mmiod.machine.host import InlineHost
from mmiod.protocol.vfio_user import Answer, Asked

READ: Final = 1 << 15
"""Bytes that one message reads at most.  QEMU 11 sends a reply by one call that does not wait,
and loses what of it the socket does not take.  Linux takes up to some 35 KiB as a whole or not at
all (net/unix/af_unix.c, `unix_stream_sendmsg`), and then QEMU sends them later."""


@define(eq=False)
class Move:
    """What one work asked for, in messages of at most the client's size."""

    work: str
    reads: bool
    gpa: int
    data: bytearray
    """What is written, or was read so far."""
    sent: int = 0
    """Bytes that were asked for."""
    done: int = 0
    """Bytes that were answered."""


@define(eq=False)
class DmaMessages:
    """The messenger of one function, to its client."""

    host: InlineHost
    asked: Asked
    reach: int
    """Bytes of one message."""
    send: Callable[[bytes], bool]
    """Sends a message; whether the client has taken all, so that more may follow."""
    soon: Callable[[Callable[[], None]], None]
    flush: Callable[[], None]
    """Calls `go_on` when nothing is to be answered first."""
    moves: dict[str, Move] = field(factory=dict)
    """By work: what it waits for."""
    parts: dict[int, tuple[Move, int, int]] = field(factory=dict)
    """Where in its move a message begins, and its length, by id."""

    def ask(self, work: str, kind: str, data: bytes) -> None:
        """Take what a work asks; it is sent behind the hook."""
        gpa, length = RANGE.unpack_from(data)
        reads = kind == MemoryRead.kind
        self.moves[work] = Move(
            work, reads, gpa, bytearray(length) if reads else bytearray(data[RANGE.size :])
        )
        self.soon(self.flush)

    def forget(self) -> None:
        """Send nothing more of what was asked: the runs that asked it begin anew."""
        self.moves.clear()

    def go_on(self) -> None:
        """Send as much as may be under way."""
        for move in self.moves.values():
            while move.sent < len(move.data):
                if self.asked.full or not self._send_part(move):
                    return

    def _send_part(self, move: Move) -> bool:
        start, gpa = move.sent, move.gpa + move.sent
        most = min(self.reach, READ) if move.reads else self.reach
        part = move.data[start : start + most]
        number, message = self.asked.read(gpa, len(part)) if move.reads else self.asked.write(gpa, part)
        self.parts[number] = move, start, len(part)
        move.sent += len(part)
        return self.send(message)

    def answered(self, answer: Answer) -> None:
        """The client has answered a message, perhaps one for which nobody waits any more."""
        move, start, length = self.parts.pop(answer.id, (None, 0, 0))
        if move is None or self.moves.get(move.work) is not move:
            return
        if answer.data is None:
            del self.moves[move.work]
            self.host.fail(move.work, 0, f"the client has no memory at {move.gpa + start:#x}")
            return
        if move.reads:
            move.data[start : start + length] = answer.data
        move.done += length
        if move.done == len(move.data):
            del self.moves[move.work]
            self.host.reply(move.work, 0, bytes(move.data) if move.reads else b"")
