"""A hypervisor's CPU that executes nothing: its exits are recorded ones, for where KVM is not."""

from __future__ import annotations

import struct
from typing import Final

from attrs import define, evolve, field

from mmiod.values import (
    CS,
    WRITE,
    Delta,
    ExtendedState,
    Intent,
    RegisterSet,
    Segment,
    Space,
    VcpuState,
    VectorDelta,
)  # fmt: skip
from mmiod.vmm.accelerator import Paused, Stop, Touched
from mmiod.vmm.vcpu import Vcpu
from tests.functional.guests import CONFIGURATION, DEVICE, PATTERN, REGISTERS

XCR0: Final = 0xE7
"""All vector registers up to AVX-512's."""
_RSI, _RDI = 6, 7
_PML4, _PDPT, _CODE_AT = 0x1000, 0x2000, 0x8000
_GIB_PAGE: Final = 0xE3
"""Present, writable, accessed, dirty, 1 GiB."""
_SLEEP: Final = (0x604, 0x2000)
"""Where power management is put, and what turns the machine off."""


@define
class Replayed:
    """An accelerator whose guest consists of instructions that it cannot execute."""

    vcpu: Vcpu
    codes: list[bytes]
    now: VcpuState
    known: ExtendedState = field(factory=ExtendedState)
    lengths: list[int] = field(factory=list)
    count: int = 0
    interruptible: bool = False
    interrupts_enabled: bool = False
    _ready: bool = False

    def arm(self, limit: int, *, interrupt: bool) -> None:
        """It stops all the time."""

    def run(self) -> Stop:
        """The next instruction, or the end of the machine."""
        if not self._ready:
            self._ready = True
            self._prepare()
        if not self.codes:
            self._out(*_SLEEP, 2)
            return Paused()
        self.now.rip = _CODE_AT
        self.vcpu.memory.write(_CODE_AT, self.codes[0])
        return Touched()

    def _prepare(self) -> None:
        for register, value in CONFIGURATION.items():
            self._out(0xCF8, register, 4)
            self._out(0xCFC, value, 4)
        for at, byte in enumerate(PATTERN):
            self.vcpu.perform(Space.MMIO, WRITE, DEVICE + at, 1, 1, bytes([byte]))
        self.vcpu.memory.write(_PML4, struct.pack("<Q", _PDPT | 3))
        self.vcpu.memory.write(_PDPT, struct.pack("<4Q", *(at << 30 | _GIB_PAGE for at in range(4))))

    def _out(self, port: int, value: int, size: int) -> None:
        self.vcpu.perform(Space.PIO, WRITE, port, size, 1, value.to_bytes(size, "little"))

    def state(self) -> VcpuState:
        """As the guest left it."""
        return self.now

    def code(self) -> bytes:
        """What KVM reported."""
        return self.codes[0]

    def translate(self, linear: int, intent: Intent, /) -> int | None:  # noqa: ARG002
        """Paging maps each page to itself."""
        return linear

    def vectors(self, sets: RegisterSet) -> ExtendedState:
        """What the instructions so far made of them."""
        return evolve(self.known, sets=sets)

    def apply(self, delta: Delta) -> None:
        """Write back."""
        self.lengths.append(delta.rip - _CODE_AT)
        self.now.rip, self.now.rflags = delta.rip, delta.rflags
        for number, value in delta.registers.items():
            self.now.gpr[number] = value
        for gpa, data in delta.memory:
            self.vcpu.memory.write(gpa, data)
        self._apply(delta.vectors or VectorDelta())
        del self.codes[0]

    def _apply(self, delta: VectorDelta) -> None:
        zmm = self.known.zmm
        for number, value in delta.xmm.items():
            zmm[number] = zmm[number] >> 128 << 128 | value
        for number, value in delta.zmm.items():
            zmm[number] = value
        for number, value in delta.k.items():
            self.known.k[number] = value

    def interrupt(self, vector: int) -> None:
        """Never: interrupts are off."""

    def fault(self, vector: int, error_code: int | None, cr2: int | None) -> None:
        """Not here."""
        raise AssertionError((vector, error_code, cr2))

    def trap(self, bits: int) -> None:
        """Not here."""
        raise AssertionError(bits)

    def reset(self) -> None:
        """Never."""


def flat(rflags: int, registers: dict[int, int]) -> VcpuState:
    """The guest's state: 64-bit code, each page mapped to itself."""
    state = VcpuState(rflags=rflags, cr0=0x8000_0011, cr3=_PML4, cr4=0x40220, efer=0x500, xcr0=XCR0)
    state.segments = [Segment(0, 0xFFFF_FFFF, 16, 0xC093) for _ in range(6)]
    state.segments[CS] = Segment(0, 0xFFFF_FFFF, 8, 0xA09B)
    for number, value in {_RDI: DEVICE, _RSI: REGISTERS, **registers}.items():
        state.gpr[number] = value
    return state
