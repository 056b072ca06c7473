"""The opcode tables' text made into what the decoder looks up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from attrs import frozen

from mmiod.x86.encoding import MANDATORY
from mmiod.x86.letters import LETTERS, SIZES, Reader

_MODRM: Final = frozenset("EGBSAL")
"""The letters that ModRM encodes."""
_ALIGNED: Final = {"aligned": 1, "aligned16": 16}


@frozen
class Opcode:
    """One line of the table.

    `operands` are (reader, size by operand size); `modrm` tells whether such a byte follows.
    """

    mnemonic: str
    shape: str
    operands: tuple[tuple[Reader, dict[int, int]], ...]
    attributes: frozenset[str]
    modrm: bool
    lockable: bool
    """LOCK is legal on it."""
    locked: bool
    """It is atomic with or without LOCK."""
    aligned: int
    """From how many bytes on its operand in memory has to be aligned to its size; 0 if never."""
    plain: bool
    """Nothing about it depends on the mode."""


Group = list[Opcode | None]
"""The opcodes that share a number, by ModRM.reg."""


def parse(lines: Iterable[str]) -> dict[int, Opcode | Group]:
    """The table by opcode number, with what each prefix that may belong to an opcode makes of it."""
    table: dict[int, Opcode | Group] = {}
    anyhow = []
    for line in lines:
        prefix, number, extension, opcode = _parsed(line)
        if prefix:
            _enter(table, number | MANDATORY[prefix] << 24, extension, opcode)
        else:
            anyhow.append((number, extension, opcode))
    claimed = frozenset(table)
    for number, extension, opcode in anyhow:
        for mandatory in MANDATORY.values() if number > 0xFF else (0,):
            if number | mandatory << 24 not in claimed:
                _enter(table, number | mandatory << 24, extension, opcode)
    return table


def _parsed(line: str) -> tuple[str, int, int | None, Opcode]:
    where, mnemonic, shape, operands, *attributes = line.split()
    prefix, _, where = where.rpartition(".")
    where, _, extension = where.partition("/")
    kinds = [] if operands == "-" else operands.split(",")
    letters = [_split(kind) for kind in kinds]
    opcode = Opcode(
        mnemonic=mnemonic,
        shape=shape,
        operands=tuple([(LETTERS[letter], SIZES[size]) for letter, size in letters]),
        attributes=frozenset(attributes),
        modrm=bool(extension) or any(letter in _MODRM for letter, _ in letters),
        lockable="lock" in attributes,
        locked="locked" in attributes,
        aligned=max((_ALIGNED.get(attribute, 0) for attribute in attributes), default=0),
        plain=not {"i64", "o64", "d64"} & set(attributes),
    )
    return prefix, int(where, 16), int(extension) if extension else None, opcode


def _split(kind: str) -> tuple[str, str]:
    letter = max((letter for letter in LETTERS if kind.startswith(letter)), key=len)
    return letter, kind[len(letter) :]


def _enter(table: dict[int, Opcode | Group], number: int, extension: int | None, opcode: Opcode) -> None:
    if extension is None:
        assert number not in table, opcode
        table[number] = opcode
        return
    group = table.setdefault(number, [None] * 8)
    assert isinstance(group, list), opcode
    assert group[extension] is None, opcode
    group[extension] = opcode
