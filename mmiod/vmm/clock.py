"""Guest time as executed instructions, for runs that can be compared access by access.

As QEMU's `-icount shift=N`: one instruction takes 2^N ns.  Time stands still in the
daemon between exits and moves there only while the vCPU halts, by what the completion
says.  Without `--icount` guest time is 0 in every exit and the daemon's clock is real.
"""

from __future__ import annotations

from typing import Final, Protocol

from attrs import define

from mmiod.protocol.exit.completions import NO_DEADLINE, Completed

NO_LIMIT: Final = (1 << 64) - 1
"""More instructions than anybody executes."""
MAX_SHIFT: Final = 10
"""As in QEMU: an instruction takes 1.024 us at most."""


class Clock(Protocol):
    """Guest time by the number of instructions executed."""

    def now(self, count: int) -> int:
        """Nanoseconds after `count` instructions."""

    def limit(self) -> int:
        """The instruction count at which the daemon's next timer is due."""

    def completed(self, sent_ns: int, done: Completed) -> None:
        """An exit that was sent at `sent_ns` is done."""


@define
class DaemonClock:
    """The daemon has the clock."""

    def now(self, _count: int) -> int:
        """Always 0, which the protocol wants without GUEST_TIME."""
        return 0

    def limit(self) -> int:
        """Never."""
        return NO_LIMIT

    def completed(self, sent_ns: int, done: Completed) -> None:
        """Tells nothing."""


@define
class InstructionClock:
    """2^shift ns for each instruction, and what halts added."""

    shift: int
    offset_ns: int = 0
    deadline_ns: int = NO_DEADLINE

    def now(self, count: int) -> int:
        """Nanoseconds after `count` instructions."""
        return (count << self.shift) + self.offset_ns

    def limit(self) -> int:
        """The count at which the deadline is reached or just passed."""
        if self.deadline_ns == NO_DEADLINE:
            return NO_LIMIT
        return max(0, -(-(self.deadline_ns - self.offset_ns) >> self.shift))

    def completed(self, sent_ns: int, done: Completed) -> None:
        """Take over the deadline, and the time that a halt took."""
        self.offset_ns += max(0, done.guest_ns - sent_ns)
        self.deadline_ns = done.deadline_ns
