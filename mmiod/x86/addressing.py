"""Memory operands: ModRM, SIB, displacement, and the segment that goes with them.

SDM vol. 2, tables 2-1 (16-bit), 2-2 and 2-3 (32-bit, SIB), 2.2.1.6 (RIP-relative).
"""

from __future__ import annotations

from typing import Final

from mmiod.values import DS, ES, SS
from mmiod.x86.encoding import REX_B, REX_X, Encoding
from mmiod.x86.mode import CODE64
from mmiod.x86.operands import RBP, RBX, RDI, RSI, RSP, Memory

_BASE_INDEX_16: Final = (
    (RBX, RSI),
    (RBX, RDI),
    (RBP, RSI),
    (RBP, RDI),
    (RSI, None),
    (RDI, None),
    (RBP, None),
    (RBX, None),
)


def modrm_memory(encoding: Encoding, size: int) -> Memory:
    """The operand of a ModRM byte whose mod is not 3."""
    return _memory16(encoding, size) if encoding.address_size == 2 else _memory32(encoding, size)


def moffs(encoding: Encoding, size: int) -> Memory:
    """An offset as wide as addresses are, without ModRM."""
    return _operand(encoding, size, DS, displacement=encoding.unsigned(encoding.address_size))


def source_string(encoding: Encoding, size: int) -> Memory:
    """DS:RSI; the segment may be overridden."""
    return _operand(encoding, size, DS, RSI)


def destination_string(encoding: Encoding, size: int) -> Memory:
    """ES:RDI."""
    return Memory(size, ES, encoding.address_mask, RDI)


def _operand(
    encoding: Encoding,
    size: int,
    default: int,
    base: int | None = None,
    index: int | None = None,
    scale: int = 0,
    displacement: int = 0,
    relative: bool = False,
) -> Memory:
    return Memory(
        size, encoding.segment_or(default), encoding.address_mask, base, index, scale, displacement, relative
    )


def _memory16(encoding: Encoding, size: int) -> Memory:
    mod, rm = encoding.modrm >> 6, encoding.modrm & 7
    if mod == 0 and rm == 6:
        return _operand(encoding, size, DS, displacement=encoding.signed(2))
    base, index = _BASE_INDEX_16[rm]
    displacement = encoding.signed(mod)
    return _operand(encoding, size, SS if base == RBP else DS, base, index, displacement=displacement)


def _memory32(encoding: Encoding, size: int) -> Memory:
    mod, rm = encoding.modrm >> 6, encoding.modrm & 7
    base, index, scale = _sib(encoding) if rm == RSP else (rm, None, 0)
    if mod == 0 and base == RBP:
        displacement = encoding.signed(4)
        relative = rm == RBP and encoding.mode is CODE64
        return _operand(encoding, size, DS, None, index, scale, displacement, relative)
    displacement = encoding.signed((0, 1, 4)[mod])
    base |= (encoding.rex & REX_B) << 3
    default = SS if base in (RSP, RBP) else DS
    return _operand(encoding, size, default, base, index, scale, displacement)


def _sib(encoding: Encoding) -> tuple[int, int | None, int]:
    """Base (without REX.B), index, scale."""
    byte = encoding.byte()
    index = byte >> 3 & 7 | (encoding.rex & REX_X) << 2
    return byte & 7, None if index == RSP else index, byte >> 6
