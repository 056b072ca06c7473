"""Arithmetic results and the flags they set (SDM vol. 1, 3.4.3.1 and appendix A).

An operation takes (left, right, flags before, size in bytes) and gives (result, flags);
the flags are all of `ARITHMETIC`, those that it leaves alone as they were.  AF of the
logic operations is undefined; it is 0 here, as processors have it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

CF: Final = 1 << 0
PF: Final = 1 << 2
AF: Final = 1 << 4
ZF: Final = 1 << 6
SF: Final = 1 << 7
TF: Final = 1 << 8
DF: Final = 1 << 10
OF: Final = 1 << 11
RF: Final = 1 << 16
ARITHMETIC: Final = CF | PF | AF | ZF | SF | OF

Operation = Callable[[int, int, int, int], tuple[int, int]]


def of_result(result: int, bits: int) -> int:
    """SF, ZF and PF."""
    flags = SF if result >> bits - 1 else 0
    if not result:
        flags |= ZF
    return flags if (result & 0xFF).bit_count() & 1 else flags | PF


def only(changed: int, flags: int, before: int) -> int:
    """`flags` where `changed` has a bit, the flags before elsewhere."""
    return before & ARITHMETIC & ~changed | flags & changed


def _with_carry(left: int, right: int, total: int, overflow: int, bits: int) -> tuple[int, int]:
    """`total` is the unbounded sum; `overflow` has the sign bit set if signed numbers overflow."""
    result = total & (1 << bits) - 1
    flags = of_result(result, bits) | (left ^ right ^ result) & AF
    if total != result:
        flags |= CF
    if overflow >> bits - 1 & 1:
        flags |= OF
    return result, flags


def add_with_carry(left: int, right: int, before: int, size: int) -> tuple[int, int]:
    """ADC."""
    total = left + right + (before & CF)
    return _with_carry(left, right, total, (left ^ total) & (right ^ total), 8 * size)


def subtract_with_borrow(left: int, right: int, before: int, size: int) -> tuple[int, int]:
    """SBB."""
    total = left - right - (before & CF)
    return _with_carry(left, right, total, (left ^ right) & (left ^ total), 8 * size)


def add(left: int, right: int, _before: int, size: int) -> tuple[int, int]:
    """ADD."""
    return add_with_carry(left, right, 0, size)


def subtract(left: int, right: int, _before: int, size: int) -> tuple[int, int]:
    """SUB, CMP."""
    return subtract_with_borrow(left, right, 0, size)


def conjunction(left: int, right: int, _before: int, size: int) -> tuple[int, int]:
    """AND, TEST."""
    result = left & right
    return result, of_result(result, 8 * size)


def disjunction(left: int, right: int, _before: int, size: int) -> tuple[int, int]:
    """OR."""
    result = left | right
    return result, of_result(result, 8 * size)


def exclusive_disjunction(left: int, right: int, _before: int, size: int) -> tuple[int, int]:
    """XOR."""
    result = left ^ right
    return result, of_result(result, 8 * size)


def increment(value: int, _right: int, before: int, size: int) -> tuple[int, int]:
    """INC: CF stays."""
    result, flags = add(value, 1, 0, size)
    return result, only(ARITHMETIC & ~CF, flags, before)


def decrement(value: int, _right: int, before: int, size: int) -> tuple[int, int]:
    """DEC: CF stays."""
    result, flags = subtract(value, 1, 0, size)
    return result, only(ARITHMETIC & ~CF, flags, before)


def negate(value: int, _right: int, _before: int, size: int) -> tuple[int, int]:
    """NEG."""
    return subtract(0, value, 0, size)


def complement(value: int, _right: int, before: int, size: int) -> tuple[int, int]:
    """NOT: no flags."""
    return value ^ (1 << 8 * size) - 1, before & ARITHMETIC


def _carry_in(flag: int) -> Operation:
    def operation(left: int, right: int, before: int, size: int) -> tuple[int, int]:
        total = left + right + bool(before & flag)
        result = total & (1 << 8 * size) - 1
        return result, only(flag, flag if total != result else 0, before)

    return operation


def _without_flags(operation: Operation) -> Operation:
    def same(left: int, right: int, before: int, size: int) -> tuple[int, int]:
        return operation(left, right, before, size)[0], before & ARITHMETIC

    return same


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
    "inc": increment,
    "dec": decrement,
    "neg": negate,
    "not": complement,
    "xadd": add,
    "adcx": _carry_in(CF),
    "adox": _carry_in(OF),
    "aadd": _without_flags(add),
    "aand": _without_flags(conjunction),
    "aor": _without_flags(disjunction),
    "axor": _without_flags(exclusive_disjunction),
}
"""By mnemonic."""

_PREDICATES: Final[dict[str, Callable[[int], bool]]] = {
    "o": lambda flags: bool(flags & OF),
    "b": lambda flags: bool(flags & CF),
    "e": lambda flags: bool(flags & ZF),
    "be": lambda flags: bool(flags & (CF | ZF)),
    "s": lambda flags: bool(flags & SF),
    "p": lambda flags: bool(flags & PF),
    "l": lambda flags: bool(flags & SF) != bool(flags & OF),
    "le": lambda flags: bool(flags & ZF) or bool(flags & SF) != bool(flags & OF),
}
_OPPOSITES: Final = {"no": "o", "ae": "b", "ne": "e", "a": "be", "ns": "s", "np": "p", "ge": "l", "g": "le"}


def holds(condition: str, flags: int) -> bool:
    """Whether a condition (the end of the mnemonic) is met (SDM vol. 1, appendix B)."""
    opposite = _OPPOSITES.get(condition)
    return not _PREDICATES[opposite](flags) if opposite else _PREDICATES[condition](flags)
