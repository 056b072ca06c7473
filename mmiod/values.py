"""The words every layer shares: accesses, exits, completions and vCPU state.

All addresses and values are unsigned Python ints.  `size` is bytes, `length` is a
region's bytes.  General registers are numbered as x86 encodes them (rax 0, rcx 1,
rdx 2, rbx 3, rsp 4, rbp 5, rsi 6, rdi 7, r8..r15), segments likewise (es 0, cs 1,
ss 2, ds 3, fs 4, gs 5), so that no layer keeps a table of names to get wrong.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from attrs import define, field, frozen


class Space(enum.IntEnum):
    """An address space in which devices claim regions."""

    MMIO = 0
    PIO = 1
    PCI_CONFIG = 2
    """Address: bus << 20 | device << 15 | function << 12 | register (the ECAM offset)."""
    MSR = 3


class Direction(enum.IntEnum):
    """Which way the value travels, seen from the vCPU."""

    READ = 0
    WRITE = 1


READ: Final = Direction.READ
WRITE: Final = Direction.WRITE


class Intent(enum.IntEnum):
    """What a memory operand is translated for."""

    READ = 0
    WRITE = 1
    EXECUTE = 2


def ones(size: int) -> int:
    """What an access of `size` bytes reads where nobody answers."""
    return (1 << 8 * size) - 1


@frozen
class Access:
    """One read or write of `size` bytes at a physical address, port, config offset or MSR."""

    space: Space
    direction: Direction
    address: int
    size: int
    value: int = 0


@define
class Segment:
    """A segment register with its hidden part.

    `attributes` are the low 16 bits of the VMX access-rights word (SDM vol. 3, 25.4.1):
    type 3:0, S 4, DPL 6:5, P 7, AVL 12, L 13, D/B 14, G 15.  `limit` is in bytes.
    """

    base: int = 0
    limit: int = 0
    selector: int = 0
    attributes: int = 0


ES, CS, SS, DS, FS, GS = range(6)


NO_SEGMENTS: Final[Mapping[int, Segment]] = MappingProxyType({})


def _segments() -> list[Segment]:
    return [Segment() for _ in range(6)]


class RegisterSet(enum.IntFlag):
    """Register sets that travel only when asked for: what XSAVE stores apart (SDM vol. 1, 13.1)."""

    X87 = 1
    """The x87 environment and registers, in whose low halves MMX's are."""
    SSE = 2
    """Bits 127:0 of zmm0-15."""
    AVX = 4
    """Bits 255:128 of zmm0-15."""
    AVX512 = 8
    """k0-7, bits 511:256 of zmm0-15, and zmm16-31."""
    GENERAL = 16
    """All of `VcpuState` but what travels only when asked for: for exit sources whose structure lacks it."""
    PASID = 32
    """IA32_PASID, for ENQCMD."""
    DEBUG = 64
    """DR0-3, where DR7 enables breakpoints on data or ports."""


NO_REGISTERS: Final = RegisterSet(0)


@define
class ExtendedState:
    """Registers that travel only when asked for, as far as their sets were supplied; other bits are 0.

    `zmm` are 32 numbers of 512 bits, `k` 8 of 64.  `x87` are the first 160 bytes that
    FXSAVE stores (SDM vol. 1, table 10-2); empty if not supplied.
    """

    sets: RegisterSet = NO_REGISTERS
    zmm: list[int] = field(factory=lambda: [0] * 32)
    k: list[int] = field(factory=lambda: [0] * 8)
    x87: bytes = b""
    pasid: int = 0
    dr: list[int] = field(factory=lambda: [0] * 4)


@define
class VectorDelta:
    """What one instruction did to the vector registers, by number.

    `xmm` are new bits 127:0, those above stay as they are; `zmm` are all 512 bits, of
    which the vCPU takes as many as it has.  `x87` is empty if it did not change.
    """

    xmm: dict[int, int] = field(factory=dict)
    zmm: dict[int, int] = field(factory=dict)
    k: dict[int, int] = field(factory=dict)
    x87: bytes = b""


@define
class VcpuState:
    """The part of a vCPU that an instruction's execution reads.

    Mutable: one is built per exit.  Executing never changes it; changes are a `Delta`.
    """

    gpr: list[int] = field(factory=lambda: [0] * 16)
    rip: int = 0
    rflags: int = 2
    segments: list[Segment] = field(factory=_segments)
    tr: Segment = field(factory=Segment)
    ldtr: Segment = field(factory=Segment)
    gdtr: Segment = field(factory=Segment)
    idtr: Segment = field(factory=Segment)
    cpl: int = 0
    cr0: int = 0
    cr2: int = 0
    cr3: int = 0
    cr4: int = 0
    efer: int = 0
    xcr0: int = 0
    dr6: int = 0
    dr7: int = 0
    extended: ExtendedState | None = None
    """None until a plan asks for a set, which most never do."""

    def lacking(self, sets: RegisterSet) -> RegisterSet:
        """What to ask for so that `sets` are known, those that are known included; else nothing."""
        known = self.extended.sets if self.extended else NO_REGISTERS
        return NO_REGISTERS if sets in known else sets | known


