"""The VEX and EVEX prefixes, and what legacy prefixes say in their place.

SDM vol. 2, 2.3.5 (VEX), 2.7 (EVEX).  Outside of 64-bit code C4, C5 and 62 are LES, LDS
and BOUND unless the byte behind would make their ModRM a register's.
"""

from __future__ import annotations

from typing import Final

from attrs import define

from mmiod.x86.cursor import Undecodable, Undefined
from mmiod.x86.encoding import REX_B, REX_R, REX_W, REX_X, Encoding, opcode_number
from mmiod.x86.faults import UD
from mmiod.x86.mode import CODE64

VEX2: Final = 0xC5
VEX3: Final = 0xC4
EVEX: Final = 0x62
PREFIXES: Final = frozenset({VEX2, VEX3, EVEX})

_VEX_MAPS: Final = {1: 0x0F, 2: 0x0F38, 3: 0x0F3A}
_EVEX_MAPS: Final = _VEX_MAPS | {5: 5, 6: 6}


@define(eq=False)
class Extension:
    """What an instruction says of vectors: `length` is bytes, register numbers are not inverted."""

    space: str
    """legacy, vex or evex."""
    w: int
    length: int = 16
    """0 is reserved."""
    reg: int = 0
    """What to add to ModRM.reg."""
    register: int = 0
    """VEX.vvvv."""
    opmask: int = 0
    zeroing: bool = False
    broadcast: bool = False


def legacy(encoding: Encoding) -> Extension:
    """What the legacy prefixes say."""
    return Extension("legacy", encoding.rex >> 3 & 1, reg=(encoding.rex & REX_R) << 1)


def read(encoding: Encoding, first: int) -> tuple[Extension, int] | None:
    """The prefix that begins with `first`, and the opcode number behind it; None if it is none."""
    second = encoding.byte()
    if encoding.mode is not CODE64 and second < 0xC0:
        encoding.position -= 1
        return None
    if encoding.mandatory or encoding.lock or encoding.rex:
        raise Undecodable(Undefined(UD))
    return _evex(encoding, second) if first == EVEX else _vex(encoding, first, second)


def _vex(encoding: Encoding, first: int, second: int) -> tuple[Extension, int]:
    escape, last = 0x0F, second
    if first == VEX3:
        escape, last = _map(_VEX_MAPS, second & 0x1F), encoding.byte()
    w = last >> 7 if first == VEX3 else 0
    inverted = ~second & (0xE0 if first == VEX3 else 0x80)
    _set_rex(encoding, inverted, w)
    extension = Extension("vex", w, 32 if last & 4 else 16, _reg(encoding, 0), ~last >> 3 & 0xF)
    return extension, opcode_number(escape, encoding.byte(), last & 3)


def _evex(encoding: Encoding, second: int) -> tuple[Extension, int]:
    third, fourth = encoding.byte(), encoding.byte()
    if second & 8 or not third & 4:
        raise Undecodable(Undefined(UD))
    escape, w = _map(_EVEX_MAPS, second & 7), third >> 7
    _set_rex(encoding, ~second & 0xE0, w)
    extension = Extension(
        "evex",
        w,
        (16, 32, 64, 0)[fourth >> 5 & 3],
        _reg(encoding, ~second & 0x10),
        ~third >> 3 & 0xF | (~fourth & 8) << 1,
        fourth & 7,
        bool(fourth & 0x80),
        bool(fourth & 0x10),
    )
    return extension, opcode_number(escape, encoding.byte(), third & 3)


def _map(maps: dict[int, int], number: int) -> int:
    if number not in maps:
        raise Undecodable(Undefined(UD))
    return maps[number]


def _set_rex(encoding: Encoding, bits: int, w: int) -> None:
    """R, X, B in the top bits, as REX would say them; outside of 64-bit code they mean nothing."""
    if encoding.mode is CODE64:
        r, x, b = bits >> 7, bits >> 6 & 1, bits >> 5 & 1
        encoding.rex = 0x40 | w * REX_W | r * REX_R | x * REX_X | b * REX_B


def _reg(encoding: Encoding, high: int) -> int:
    return (encoding.rex & REX_R) << 1 | high if encoding.mode is CODE64 else 0
