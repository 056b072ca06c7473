"""Shifts and rotations (SDM vol. 2, SAL/SAR/SHL/SHR, RCL/RCR/ROL/ROR, SHLD, SHRD).

The count is taken modulo 32, or 64 for operands of 8 bytes; a count of 0 then changes no
flag.  OF is defined for a count of 1 only; for others it is what processors and QEMU
agree on: the same function of the last step.  AF, undefined for shifts, stays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmiod.x86.flags import ARITHMETIC, CF, OF, PF, SF, ZF, Operation, of_result, only
from mmiod.x86.operands import signed

Step = Callable[[int, int, int, int], tuple[int, bool, bool]]
"""(value, count > 0, carry, bits) to (result, CF, OF)."""


def _shift(step: Step) -> Operation:
    def operation(value: int, count: int, before: int, size: int) -> tuple[int, int]:
        count &= 0x3F if size == 8 else 0x1F
        if not count:
            return value, before & ARITHMETIC
        result, carry, overflow = step(value, count, before & CF, 8 * size)
        flags = of_result(result, 8 * size) | CF * carry | OF * overflow
        return result, only(CF | PF | ZF | SF | OF, flags, before)

    return operation


def _rotation(step: Step) -> Operation:
    """A rotation changes CF and OF only."""

    def operation(value: int, count: int, before: int, size: int) -> tuple[int, int]:
        count &= 0x3F if size == 8 else 0x1F
        if not count:
            return value, before & ARITHMETIC
        result, carry, overflow = step(value, count, before & CF, 8 * size)
        return result, only(CF | OF, CF * carry | OF * overflow, before)

    return operation


def _left(value: int, count: int, _carry: int, bits: int) -> tuple[int, bool, bool]:
    wide = value << count
    result, carry = wide & (1 << bits) - 1, bool(wide >> bits & 1)
    return result, carry, carry != bool(result >> bits - 1)


def _right(value: int, count: int, _carry: int, bits: int) -> tuple[int, bool, bool]:
    last = value >> count - 1
    return last >> 1, bool(last & 1), bool(last >> bits - 1)


def _arithmetic_right(value: int, count: int, _carry: int, bits: int) -> tuple[int, bool, bool]:
    last = signed(value, bits // 8) >> count - 1
    return last >> 1 & (1 << bits) - 1, bool(last & 1), False


def _rotate_left(value: int, count: int, _carry: int, bits: int) -> tuple[int, bool, bool]:
    count %= bits
    result = (value << count | value >> bits - count) & (1 << bits) - 1
    return result, bool(result & 1), (result & 1) != result >> bits - 1


def _rotate_right(value: int, count: int, _carry: int, bits: int) -> tuple[int, bool, bool]:
    result, _, _ = _rotate_left(value, -count, 0, bits)
    top = result >> bits - 2
    return result, bool(top & 2), top in (1, 2)


def _through_carry_left(value: int, count: int, carry: int, bits: int) -> tuple[int, bool, bool]:
    """CF is one more bit, above the value."""
    wide, _, _ = _rotate_left(carry << bits | value, count, 0, bits + 1)
    result, out = wide & (1 << bits) - 1, wide >> bits
    return result, bool(out), out != result >> bits - 1


def _through_carry_right(value: int, count: int, carry: int, bits: int) -> tuple[int, bool, bool]:
    wide, _, _ = _rotate_left(carry << bits | value, -count, 0, bits + 1)
    top = wide >> bits - 2 & 3
    return wide & (1 << bits) - 1, bool(wide >> bits), top in (1, 2)


SHIFTS: Final[dict[str, Operation]] = {
    "shl": _shift(_left),
    "shr": _shift(_right),
    "sar": _shift(_arithmetic_right),
    "rol": _rotation(_rotate_left),
    "ror": _rotation(_rotate_right),
    "rcl": _rotation(_through_carry_left),
    "rcr": _rotation(_through_carry_right),
}
"""By mnemonic."""


def double_left(value: int, filler: int, count: int, before: int, size: int) -> tuple[int, int]:
    """SHLD.  A count beyond the size, possible for 2 bytes, is undefined; here the filler goes on."""
    bits = 8 * size
    wide = value << 2 * bits | filler << bits | value
    return _double(wide << count >> 2 * bits, value, count, before, size)


def double_right(value: int, filler: int, count: int, before: int, size: int) -> tuple[int, int]:
    """SHRD."""
    bits = 8 * size
    wide = value << 2 * bits | filler << bits | value
    last = wide >> count - 1 & 1 if count else 0
    return _double(last << bits | wide >> count & (1 << bits) - 1, value, count, before, size)


def _double(wide: int, value: int, count: int, before: int, size: int) -> tuple[int, int]:
    """`wide` has the bit shifted out last above the result."""
    if not count:
        return value, before & ARITHMETIC
    bits = 8 * size
    result = wide & (1 << bits) - 1
    flags = of_result(result, bits) | CF * (wide >> bits & 1) | OF * ((value ^ result) >> bits - 1)
    return result, only(CF | PF | ZF | SF | OF, flags, before)


DOUBLE_SHIFTS: Final = {"shld": double_left, "shrd": double_right}
"""By mnemonic; the count is already taken modulo 32 or 64."""
