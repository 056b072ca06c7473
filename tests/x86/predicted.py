"""What iced alone predicts of an instruction: its address, its accesses, the flags it leaves undefined."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Final

import iced_x86 as iced
from attrs import frozen

from mmiod.values import CS, DS, ES, FS, GS, SS
from mmiod.x86 import Mode
from tests.x86.forms import REGISTERS, mnemonic
from tests.x86.layout import BASES, ENTRY

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code

_NAMES64: Final = "RAX RCX RDX RBX RSP RBP RSI RDI R8 R9 R10 R11 R12 R13 R14 R15".split()
_NAMES32: Final = "EAX ECX EDX EBX ESP EBP ESI EDI".split() + [f"R{n}D" for n in range(8, 16)]
_NAMES16: Final = "AX CX DX BX SP BP SI DI".split() + [f"R{n}W" for n in range(8, 16)]
_NAMES8: Final = "AL CL DL BL AH CH DH BH SPL BPL SIL DIL".split() + [f"R{n}L" for n in range(8, 16)]
GENERAL: Final = {1: _NAMES8, 2: _NAMES16, 4: _NAMES32, 8: _NAMES64}
"""Names of the general registers by size."""
NUMBERS: Final = {
    REGISTERS[name]: number for names in (_NAMES64, _NAMES32, _NAMES16) for number, name in enumerate(names)
}
"""General registers of 16, 32 and 64 bits by iced's number."""
SEGMENT_NUMBERS: Final = {
    REGISTERS[name]: number
    for name, number in {"ES": ES, "CS": CS, "SS": SS, "DS": DS, "FS": FS, "GS": GS}.items()
}
_MEMORY: Final = iced.OpKind.MEMORY
_INFORMATION: Final = iced.InstructionInfoFactory()
_READS: Final = frozenset(
    {
        *(iced.OpAccess.READ, iced.OpAccess.COND_READ),
        *(iced.OpAccess.READ_WRITE, iced.OpAccess.READ_COND_WRITE),
    }
)
_WRITES: Final = frozenset(
    {
        *(iced.OpAccess.WRITE, iced.OpAccess.COND_WRITE),
        *(iced.OpAccess.READ_WRITE, iced.OpAccess.READ_COND_WRITE),
    }
)
_FLAGS: Final = {
    iced.RflagsBits.CF: 1 << 0,
    iced.RflagsBits.PF: 1 << 2,
    iced.RflagsBits.AF: 1 << 4,
    iced.RflagsBits.ZF: 1 << 6,
    iced.RflagsBits.SF: 1 << 7,
    iced.RflagsBits.DF: 1 << 10,
    iced.RflagsBits.OF: 1 << 11,
}


def decoded(code: bytes, mode: Mode) -> iced.Instruction:
    """The instruction at `ENTRY`."""
    return iced.Decoder(int(mode), code, ip=ENTRY[mode]).decode()


def effective_address(instruction: iced.Instruction, gpr: Sequence[int]) -> int:
    """The sum that iced's fields stand for, in the width of the registers they name."""
    if instruction.is_ip_rel_memory_operand:
        return int(instruction.ip_rel_memory_address)
    parts = {instruction.memory_base: 1}
    parts[instruction.memory_index] = parts.get(instruction.memory_index, 0) + instruction.memory_index_scale
    parts.pop(iced.Register.NONE, None)
    total = int(instruction.memory_displacement)
    total += sum(_value(register, gpr) * factor for register, factor in parts.items())
    width = iced.RegisterInfo(next(iter(parts))).size if parts else 8
    return total & (1 << 8 * width) - 1


def _value(register: int, gpr: Sequence[int]) -> int:
    """A register that is added to an address; of those with a byte there is XLAT's AL only."""
    return gpr[NUMBERS[register]] if register in NUMBERS else gpr[0] & 0xFF


def has_memory(instruction: iced.Instruction) -> bool:
    """Whether there is a ModRM or moffs operand in memory."""
    return any(instruction.op_kind(number) == _MEMORY for number in range(instruction.op_count))


def linear_address(instruction: iced.Instruction, mode: Mode, gpr: Sequence[int], moved: int = 0) -> int:
    """Where the ModRM or moffs operand is, or what lies `moved` bytes behind it."""
    base = BASES[mode][SEGMENT_NUMBERS[instruction.memory_segment]]
    offset = effective_address(instruction, gpr) + moved & (1 << 8 * address_bytes(instruction)) - 1
    return base + offset & ((1 << 64 if mode is Mode.CODE64 else 1 << 32) - 1)


def address_bytes(instruction: iced.Instruction) -> int:
    """How wide the operand's address is."""
    for register in (instruction.memory_base, instruction.memory_index):
        if register in NUMBERS:
            return int(iced.RegisterInfo(register).size)
    if register := instruction.memory_base:  # RIP, EIP
        return int(iced.RegisterInfo(register).size)
    return int(instruction.memory_displ_size) or 8


@cache
def operand_bytes(code: Code) -> int:
    """The size of a form's memory operand."""
    return int(iced.MemorySizeInfo(iced.OpCodeInfo(code).memory_size).size)


@cache
def element_bytes(code: Code) -> int:
    """The size of its elements."""
    return int(iced.MemorySizeInfo(iced.OpCodeInfo(code).memory_size).element_size)


@frozen
class Memory:
    """One operand in memory that iced knows of; `linear` is None where it is implied."""

    size: int
    reads: bool
    writes: bool


def memory_operands(instruction: iced.Instruction) -> list[Memory]:
    """All operands in memory, stack and strings included, in iced's order."""
    return [
        Memory(iced.MemorySizeInfo(used.memory_size).size, used.access in _READS, used.access in _WRITES)
        for used in _INFORMATION.info(instruction).used_memory()
    ]


def _bits(flags: int) -> int:
    return sum(bit for flag, bit in _FLAGS.items() if flags & flag)


def flags_read(instruction: iced.Instruction) -> int:
    """Flags on which the result depends."""
    return _bits(instruction.rflags_read)


def flags_changed(instruction: iced.Instruction) -> int:
    """Flags that may be different afterwards."""
    return _bits(instruction.rflags_modified)


ARITHMETIC: Final = 0x8D5
_SHIFTS: Final = frozenset("SHL SAL SHR SAR SHLD SHRD".split())
_ROTATES: Final = frozenset("ROL ROR RCL RCR".split())


def flags_undefined(instruction: iced.Instruction, gpr: Sequence[int]) -> int:
    """Flags on which the manual says nothing, given CL where it is the count of a shift."""
    name = mnemonic(instruction.code)
    if name not in _SHIFTS | _ROTATES:
        return _bits(instruction.rflags_undefined)
    wide = operand_bytes(instruction.code) == 8
    last = instruction.op_count - 1
    by_register = instruction.op_kind(last) == iced.OpKind.REGISTER
    count = (gpr[1] if by_register else instruction.immediate(last)) & (0x3F if wide else 0x1F)
    if not count:
        return 0
    undefined = 0 if count == 1 else 1 << 11
    if name in _SHIFTS:
        undefined |= 1 << 4
        if count > 8 * operand_bytes(instruction.code):  # SDM vol. 2, SAL/SAR/SHL/SHR: then CF is, too
            undefined |= 1
    return undefined
