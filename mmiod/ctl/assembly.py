"""How an instruction's parts look to people: operands in the order of Intel's manuals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from mmiod.ctl.text import hexadecimal
from mmiod.x86 import Mode
from mmiod.x86.decoder import Instruction
from mmiod.x86.operands import BitString, Immediate, Memory, Operand, Register, Selector, Table
from mmiod.x86.vector_operands import Lanes, Mmx, Opmask, Vector

REGISTERS: Final = "rax rcx rdx rbx rsp rbp rsi rdi r8 r9 r10 r11 r12 r13 r14 r15".split()
SEGMENTS: Final = "es cs ss ds fs gs".split()
_BYTES: Final = "al cl dl bl spl bpl sil dil".split()
_SIZES: Final = {1: "byte", 2: "word", 4: "dword", 8: "qword"}
_VECTORS: Final = {16: "xmm", 32: "ymm", 64: "zmm"}
_PREFIXES: Final = {
    0x26: "es",
    0x2E: "cs",
    0x36: "ss",
    0x3E: "ds",
    0x64: "fs",
    0x65: "gs",
    0x66: "operand size",
    0x67: "address size",
    0xF0: "lock",
    0xF2: "repne",
    0xF3: "rep",
}


def prefixes(i: Instruction) -> Iterator[str]:
    """Those before the opcode, in order, whether they count or not."""
    for byte in i.code:
        if i.mode is Mode.CODE64 and byte & 0xF0 == 0x40:
            yield f"rex.{byte & 15:04b}"
        elif byte in _PREFIXES:
            yield _PREFIXES[byte]
        else:
            return


def operand_text(operand: Operand, i: Instruction) -> str:
    """An operand; nothing where it is a whole vector's elements."""
    match operand:
        case Register(number, size):
            return _register(number, size, operand.shift)
        case Selector(number):
            return SEGMENTS[number]
        case Immediate(value):
            return hexadecimal(value)
        case Memory():
            return _memory(operand, i)
        case Vector(number, size):
            return f"{_VECTORS[size]}{number}"
        case Opmask(number):
            return f"k{number}"
        case Mmx(number):
            return f"mm{number}"
        case Lanes():
            opmask = f", only {operand_text(operand.opmask, i)}" if operand.opmask else ""
            zeroing = ", others 0" if operand.zeroing else ""
            return f"{operand.count} x {operand.element} bytes{opmask}{zeroing}" if opmask else ""
    raise AssertionError(operand)


def _register(number: int, size: int, shift: int = 0) -> str:
    name = REGISTERS[number]
    if size == 8:
        return name
    if number >= 8:
        return name + {1: "b", 2: "w", 4: "d"}[size]
    if size == 1:
        return _BYTES[number] if not shift else f"{name[1]}h"
    return name[1:] if size == 2 else f"e{name[1:]}"


def _memory(memory: Memory, i: Instruction) -> str:
    """Like `dword ds:[ebx+esi*4+0x10]`."""
    width = memory.mask.bit_length() // 8
    terms = [_register(memory.base, width)] if memory.base is not None else []
    if memory.index is not None:
        terms.append(f"{_register(memory.index, width)}*{1 << memory.scale}")
    displacement = memory.displacement - i.length if memory.relative else memory.displacement
    if memory.relative:
        terms.append("rip" if width == 8 else "eip")
    if isinstance(memory, Table):
        terms.append("al")
    if isinstance(memory, BitString):
        terms.append(f"bit {_register(memory.bit.number, memory.bit.size)}")
    text = "+".join(terms)
    if displacement or not terms:
        text += f"{'-' if displacement < 0 else '+' if terms else ''}{abs(displacement):#x}"
    return f"{_SIZES.get(memory.size, f'{memory.size} bytes')} {SEGMENTS[memory.segment]}:[{text}]"
