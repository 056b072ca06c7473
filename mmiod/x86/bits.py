"""Operations on single bits, and CRC32 (SDM vol. 2, BT.., BSF, BSR, LZCNT, TZCNT, POPCNT, CRC32).

Operations as `mmiod.x86.flags` has them.  Flags that are undefined stay as they are, or
are 0 where AMD's processors and QEMU agree on that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmiod.x86.flags import ARITHMETIC, CF, PF, ZF, Operation, only

_POLYNOMIAL: Final = 0x82F63B78
"""CRC-32C, bit-reflected."""


def _bit(change: Callable[[int, int], int]) -> Operation:
    """CF becomes the bit that `change` (value, mask of the bit) then sets, clears or turns."""

    def operation(value: int, index: int, before: int, size: int) -> tuple[int, int]:
        mask = 1 << index % (8 * size)
        return change(value, mask), only(CF, CF if value & mask else 0, before)

    return operation


def _scan(index: Callable[[int], int]) -> Operation:
    """ZF tells that there is no bit; the destination then stays."""

    def operation(register: int, value: int, _before: int, _size: int) -> tuple[int, int]:
        return (index(value), 0) if value else (register, ZF | PF)

    return operation


def _counted(count: int, size: int) -> tuple[int, int]:
    """LZCNT and TZCNT: CF tells that there is no bit, ZF that the count is 0."""
    return count, CF * (count == 8 * size) | ZF * (not count)


def lowest(value: int) -> int:
    """The number of the lowest bit that is set."""
    return (value & -value).bit_length() - 1


def trailing_zeros(_register: int, value: int, _before: int, size: int) -> tuple[int, int]:
    """TZCNT."""
    return _counted(lowest(value) if value else 8 * size, size)


def leading_zeros(_register: int, value: int, _before: int, size: int) -> tuple[int, int]:
    """LZCNT."""
    return _counted(8 * size - value.bit_length(), size)


def population(_register: int, value: int, _before: int, _size: int) -> tuple[int, int]:
    """POPCNT."""
    return value.bit_count(), ZF * (not value)


def checksum(register: int, value: int, before: int, size: int) -> tuple[int, int]:
    """CRC32 with the polynomial 11EDC6F41 (Castagnoli)."""
    remainder = register & 0xFFFF_FFFF ^ value
    for _ in range(8 * size):
        remainder = remainder >> 1 ^ _POLYNOMIAL * (remainder & 1)
    return remainder, before & ARITHMETIC


BITS: Final[dict[str, Operation]] = {
    "bt": _bit(lambda value, _: value),
    "bts": _bit(lambda value, mask: value | mask),
    "btr": _bit(lambda value, mask: value & ~mask),
    "btc": _bit(lambda value, mask: value ^ mask),
    "bsf": _scan(lowest),
    "bsr": _scan(lambda value: value.bit_length() - 1),
    "tzcnt": trailing_zeros,
    "lzcnt": leading_zeros,
    "popcnt": population,
    "crc32": checksum,
}
"""By mnemonic."""
