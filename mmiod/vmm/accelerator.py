"""What the vCPU's loop asks of an accelerator, and the reasons for which one stops.

An accelerator executes the guest.  What it decodes itself it performs by a call, while
it runs; what it cannot execute stops it, and mmiod's decoder does that instruction.
Exceptions of the guest are its own affair, interrupts are not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from attrs import frozen

from mmiod.values import Delta, Direction, ExtendedState, Intent, RegisterSet, Space, VcpuState
from mmiod.vmm.guest import PAGE, GuestMemory

MAX_CODE: Final = 15
"""Bytes of an instruction."""

Perform = Callable[[Space, Direction, int, int, int, bytes], bytes]
"""(space, direction, address, size, count, data of a write) -> data of a read: `count` elements."""


class TripleFault(Exception):
    """The vCPU shuts down; a PC resets then."""


class Unable(Exception):
    """The guest asks for what this accelerator does not do; the message says what."""


@frozen
class Paused:
    """It was armed to stop here, or something may have arrived."""


@frozen
class Halted:
    """The vCPU executed HLT; RIP is behind it."""


@frozen
class Touched:
    """The instruction at RIP is mmiod's to execute; `gpa` is what it touches, if that is known."""

    gpa: int | None = None
    intent: Intent | None = None


Stop = Paused | Halted | Touched


class Accelerator(Protocol):
    """One vCPU.  Everything but `arm` and `count` is called only while it does not run."""

    @property
    def count(self) -> int:
        """Instructions executed so far; 0 if it does not count them."""

    @property
    def interruptible(self) -> bool:
        """Whether an interrupt would be taken now."""

    @property
    def interrupts_enabled(self) -> bool:
        """RFLAGS.IF."""

    def arm(self, limit: int, *, interrupt: bool) -> None:
        """For this or the next run: pause at `limit` instructions (0: at once) and, if `interrupt`,
        where one can be taken.
        """

    def run(self) -> Stop:
        """Execute until something stops the vCPU.

        Raises:
            TripleFault: the vCPU has shut down.
            Unable: this accelerator cannot go on.
        """

    def state(self) -> VcpuState:
        """The registers, for an exit."""

    def code(self) -> bytes:
        """Up to 15 bytes of the instruction that was `Touched`'s reason."""

    def translate(self, linear: int, intent: Intent, /) -> int | None:
        """The physical address of a linear one; None where the access would fault."""

    def vectors(self, sets: RegisterSet) -> ExtendedState:
        """Vector registers, as far as these sets have them.

        Raises:
            Unable: this accelerator does not have such a set.
        """

    def apply(self, delta: Delta) -> None:
        """Write back what an instruction did that mmiod executed."""

    def interrupt(self, vector: int) -> None:
        """Deliver an interrupt; the vCPU is interruptible."""

    def fault(self, vector: int, error_code: int | None, cr2: int | None) -> None:
        """Raise an exception at the current instruction."""

    def trap(self, bits: int) -> None:
        """Raise #DB at the current instruction, with these bits in DR6."""

    def reset(self) -> None:
        """The state after a reset; memory keeps what it holds."""


def fetch(cpu: Accelerator, memory: GuestMemory, linear: int, size: int) -> bytes:
    """Instruction bytes from a linear address; fewer where they cannot be fetched."""
    data = b""
    while len(data) < size:
        at = linear + len(data)
        gpa = cpu.translate(at, Intent.EXECUTE)
        part = b"" if gpa is None else memory.read(gpa, min(size - len(data), PAGE - at % PAGE))
        if not part:
            break
        data += part
    return data
