"""What an instruction works on: registers, immediates, memory.

`read` gives an operand's value.  A register's `merged` gives the 64-bit value that a
write leaves behind: 32-bit writes clear bits 63:32, narrower ones keep the rest
(SDM vol. 1, 3.4.1.1).
"""

from __future__ import annotations

from attrs import field, frozen

from mmiod.values import VcpuState

RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)


def signed(value: int, size: int) -> int:
    """`value` of `size` bytes as a two's complement number."""
    sign = 1 << 8 * size - 1
    return (value ^ sign) - sign


@frozen
class Register:
    """A general register's low `size` bytes, or AH, CH, DH, BH with `shift` 8."""

    number: int
    size: int
    shift: int = 0
    mask: int = field(init=False)

    @mask.default
    def _mask(self) -> int:
        return (1 << 8 * self.size) - 1

    def read(self, vcpu: VcpuState) -> int:
        """The register's value, zero-extended."""
        return vcpu.gpr[self.number] >> self.shift & self.mask

    def merged(self, vcpu: VcpuState, value: int) -> int:
        """The 64-bit register after a write of `value`."""
        if self.size >= 4:
            return value
        return vcpu.gpr[self.number] & ~(self.mask << self.shift) | value << self.shift


@frozen
class Selector:
    """A segment register, as MOV stores it."""

    number: int

    def read(self, vcpu: VcpuState) -> int:
        """The selector."""
        return vcpu.segments[self.number].selector


@frozen
class Immediate:
    """A constant, already extended to its instruction's operand size."""

    value: int

    def read(self, _vcpu: VcpuState) -> int:
        """The constant."""
        return self.value


@frozen
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


Source = Register | Selector | Immediate
Operand = Source | Memory
