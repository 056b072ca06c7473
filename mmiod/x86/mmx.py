"""MMX registers: the low halves of the x87 registers, by their physical number.

The image is FXSAVE's: the status word at 2, the tag byte at 4, ST0..ST7 from 32, 16 bytes
each, counted from the top of the stack (SDM vol. 1, 9.6 and table 10-2; vol. 3, 12.2).
Every MMX instruction here leaves the top at 0, all registers valid, and an exponent of
ones in the register that it wrote.
"""

from __future__ import annotations

from typing import Final

_STATUS: Final = 2
_TAGS: Final = 4
_STACK: Final = 32
_STRIDE: Final = 16
_COUNT: Final = 8
_EXPONENT: Final = b"\xff\xff"
_PENDING: Final = 0x80  # ES, an exception that the next x87 or MMX instruction reports
_TOP: Final = 0x38


def pending(image: bytes) -> bool:
    """Whether an exception of x87 is to be reported before anything else."""
    return bool(image[_STATUS] & _PENDING)


def read(image: bytes, number: int) -> int:
    """What register `number` holds."""
    at = _STACK + _STRIDE * (number - _top(image) & 7)
    return int.from_bytes(image[at : at + 8], "little")


def touched(image: bytes, changed: dict[int, int]) -> bytes:
    """The image after an MMX instruction that wrote the registers `changed`."""
    result, top = bytearray(image), _top(image)
    for number in range(_COUNT):
        old = _STACK + _STRIDE * (number - top & 7)
        register = image[old : old + _STRIDE]
        if number in changed:
            register = changed[number].to_bytes(8, "little") + _EXPONENT + register[10:]
        result[_STACK + _STRIDE * number : _STACK + _STRIDE * (number + 1)] = register
    result[_STATUS + 1] &= ~_TOP & 0xFF
    result[_TAGS] = 0xFF
    return bytes(result)


def _top(image: bytes) -> int:
    return image[_STATUS + 1] >> 3 & 7
