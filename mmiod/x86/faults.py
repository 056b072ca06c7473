"""What ends a plan early: a fault of the guest, or something the driver has to get first."""

from __future__ import annotations

from typing import Final

from mmiod.values import Completion, Delta

DE: Final = 0
UD: Final = 6
NM: Final = 7
NP: Final = 11
SS: Final = 12
GP: Final = 13
PF: Final = 14
MF: Final = 16
AC: Final = 17


class GuestFault(Exception):
    """The instruction raises this exception in the guest.

    Thrown into a plan by its driver (a page fault, where `mmiod.x86.steps` allows it) or raised by it.
    `delta` is there when iterations of a REP were done before the one that faulted.
    """

    def __init__(self, vector: int, error_code: int | None = None, cr2: int | None = None) -> None:
        super().__init__(vector, error_code, cr2)
        self.vector = vector
        self.error_code = error_code
        self.cr2 = cr2
        self.delta: Delta | None = None


class Suspend(Exception):
    """Nothing more can be done before the hypervisor acted on `completion`.

    Thrown by the driver as a fault is, raised by a plan whose compare-and-swap lost.
    A REP that got some iterations done returns their delta instead.
    """

    def __init__(self, completion: Completion) -> None:
        super().__init__(completion)
        self.completion = completion
