"""BMI1 and BMI2: general registers by VEX (SDM vol. 2, ANDN .. TZCNT; vol. 1, 5.1.16).

Flags that are undefined are as of an ordinary logic operation.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmiod.values import Delta, VcpuState
from mmiod.x86 import faults, segments
from mmiod.x86.decoder import Instruction
from mmiod.x86.execution import completed
from mmiod.x86.faults import GuestFault
from mmiod.x86.flags import CF, ZF, of_result
from mmiod.x86.flows import Shape, reading
from mmiod.x86.operands import GENERAL, RDX, Immediate, Memory, Register, mask_of, signed
from mmiod.x86.steps import Run

Operation = Callable[[int, int, int], tuple[int, int | None]]
"""(value in memory, other source, size in bytes) to (result, arithmetic flags if it sets them)."""


def _logic(result: int, size: int, *, carry: bool = False) -> tuple[int, int]:
    return result, of_result(result, 8 * size) | CF * carry


def _low_bits(value: int, index: int, size: int) -> tuple[int, int]:
    """BZHI: the bits below the index, which has 8 bits."""
    count = index & 0xFF
    return _logic(value & (1 << count) - 1, size, carry=count >= 8 * size)


def _field(value: int, where: int, _size: int) -> tuple[int, int]:
    """BEXTR: the start in bits 7:0 of the register, the length in 15:8."""
    result = value >> (where & 0xFF) & (1 << (where >> 8 & 0xFF)) - 1
    return result, ZF * (not result)


def _gathered(mask: int, source: int, _size: int) -> tuple[int, None]:
    """PEXT: the bits of the source that the mask has, next to each other."""
    result = at = 0
    while mask:
        lowest = mask & -mask
        result |= bool(source & lowest) << at
        mask, at = mask ^ lowest, at + 1
    return result, None


def _scattered(mask: int, source: int, _size: int) -> tuple[int, None]:
    """PDEP: the low bits of the source at the places that the mask has."""
    result = 0
    while mask:
        lowest = mask & -mask
        result |= lowest * (source & 1)
        mask, source = mask ^ lowest, source >> 1
    return result, None


def _rotated(value: int, count: int, size: int) -> tuple[int, None]:
    """RORX."""
    count %= 8 * size
    return (value >> count | value << 8 * size - count) & mask_of(size), None


_OPERATIONS: Final[dict[str, Operation]] = {
    "andn": lambda value, other, size: _logic(value & ~other, size),
    "blsr": lambda value, _, size: _logic(value & value - 1, size, carry=not value),
    "blsmsk": lambda value, _, size: _logic((value ^ value - 1) & mask_of(size), size, carry=not value),
    "blsi": lambda value, _, size: _logic(value & -value, size, carry=bool(value)),
    "bzhi": _low_bits,
    "bextr": _field,
    "pext": _gathered,
    "pdep": _scattered,
    "rorx": _rotated,
    "sarx": lambda value, count, size: (signed(value, size) >> count % (8 * size) & mask_of(size), None),
    "shlx": lambda value, count, size: (value << count % (8 * size) & mask_of(size), None),
    "shrx": lambda value, count, size: (value >> count % (8 * size), None),
}


def _bits(
    i: Instruction,
    vcpu: VcpuState,
    value: int,
    register: Register,
    *sources: Register | Memory | Immediate,
) -> Delta:
    """The first register from memory and the other source, if there is one."""
    other = next((source.read(vcpu) for source in sources if not isinstance(source, Memory)), 0)
    result, flags = _OPERATIONS[i.opcode.mnemonic](value, other, register.size)
    return completed(i, vcpu, {register.number: result}, flags)


def _multiply(
    i: Instruction, vcpu: VcpuState, value: int, high: Register, low: Register, _memory: Memory
) -> Delta:
    """MULX: rDX times memory; if both results go to one register, it gets the high half."""
    product = GENERAL[low.size][RDX].read(vcpu) * value
    return completed(i, vcpu, {low.number: product & low.mask, high.number: product >> 8 * low.size})


def _protected(shape: Shape) -> Shape:
    """There is no VEX in real and virtual-8086 mode."""

    def checked(i: Instruction, vcpu: VcpuState, *operands: object) -> Run:
        if not segments.protected(vcpu):
            raise GuestFault(faults.UD)
        return (yield from shape(i, vcpu, *operands))

    return checked


SHAPES: Final = {"bits": _protected(reading(_bits)), "multiply_bits": _protected(reading(_multiply))}
"""By the opcode table's third column."""
