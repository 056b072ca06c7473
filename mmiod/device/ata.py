"""What an ATA disk says of itself, for whatever interface it has.

Specification: T13 1410D revision 3b (ATA/ATAPI-6), 8.15 IDENTIFY DEVICE.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Final

HEADS, SECTORS_PER_TRACK = 16, 63
"""For firmware whose callers count cylinders."""
MAX_CYLINDERS: Final = 16383
MAX_SECTORS: Final = (1 << 28) - 1
"""That 28-bit addresses reach."""


def identity(sectors: int) -> bytes:
    """The 512 bytes of a disk after ATA/ATAPI-6 with this many sectors."""
    cylinders = min(sectors // (HEADS * SECTORS_PER_TRACK), MAX_CYLINDERS)
    words = {**IDENTITY, 1: cylinders, 60: sectors & 0xFFFF, 61: sectors >> 16}
    return struct.pack("<256H", *(words.get(number, 0) for number in range(256)))


def _text(first: int, length: int, text: str) -> Mapping[int, int]:
    """Words of a text, each with its first character in the high byte."""
    return dict(enumerate(struct.unpack(f">{length}H", text.ljust(2 * length).encode()), first))


IDENTITY: Final[Mapping[int, int]] = {
    0: 0x0040,  # a fixed disk
    3: HEADS,
    6: SECTORS_PER_TRACK,
    **_text(10, 10, "0001"),  # serial number
    **_text(23, 4, "1"),  # firmware revision
    **_text(27, 20, "mmiod disk"),  # model number
    47: 0x8000,  # no READ MULTIPLE
    49: 1 << 9,  # LBA
    80: 0x007E,  # ATA-1 to ATA/ATAPI-6
    82: 1 << 5,  # write cache
    83: 1 << 14 | 1 << 12,  # FLUSH CACHE
    84: 1 << 14,
    85: 1 << 5,
    86: 1 << 12,
    87: 1 << 14,
    93: 1 << 14 | 1,  # device 0
}
"""Of IDENTIFY DEVICE, by word, as far as no image changes it."""
