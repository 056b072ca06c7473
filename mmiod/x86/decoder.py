"""Bytes to `Instruction`, by one cursor and the opcode table (SDM vol. 2, appendix A)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import evolve, frozen

from mmiod.values import GS
from mmiod.x86 import addressing
from mmiod.x86.cursor import Cursor, NotSupported, Undecodable, Undefined
from mmiod.x86.encoding import REX_R, Encoding
from mmiod.x86.faults import UD
from mmiod.x86.mode import CODE64, Mode
from mmiod.x86.opcodes import OPCODES, Opcode
from mmiod.x86.operands import RAX, RDX, Immediate, Memory, Operand, Register, Selector


@frozen
class Instruction:
    """A decoded instruction; `operands` are in the manual's order, the destination first."""

    opcode: Opcode
    mode: Mode
    length: int
    address_size: int
    operands: tuple[Operand, ...]
    lock: bool
    repeat: int
    """0, REP (also REPE) or REPNE."""


def decode_instruction(code: bytes, mode: Mode) -> Instruction:
    """The instruction at the beginning of `code`.  Raises Undecodable."""
    encoding = Encoding(Cursor(code), mode)
    encoding.read_prefixes()
    opcode = _opcode(encoding)
    operands = [_operand(encoding, kind, letter) for kind, letter in opcode.operands]
    if opcode.shape == "undefined" or (encoding.lock and "lock" not in opcode.attributes):
        raise Undecodable(Undefined(UD))
    length = encoding.cursor.position
    return Instruction(
        opcode=opcode,
        mode=mode,
        length=length,
        address_size=encoding.address_size,
        operands=tuple([_finished(operand, operands[0], length) for operand in operands]),
        lock=encoding.lock,
        repeat=encoding.repeat,
    )


def _opcode(encoding: Encoding) -> Opcode:
    number = encoding.cursor.byte()
    if number == 0x0F:
        number = 0x0F00 | encoding.cursor.byte()
    entry = OPCODES.get(number)
    if isinstance(entry, dict):
        entry = entry.get(encoding.reg)
    if entry is None or ("o64" in entry.attributes and encoding.mode is not CODE64):
        raise Undecodable(NotSupported())
    if "i64" in entry.attributes and encoding.mode is CODE64:
        raise Undecodable(Undefined(UD))
    return entry


def _finished(operand: Operand, first: Operand, length: int) -> Operand:
    """What only the whole instruction tells: an immediate's width, where RIP will be."""
    if isinstance(operand, Immediate) and isinstance(first, Memory):
        return Immediate(operand.value & (1 << 8 * first.size) - 1)
    if isinstance(operand, Memory) and operand.relative:
        return evolve(operand, displacement=operand.displacement + length)
    return operand


# --- operands ------------------------------------------------------------------------


def _operand(encoding: Encoding, kind: str, letter: str) -> Operand:
    return _READERS[kind](encoding, min(encoding.operand_size, _WIDEST[letter]))


def _memory(encoding: Encoding, size: int) -> Memory:
    if encoding.modrm >= 0xC0:
        raise Undecodable(Undefined(UD) if encoding.lock else NotSupported())
    return addressing.modrm_memory(encoding, size)


def _register(encoding: Encoding, size: int) -> Register:
    number = encoding.reg | (encoding.rex & REX_R) << 1
    if size == 1 and 4 <= number < 8 and not encoding.rex:
        return Register(number - 4, 1, shift=8)  # AH, CH, DH, BH
    return Register(number, size)


def _selector(encoding: Encoding, _size: int) -> Selector:
    if encoding.reg > GS:
        raise Undecodable(Undefined(UD))
    return Selector(encoding.reg)


def _immediate(encoding: Encoding, size: int) -> Immediate:
    return Immediate(encoding.cursor.signed(min(size, 4)))


def _port(encoding: Encoding, size: int) -> Immediate:
    return Immediate(encoding.cursor.unsigned(size))


_READERS: Final[dict[str, Callable[[Encoding, int], Operand]]] = {
    "E": _memory,
    "G": _register,
    "S": _selector,
    "I": _immediate,
    "U": _port,
    "O": addressing.moffs,
    "X": addressing.source_string,
    "Y": addressing.destination_string,
    "rAX": lambda _, size: Register(RAX, size),
    "DX": lambda _, size: Register(RDX, size),
}
"""How the operands of the opcode table's letters are read, each given its size."""

_WIDEST: Final = {"b": 1, "w": 2, "z": 4, "v": 8}
"""An operand has the operand size, but at most this."""
