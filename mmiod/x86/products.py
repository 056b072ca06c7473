"""Multiplication and division (SDM vol. 2, MUL, IMUL, DIV, IDIV).

SF, ZF, AF and PF are undefined after a multiplication, all flags after a division; they
stay as they are.
"""

from __future__ import annotations

from typing import Final

from mmiod.x86.flags import CF, OF, Operation, only
from mmiod.x86.operands import mask_of, signed


def product(left: int, right: int, size: int) -> tuple[int, bool]:
    """MUL: the double-width result, and whether its upper half matters."""
    wide = left * right
    return wide, bool(wide >> 8 * size)


def signed_product(left: int, right: int, size: int) -> tuple[int, bool]:
    """IMUL: as `product`, two's complement."""
    wide = signed(left, size) * signed(right, size)
    return wide & mask_of(2 * size), wide != signed(wide & mask_of(size), size)


def quotient(dividend: int, divisor: int, size: int) -> tuple[int, int] | None:
    """DIV of a double-width dividend: quotient and remainder, None for #DE."""
    if not divisor or dividend // divisor > mask_of(size):
        return None
    return divmod(dividend, divisor)


def signed_quotient(dividend: int, divisor: int, size: int) -> tuple[int, int] | None:
    """IDIV: as `quotient`, rounded towards 0; the remainder has the dividend's sign."""
    left, right = signed(dividend, 2 * size), signed(divisor, size)
    if not right:
        return None
    magnitude, rest = divmod(abs(left), abs(right))
    result = magnitude if (left < 0) == (right < 0) else -magnitude
    if not -(1 << 8 * size - 1) <= result < 1 << 8 * size - 1:
        return None
    return result & mask_of(size), (-rest if left < 0 else rest) & mask_of(size)


def _truncated(left: int, right: int, before: int, size: int) -> tuple[int, int]:
    """IMUL with a destination of its own: the lower half."""
    wide, overflow = signed_product(left, right, size)
    return wide & mask_of(size), carried(overflow, before)


def carried(overflow: bool, before: int) -> int:
    """CF and OF tell that a product's upper half matters."""
    return only(CF | OF, CF | OF if overflow else 0, before)


MULTIPLICATIONS: Final = {"mul": product, "imul": signed_product}
DIVISIONS: Final = {"div": quotient, "idiv": signed_quotient}
PRODUCTS: Final[dict[str, Operation]] = {"imul": _truncated}
"""By mnemonic."""
