"""Words of the configuration header (6.2): who a function is, command and status.

Numbers in comments are sections of the PCI Local Bus Specification 3.0.
"""

from __future__ import annotations

import enum

from attrs import frozen

from mmiod.device.flags import plain


@frozen
class Identity:
    """What a function calls itself (6.2.1): IDs, 24-bit class code, revision, subsystem."""

    vendor: int
    device: int
    class_code: int
    revision: int = 0
    subsystem_vendor: int = 0
    subsystem: int = 0


@plain
class Command(enum.IntFlag):
    """The command register (6.2.2)."""

    IO_SPACE = 1 << 0
    MEMORY_SPACE = 1 << 1
    BUS_MASTER = 1 << 2
    SPECIAL_CYCLES = 1 << 3
    WRITE_INVALIDATE = 1 << 4
    PALETTE_SNOOP = 1 << 5
    PARITY_RESPONSE = 1 << 6
    SERR_ENABLE = 1 << 8
    FAST_BACK_TO_BACK = 1 << 9
    INTERRUPT_DISABLE = 1 << 10


@plain
class Status(enum.IntFlag):
    """The status register (6.2.3); the error bits are cleared by writing 1."""

    INTERRUPT = 1 << 3
    CAPABILITIES = 1 << 4
    FAST_BACK_TO_BACK = 1 << 7
    MASTER_PARITY_ERROR = 1 << 8
    DEVSEL_MEDIUM = 1 << 9
    SIGNALED_TARGET_ABORT = 1 << 11
    RECEIVED_TARGET_ABORT = 1 << 12
    RECEIVED_MASTER_ABORT = 1 << 13
    SIGNALED_SYSTEM_ERROR = 1 << 14
    DETECTED_PARITY_ERROR = 1 << 15
