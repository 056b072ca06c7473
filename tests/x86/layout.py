"""Where things are, for every oracle and for mmiod: code, memory operands, descriptors, segments.

Everything lies in the first 256 KiB, so that a process can have it at the same addresses.
"""

from __future__ import annotations

import struct
from random import Random
from typing import Final

from mmiod.values import CS, Segment
from mmiod.x86 import Mode

ENTRY: Final = {Mode.CODE16: 0x1000, Mode.CODE32: 0x1_1000, Mode.CODE64: 0x1_1000}
"""Address of the instruction; code segments are based at 0."""
LOW: Final = range(0x2_0000)
"""Code and descriptors."""
WINDOW: Final = range(0x2_0000, 0x4_0000)
"""Linear addresses of memory operands and stacks."""
CONTENT: Final = Random("memory").randbytes(len(WINDOW))

BASES: Final = {
    Mode.CODE16: (0x20000, 0, 0x21230, 0x22340, 0x23450, 0x24560),
    Mode.CODE32: (0x11000, 0, 0x12300, 0x13400, 0x14500, 0x15600),
    Mode.CODE64: (0, 0, 0, 0, 0x10000, 0xFFFF_FFFF_FFFF_0000),
}
"""Of es, cs, ss, ds, fs, gs: other than 0 wherever the mode has them."""

GDT: Final = 0x8000
_DATA, _CODE16, _CODE32, _CODE64 = (0x93, 0xC), (0x9B, 0x8), (0x9B, 0xC), (0x9B, 0xA)
CODE_SELECTORS: Final = {Mode.CODE32: (0x10, 0x48), Mode.CODE64: (0x10, 0x58)}
"""Code segments of that mode, all based at 0."""
DATA_SELECTORS: Final = (0x08, 0x18, 0x20, 0x28, 0x30, 0x38, 0x40)


def _descriptor(base: int, access: int, flags: int) -> bytes:
    """A 4 GiB segment at `base`, DPL 0."""
    return struct.pack(
        "<HHBBBB", 0xFFFF, base & 0xFFFF, base >> 16 & 0xFF, access, flags << 4 | 0xF, base >> 24
    )


def descriptors(mode: Mode) -> bytes:
    """The GDT: null, the six segments that are loaded, more data and code."""
    own = _CODE64 if mode is Mode.CODE64 else _CODE32
    bases = [base & 0xFFFF_FFFF for base in BASES[mode]]
    table = bytes(8)
    for number, base in enumerate(bases):
        table += _descriptor(base, *(own if number == CS else _DATA))
    for base in (0x16700, 0x7654_3210):
        table += _descriptor(base, *_DATA)
    return table + b"".join(_descriptor(0, *kind) for kind in (_CODE32, _CODE16, _CODE64))


def selectors(mode: Mode) -> list[int]:
    """What the segment registers hold."""
    if mode is Mode.CODE16:
        return [base >> 4 for base in BASES[mode]]
    return [8 * (number + 1) for number in range(6)]


def segments(mode: Mode) -> list[Segment]:
    """The segment registers with their hidden parts.

    Unicorn checks no limits and types; a writable CS keeps that out of the comparison.
    """
    data = 0x8093 if mode is Mode.CODE16 else 0xC093
    found = [
        Segment(base, 0xFFFF_FFFF, selector, data)
        for base, selector in zip(BASES[mode], selectors(mode), strict=True)
    ]
    found[CS].attributes = {Mode.CODE16: 0x8093, Mode.CODE32: 0xC093, Mode.CODE64: 0xA093}[mode]
    return found
