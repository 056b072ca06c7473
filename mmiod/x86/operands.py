"""What an instruction works on: registers, immediates, memory.

`read` gives an operand's value.  A register's `merged` gives the 64-bit value that a
write leaves behind: 32-bit writes clear bits 63:32, narrower ones keep the rest
(SDM vol. 1, 3.4.1.1).
"""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

from mmiod.values import VcpuState
from mmiod.x86.vector_operands import VectorOperand

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)


def signed(value: int, size: int) -> int:
    """`value` of `size` bytes as a two's complement number."""
    sign = 1 << 8 * size - 1
    return (value ^ sign) - sign


def mask_of(size: int) -> int:
    """All bits of `size` bytes."""
    return (1 << 8 * size) - 1


@frozen
class Register:
    """A general register's low `size` bytes, or AH, CH, DH, BH with `shift` 8."""

    number: int
    size: int
    shift: int = 0
    mask: int = field(init=False)

    @mask.default
    def _mask(self) -> int:
        return mask_of(self.size)

    def read(self, vcpu: VcpuState) -> int:
        """The register's value, zero-extended."""
        return vcpu.gpr[self.number] >> self.shift & self.mask

    def merged(self, vcpu: VcpuState, value: int) -> int:
        """The 64-bit register after a write of `value`."""
        if self.size >= 4:
            return value
        return vcpu.gpr[self.number] & ~(self.mask << self.shift) | value << self.shift


GENERAL: Final = {size: [Register(number, size) for number in range(16)] for size in (1, 2, 4, 8)}
"""By size and number; bytes are those of an instruction with REX."""
LEGACY_BYTES: Final = GENERAL[1][:4] + [Register(number, 1, shift=8) for number in range(4)]
"""Bytes by number without REX."""


@frozen
class Selector:
    """A segment register, as MOV stores and loads it."""

    number: int

    def read(self, vcpu: VcpuState) -> int:
        """The selector."""
        return vcpu.segments[self.number].selector


@define
class Immediate:
    """A constant, already extended to its instruction's operand size."""

    value: int

    def read(self, _vcpu: VcpuState) -> int:
        """The constant."""
        return self.value


@define
class Memory:
    """`size` bytes at segment:[base + index * 2**scale + displacement] (SDM vol. 1, 3.7.5).

    `mask` is the address size; `relative` adds RIP, and the displacement then counts
    from the start of the instruction.
    """

    size: int
    segment: int
    mask: int
    base: int | None = None
    index: int | None = None
    scale: int = 0
    displacement: int = 0
    relative: bool = False

    def offset(self, vcpu: VcpuState) -> int:
        """The effective address."""
        total = self.displacement
        if self.base is not None:
            total += vcpu.gpr[self.base]
        if self.index is not None:
            total += vcpu.gpr[self.index] << self.scale
        if self.relative:
            total += vcpu.rip
        return total & self.mask


@define
class BitString(Memory):
    """The element of a bit string that holds a register's bit (SDM vol. 1, 4.6: BT and its kin)."""

    bit: Register = GENERAL[8][RAX]

    def offset(self, vcpu: VcpuState) -> int:
        """The element's address; the register is signed, so it may lie below the operand."""
        element = signed(self.bit.read(vcpu), self.size) // (8 * self.size)
        return Memory.offset(self, vcpu) + element * self.size & self.mask


@define
class Table(Memory):
    """The byte of a table that AL chooses (SDM vol. 2, XLAT)."""

    def offset(self, vcpu: VcpuState) -> int:
        """The table's address plus AL."""
        return Memory.offset(self, vcpu) + (vcpu.gpr[RAX] & 0xFF) & self.mask


Source = Register | Selector | Immediate
Operand = Source | Memory | VectorOperand
