"""Exactly once: which exits of a VM's vCPUs were admitted and what was answered.

A ledger belongs to a session, not to a connection, so it outlives a reconnect.  Per
vCPU there is one exit, the last: in flight, answered (its reply is kept) or dropped by
a reset.  The next one must have the next sequence number; the same number with the
same bytes is a resend, which is answered from here and never executed again.

Specification: docs/protocol.md, "Exactly once".
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

from attrs import define, field

from mmiod.errors import ProtocolError
from mmiod.protocol.exit.book import Book
from mmiod.protocol.exit.codec import ERROR

SEQUENCE: Final = ERROR["SEQUENCE"]
STATE: Final = ERROR["STATE"]


class Admission(enum.Enum):
    """What to do with an exit that no kept reply answers."""

    NEW = enum.auto()
    """Execute it."""
    IN_FLIGHT = enum.auto()
    """A resend; its reply goes to the connection that this one came on."""


NEW: Final = Admission.NEW
IN_FLIGHT: Final = Admission.IN_FLIGHT


@define
class Ledger:
    """The books of `vcpus` vCPUs; all of them start at sequence 1."""

    vcpus: int
    paused: bool = False
    """New exits and posted writes are refused; resends are answered."""
    _last: list[Book] = field(init=False)

    @_last.default
    def _fresh(self) -> list[Book]:
        return [Book() for _ in range(self.vcpus)]

    def admit(self, vcpu: int, sequence: int, body: bytes) -> Admission | bytes:
        """Enter an exit: NEW, IN_FLIGHT, or the reply that was given before.

        Raises:
            ProtocolError: SEQUENCE for a gap, a number long past, a second exit while one
                is in flight, another body under the same number, or an exit that a reset
                dropped; STATE (not fatal, nothing was entered) while paused.
        """
        last = self._last[vcpu]
        if sequence == last.sequence and sequence:
            return self._again(vcpu, last, body)
        if sequence != last.sequence + 1:
            raise _out_of_order("exit.sequence", vcpu, sequence, last.sequence)
        _check_free("exit.sequence", vcpu, sequence, last)
        self._check_running(sequence)
        last.enter(sequence, body, b"", in_flight=True)
        return NEW

    def _again(self, vcpu: int, last: Book, body: bytes) -> Admission | bytes:
        reason = ""
        if body != last.body:
            reason = f"vCPU {vcpu} sent another exit under this number ({_difference(last.body, body)})"
        elif not (last.in_flight or last.reply):
            reason = f"a reset of vCPU {vcpu} dropped this exit"
        if reason:
            raise ProtocolError(SEQUENCE, "exit.sequence", last.sequence, reason, subject=last.sequence)
        return IN_FLIGHT if last.in_flight else last.reply

    def _check_running(self, sequence: int) -> None:
        if self.paused:
            reason = "the devices are paused; send it again after RESUME"
            raise ProtocolError(STATE, "exit.sequence", sequence, reason, subject=sequence, fatal=False)

    def complete(self, vcpu: int, reply: bytes) -> None:
        """Keep the reply of the exit in flight."""
        last = self._last[vcpu]
        assert last.in_flight, f"vCPU {vcpu} has no exit in flight"
        last.complete(reply)

    def admit_posted(self, vcpu: int, sequence: int) -> bool:
        """Enter a posted write: whether it is to be applied now (else it was before).

        Raises:
            ProtocolError: SEQUENCE for a gap, or while an exit is in flight, so that no
                completion acknowledges what waits behind its exit; STATE (not fatal)
                while paused.
        """
        last = self._last[vcpu]
        if 0 < sequence <= last.posted:
            return False
        if sequence != last.posted + 1:
            raise _out_of_order("posted.exit.sequence", vcpu, sequence, last.posted)
        _check_free("posted.exit.sequence", vcpu, sequence, last)
        self._check_running(sequence)
        last.posted = sequence
        return True

    def book(self, vcpu: int) -> Book:
        """A vCPU's, for the flat lane: it enters an exit and its reply at once."""
        return self._last[vcpu]

    def posted(self, vcpu: int) -> int:
        """The highest posted write of this vCPU that was applied; completions carry it."""
        return self._last[vcpu].posted

    def drop(self, vcpu: int) -> None:
        """A reset: the exit in flight, if any, will not be completed; numbers go on."""
        self._last[vcpu].in_flight = False

    def in_flight(self) -> Iterator[tuple[int, int]]:
        """(vCPU, sequence) of every exit that awaits its completion."""
        return ((vcpu, last.sequence) for vcpu, last in enumerate(self._last) if last.in_flight)


def _out_of_order(name: str, vcpu: int, sequence: int, last: int) -> ProtocolError:
    reason = f"the last of vCPU {vcpu} was {last}"
    return ProtocolError(SEQUENCE, name, sequence, reason, subject=sequence)


def _check_free(name: str, vcpu: int, sequence: int, last: Book) -> None:
    if last.in_flight:
        reason = f"vCPU {vcpu} has exit {last.sequence} in flight"
        raise ProtocolError(SEQUENCE, name, sequence, reason, subject=sequence)


def _difference(kept: bytes, sent: bytes) -> str:
    """Where two bodies differ, in words."""
    if len(kept) != len(sent):
        return f"{len(kept)} bytes, now {len(sent)}"
    at = next(index for index, (one, other) in enumerate(zip(kept, sent, strict=True)) if one != other)
    return f"byte {at} was {kept[at]:#04x}, is {sent[at]:#04x}"
