"""Bytes to `Instruction`, by one cursor and the opcode tables (SDM vol. 2, appendix A)."""

from __future__ import annotations

from typing import Final

from attrs import define, field

from mmiod.x86 import opcodes, vex
from mmiod.x86.cursor import NotSupported, Undecodable, Undefined
from mmiod.x86.encoding import Encoding
from mmiod.x86.faults import UD
from mmiod.x86.mode import CODE64, Mode
from mmiod.x86.operands import Memory, Operand
from mmiod.x86.table import Group, Opcode, parse
from mmiod.x86.vector_decoder import read_vector

OPCODES: Final = parse(opcodes.lines())
"""By opcode number.  What is missing is not supported."""


@define
class Instruction:
    """A decoded instruction; `operands` are in the manual's order, the destination first."""

    opcode: Opcode
    mode: Mode
    code: bytes = field(eq=False)
    """It begins here."""
    length: int
    operand_size: int
    address_size: int
    operands: tuple[Operand, ...]
    memory: Memory | None
    """The operand in memory, if there is one and it is not a string."""
    lock: bool
    """All its accesses are one."""
    repeat: int
    """0, REP (also REPE) or REPNE."""


def decode_instruction(code: bytes, mode: Mode) -> Instruction:
    """The instruction at the beginning of `code`.  Raises Undecodable."""
    encoding = Encoding(code, mode=mode)
    opcode, operands = _read(encoding, encoding.read_prefixes())
    length, memory = encoding.position, encoding.memory
    if memory is not None and memory.relative:
        memory.displacement += length
    if opcode.shape == "undefined" or (encoding.lock and not opcode.lockable):
        raise Undecodable(Undefined(UD))
    return Instruction(
        opcode,
        mode,
        code,
        length,
        encoding.operand_size,
        encoding.address_size,
        operands,
        memory,
        encoding.lock or opcode.locked,
        encoding.repeat,
    )


def _read(encoding: Encoding, first: int) -> tuple[Opcode, tuple[Operand, ...]]:
    """The opcode that begins with `first`, and its operands."""
    if first in vex.PREFIXES and (found := vex.read(encoding, first)):
        return read_vector(encoding, *found)
    number = encoding.read_opcode(first)
    entry = OPCODES.get(number)
    if entry is None:
        return read_vector(encoding, vex.legacy(encoding), number)
    opcode = _opcode(encoding, entry)
    return opcode, tuple([read(encoding, sizes[encoding.operand_size]) for read, sizes in opcode.operands])


def _opcode(encoding: Encoding, entry: Opcode | Group) -> Opcode:
    """The opcode of a table's entry, with what it changes about sizes; reads ModRM if it has one."""
    opcode: Opcode | None
    if isinstance(entry, list):
        encoding.modrm = encoding.byte()
        opcode = entry[encoding.reg]
    else:
        opcode = entry
        if opcode.modrm:
            encoding.modrm = encoding.byte()
    if opcode is None:
        raise Undecodable(NotSupported())
    if not opcode.plain:
        _apply_mode(encoding, opcode.attributes)
    return opcode


def _apply_mode(encoding: Encoding, attributes: frozenset[str]) -> None:
    """What the code size makes of an opcode."""
    if encoding.mode is not CODE64:
        if "o64" in attributes:
            raise Undecodable(NotSupported())
    elif "i64" in attributes:
        raise Undecodable(Undefined(UD))
    elif "d64" in attributes and encoding.operand_size == 4:
        encoding.operand_size = 8
