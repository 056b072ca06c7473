"""The operand letters of the opcode table: how each is read from an instruction.

They are those of SDM vol. 2, appendix A.2.1, where it has one:
  E memory of ModRM              G general register of ModRM    S segment register of ModRM
  Z register in the opcode       I immediate, zero-extended     sI immediate, sign-extended
  J displacement from RIP        O moffs                        X source string
  Y destination string           rAX, DX, CL, ES .. GS, 1 fixed operands
and of our own:
  B memory of ModRM, at the bit that G chooses    T table at rBX
  A memory's address in G                         L like S, but not CS
A second letter gives the size:
  b 1 byte    w 2 bytes    v operand size    z operand size, at most 4
  y operand size, at least 4    q 8 bytes    m 64 bytes
  f operand size and a selector: a far pointer    p a pair of y
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmiod.values import CS, DS, GS
from mmiod.x86 import addressing
from mmiod.x86.cursor import NotSupported, Undecodable, Undefined
from mmiod.x86.encoding import REX_B, REX_R, Encoding
from mmiod.x86.faults import UD
from mmiod.x86.operands import (
    GENERAL,
    LEGACY_BYTES,
    RAX,
    RBX,
    RCX,
    RDX,
    BitString,
    Immediate,
    Memory,
    Operand,
    Register,
    Selector,
    Table,
    mask_of,
)

Reader = Callable[[Encoding, int], Operand]
"""Reads one operand of so many bytes."""

_SELECTORS: Final = [Selector(number) for number in range(GS + 1)]


def _memory(encoding: Encoding, size: int) -> Memory:
    if encoding.modrm >= 0xC0:
        raise Undecodable(Undefined(UD) if encoding.lock else NotSupported())
    memory = encoding.memory = addressing.modrm_memory(encoding, size)
    return memory


def _bit_string(encoding: Encoding, size: int) -> BitString:
    m, bit = _memory(encoding, size), _register(encoding, size)
    string = BitString(size, m.segment, m.mask, m.base, m.index, m.scale, m.displacement, m.relative, bit)
    encoding.memory = string
    return string


def _table(encoding: Encoding, size: int) -> Table:
    table = Table(size, encoding.segment_or(DS), encoding.address_mask, RBX)
    encoding.memory = table
    return table


def _offset(encoding: Encoding, size: int) -> Memory:
    memory = encoding.memory = addressing.moffs(encoding, size)
    return memory


def _register(encoding: Encoding, size: int) -> Register:
    if size == 1 and not encoding.rex:
        return LEGACY_BYTES[encoding.modrm >> 3 & 7]
    return GENERAL[size][encoding.modrm >> 3 & 7 | (encoding.rex & REX_R) << 1]


def _opcode_register(encoding: Encoding, size: int) -> Register:
    return GENERAL[size][encoding.code[encoding.position - 1] & 7 | (encoding.rex & REX_B) << 3]


def _address_register(encoding: Encoding, _size: int) -> Register:
    return _register(encoding, encoding.address_size)


def _selector(encoding: Encoding, _size: int) -> Selector:
    if encoding.reg > GS:
        raise Undecodable(Undefined(UD))
    return _SELECTORS[encoding.reg]


def _loaded_selector(encoding: Encoding, size: int) -> Selector:
    if encoding.reg == CS:
        raise Undecodable(Undefined(UD))
    return _selector(encoding, size)


def _immediate(encoding: Encoding, size: int) -> Immediate:
    return Immediate(encoding.unsigned(size))


def _extended(encoding: Encoding, size: int) -> Immediate:
    return Immediate(encoding.signed(size) & mask_of(encoding.operand_size))


def _fixed(number: int) -> Reader:
    return lambda _, size: GENERAL[size][number]


def _segment(number: int) -> Reader:
    return lambda _encoding, _size: _SELECTORS[number]


LETTERS: Final[dict[str, Reader]] = {
    "E": _memory,
    "B": _bit_string,
    "T": _table,
    "O": _offset,
    "G": _register,
    "A": _address_register,
    "Z": _opcode_register,
    "S": _selector,
    "L": _loaded_selector,
    "I": _immediate,
    "sI": _extended,
    "J": _extended,
    "X": addressing.source_string,
    "Y": addressing.destination_string,
    "rAX": _fixed(RAX),
    "DX": _fixed(RDX),
    "CL": _fixed(RCX),
    "1": lambda _encoding, _size: Immediate(1),
    **{name: _segment(number) for number, name in enumerate(("ES", "CS", "SS", "DS", "FS", "GS"))},
}

_OPERAND_SIZES: Final = (2, 4, 8)
SIZES: Final[dict[str, dict[int, int]]] = {
    letter: dict(zip(_OPERAND_SIZES, sizes, strict=True))
    for letter, sizes in {
        "b": (1, 1, 1),
        "w": (2, 2, 2),
        "v": (2, 4, 8),
        "z": (2, 4, 4),
        "y": (4, 4, 8),
        "q": (8, 8, 8),
        "m": (64, 64, 64),
        "f": (4, 6, 10),
        "p": (8, 8, 16),
    }.items()
}
"""An operand's size by the operand size of its instruction."""
