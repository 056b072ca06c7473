"""Arithmetic results and the flags they set (SDM vol. 1, 3.4.3.1 and appendix A).

An operation takes (left, right, carry, size in bytes) and gives (result, flags); the
flags are all of `ARITHMETIC`.  AF of the logic operations is undefined; it is 0 here,
as processors have it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

CF: Final = 1 << 0
PF: Final = 1 << 2
AF: Final = 1 << 4
ZF: Final = 1 << 6
SF: Final = 1 << 7
DF: Final = 1 << 10
OF: Final = 1 << 11
RF: Final = 1 << 16
ARITHMETIC: Final = CF | PF | AF | ZF | SF | OF

Operation = Callable[[int, int, int, int], tuple[int, int]]


def _of_result(result: int, bits: int) -> int:
    """SF, ZF and PF."""
    flags = SF if result >> bits - 1 else 0
    if not result:
        flags |= ZF
    return flags if (result & 0xFF).bit_count() & 1 else flags | PF


def _with_carry(left: int, right: int, total: int, overflow: int, bits: int) -> tuple[int, int]:
    """`total` is the unbounded sum; `overflow` has the sign bit set if signed numbers overflow."""
    result = total & (1 << bits) - 1
    flags = _of_result(result, bits) | (left ^ right ^ result) & AF
    if total != result:
        flags |= CF
    if overflow >> bits - 1 & 1:
        flags |= OF
    return result, flags


def add_with_carry(left: int, right: int, carry: int, size: int) -> tuple[int, int]:
    """ADC."""
    total = left + right + carry
    return _with_carry(left, right, total, (left ^ total) & (right ^ total), 8 * size)


def subtract_with_borrow(left: int, right: int, carry: int, size: int) -> tuple[int, int]:
    """SBB."""
    total = left - right - carry
    return _with_carry(left, right, total, (left ^ right) & (left ^ total), 8 * size)


def add(left: int, right: int, _carry: int, size: int) -> tuple[int, int]:
    """ADD."""
    return add_with_carry(left, right, 0, size)


def subtract(left: int, right: int, _carry: int, size: int) -> tuple[int, int]:
    """SUB, CMP."""
    return subtract_with_borrow(left, right, 0, size)


def conjunction(left: int, right: int, _carry: int, size: int) -> tuple[int, int]:
    """AND, TEST."""
    result = left & right
    return result, _of_result(result, 8 * size)


def disjunction(left: int, right: int, _carry: int, size: int) -> tuple[int, int]:
    """OR."""
    result = left | right
    return result, _of_result(result, 8 * size)


def exclusive_disjunction(left: int, right: int, _carry: int, size: int) -> tuple[int, int]:
    """XOR."""
    result = left ^ right
    return result, _of_result(result, 8 * size)


OPERATIONS: Final[dict[str, Operation]] = {
    "add": add,
    "or": disjunction,
    "adc": add_with_carry,
    "sbb": subtract_with_borrow,
    "and": conjunction,
    "sub": subtract,
    "xor": exclusive_disjunction,
    "cmp": subtract,
    "test": conjunction,
}
"""By mnemonic."""
