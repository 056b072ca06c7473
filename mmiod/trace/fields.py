"""Field names in an access, for people."""

from __future__ import annotations

from mmiod.device import Register
from mmiod.values import ones


def decode(register: Register, offset: int, size: int, value: int) -> dict[str, int]:
    """The fields of a register that an access at `offset` of its region covers whole.

    The access may begin inside the register or before it, and end behind it.
    """
    shift = 8 * (offset - register.offset)
    covered, placed = ones(size), value
    if shift >= 0:
        covered, placed = covered << shift, placed << shift
    else:
        covered, placed = covered >> -shift, placed >> -shift
    return {name: bits.of(placed) for name, bits in register.bits.items() if not bits.mask & ~covered}