@define
class Delta:
    """What one instruction (or one batch of its iterations) did to the vCPU.

    `registers` maps a general register's number to its new 64-bit value.  `memory`
    holds (gpa, bytes) writes to RAM that only the hypervisor can reach; RAM that is
    mapped here was already written.  `rip` still points at the instruction while a
    REP has iterations left.  `debug` are the bits that DR6 gets from the #DB to raise
    then (0: none): BS, and B0-B3 of breakpoints on data.
    """

    rip: int
    rflags: int
    registers: dict[int, int] = field(factory=dict)
    memory: list[tuple[int, bytes]] = field(factory=list)
    vectors: VectorDelta | None = None
    debug: int = 0
    shadow: bool = False
    """MOV SS, POP SS: interrupts and `debug` wait until the next instruction is done."""
    segments: Mapping[int, Segment] = NO_SEGMENTS
    """Segment registers that were loaded, by number."""


# --- exits ---------------------------------------------------------------------------


@define
class DecodedExit:
    """An access that the hypervisor decoded: `count` elements of `size` bytes.

    `data` holds the elements of a write, little-endian, `count * size` bytes; it is
    empty for a read.  With `stride` 0 (a port's string) all elements go to `address`;
    with +1 or -1 they go to ascending or descending addresses.
    """

    vcpu: int
    sequence: int
    space: Space
    direction: Direction
    address: int
    size: int
    count: int = 1
    stride: int = 0
    data: bytes = b""


@define
class RawExit:
    """An instruction to execute: up to 15 bytes (perhaps short or stale) and the state.

    `gpa` and `gva` are the faulting address if the hardware told; `intent` is what
    it was touched for.  `translations` maps (gva page, Intent) to a gpa page, `memory`
    (gpa, bytes) holds what the hypervisor supplied after need-translation and need-memory.
    """

    vcpu: int
    sequence: int
    state: VcpuState
    code: bytes = b""
    gpa: int | None = None
    gva: int | None = None
    intent: Intent | None = None
    event_delivery: bool = False
    translations: dict[tuple[int, Intent], int] = field(factory=dict)
    memory: list[tuple[int, bytes]] = field(factory=list)


@define
class HaltExit:
    """The vCPU executed HLT: completed when an interrupt is pending for it."""

    vcpu: int
    sequence: int


@define
class TickExit:
    """Guest time has passed (virtual time only): completed at once, after due timers ran."""

    vcpu: int
    sequence: int


@define
class AcknowledgeExit:
    """INTA: the vCPU takes the pending interrupt; the completion's value is its vector."""

    vcpu: int
    sequence: int


Exit = DecodedExit | RawExit | HaltExit | TickExit | AcknowledgeExit


# --- completions ---------------------------------------------------------------------


@frozen
class Values:
    """A decoded exit is done: `data` are the elements of a read, empty for a write."""

    data: bytes = b""


@frozen
class Done:
    """A raw exit is done: apply `delta`; an interrupt shadow ends, unless that begins one."""

    delta: Delta


@frozen
class Fault:
    """Raise this exception in the guest; no register changed except as `delta` says.

    `delta` is there when a REP got some iterations done before the one that faulted.
    """

    vector: int
    error_code: int | None = None
    cr2: int | None = None
    delta: Delta | None = None


@frozen
class Retry:
    """Enter the guest again at the same instruction; nothing was done."""


@frozen
class NeedBytes:
    """Send the exit again with `count` more instruction bytes, from linear address `address`."""

    address: int
    count: int


@frozen
class NeedMemory:
    """Send the exit again with these bytes of guest RAM."""

    gpa: int
    size: int


@frozen
class NeedTranslation:
    """Send the exit again with the translation of `gva` for `intent` at privilege `cpl`."""

    gva: int
    intent: Intent
    cpl: int


@frozen
class NeedRegisters:
    """Send the exit again with these register sets."""

    registers: RegisterSet


@frozen
class Unsupported:
    """mmiod does not execute this instruction; `code` are the bytes it looked at."""

    code: bytes


class Refusal(enum.IntEnum):
    """Why a well-formed exit has no instruction to execute."""

    EVENT_DELIVERY = 1
    """The access came from delivering an event, not from an instruction."""
    ADDRESS_MISMATCH = 2
    """The instruction does not touch the page that the exit names."""
    MMIO_FETCH = 3
    """The instruction would have to be fetched from a device."""


@frozen
class Refused:
    """The exit cannot be completed; nothing was done."""

    reason: Refusal


@frozen
class Forward:
    """Nobody claims the address and its range says `forward`: the hypervisor's to answer."""


Completion = (
    Values
    | Done
    | Fault
    | Retry
    | NeedBytes
    | NeedMemory
    | NeedTranslation
    | NeedRegisters
    | Unsupported
    | Refused
    | Forward
)
