"""What instructions do to a value in memory, by shape: how an operation is joined to operands.

The functions are pure; `mmiod.x86.flows` puts the accesses around them.  Each is called
with the instruction, the vCPU, the value that memory held (unless it only writes) and
the instruction's operands, which the opcode table guarantees to be of the kinds named.
"""

from __future__ import annotations

from typing import Final

from mmiod.values import Delta, VcpuState
from mmiod.x86 import faults
from mmiod.x86.bits import BITS
from mmiod.x86.decoder import Instruction
from mmiod.x86.execution import completed
from mmiod.x86.faults import GuestFault
from mmiod.x86.flags import ARITHMETIC, OPERATIONS, ZF, holds, only, subtract
from mmiod.x86.flows import Result, Shape, Update, Value, reading, updating, writing
from mmiod.x86.operands import GENERAL, RAX, RBX, RCX, RDX, Memory, Register, Source, mask_of, signed
from mmiod.x86.products import DIVISIONS, MULTIPLICATIONS, PRODUCTS, carried
from mmiod.x86.shifts import DOUBLE_SHIFTS, SHIFTS

_OPERATIONS: Final = {**OPERATIONS, **SHIFTS, **BITS, **PRODUCTS}


# --- memory is read ------------------------------------------------------------------


def load(i: Instruction, vcpu: VcpuState, value: int, register: Register, _memory: Memory) -> Delta:
    """MOV from memory, MOVZX, XLAT."""
    return completed(i, vcpu, {register.number: register.merged(vcpu, value)})


def load_signed(i: Instruction, vcpu: VcpuState, value: int, register: Register, memory: Memory) -> Delta:
    """MOVSX, MOVSXD."""
    return load(i, vcpu, signed(value, memory.size) & register.mask, register, memory)


def load_swapped(i: Instruction, vcpu: VcpuState, value: int, register: Register, memory: Memory) -> Delta:
    """MOVBE."""
    return load(i, vcpu, swapped(value, memory.size), register, memory)


def load_if(i: Instruction, vcpu: VcpuState, value: int, register: Register, memory: Memory) -> Delta:
    """CMOVcc: reads whether or not it moves, and zero-extends too."""
    moves = holds(i.opcode.mnemonic.removeprefix("cmov"), vcpu.rflags)
    return load(i, vcpu, value if moves else register.read(vcpu), register, memory)


def combine(i: Instruction, vcpu: VcpuState, value: int, register: Register, memory: Memory) -> Delta:
    """`register` = `register` operation memory."""
    operation = _OPERATIONS[i.opcode.mnemonic]
    result, flags = operation(register.read(vcpu), value, vcpu.rflags, memory.size)
    return completed(i, vcpu, {register.number: register.merged(vcpu, result)}, flags)


def combine_two(
    i: Instruction, vcpu: VcpuState, value: int, register: Register, memory: Memory, right: Source
) -> Delta:
    """`register` = memory operation `right`."""
    operation = _OPERATIONS[i.opcode.mnemonic]
    result, flags = operation(value, right.read(vcpu), vcpu.rflags, memory.size)
    return completed(i, vcpu, {register.number: register.merged(vcpu, result)}, flags)


def find(i: Instruction, vcpu: VcpuState, value: int, register: Register, memory: Memory) -> Delta:
    """BSF, BSR: nothing found leaves all 64 bits of the register (APM vol. 3, BSF)."""
    delta = combine(i, vcpu, value, register, memory)
    if not value:
        delta.registers = {}
    return delta


def compare(
    i: Instruction, vcpu: VcpuState, value: int, left: Source | Memory, right: Source | Memory
) -> Delta:
    """CMP, TEST, BT: flags only."""
    first, second = (
        value if isinstance(operand, Memory) else operand.read(vcpu) for operand in (left, right)
    )
    assert i.memory is not None
    _, flags = _OPERATIONS[i.opcode.mnemonic](first, second, vcpu.rflags, i.memory.size)
    return completed(i, vcpu, {}, flags)


def multiply(i: Instruction, vcpu: VcpuState, value: int, memory: Memory) -> Delta:
    """MUL, IMUL of the accumulator: a double-width result."""
    size = memory.size
    wide, overflow = MULTIPLICATIONS[i.opcode.mnemonic](GENERAL[size][RAX].read(vcpu), value, size)
    halves = _halves(vcpu, size, wide & mask_of(size), wide >> 8 * size)
    return completed(i, vcpu, halves, carried(overflow, vcpu.rflags))


def divide(i: Instruction, vcpu: VcpuState, value: int, memory: Memory) -> Delta:
    """DIV, IDIV of a double-width dividend; raises #DE."""
    size = memory.size
    low, high = (half.read(vcpu) for half in _pair(size))
    parts = DIVISIONS[i.opcode.mnemonic](high << 8 * size | low, value, size)
    if parts is None:
        raise GuestFault(faults.DE)
    return completed(i, vcpu, _halves(vcpu, size, *parts))


def _pair(size: int) -> tuple[Register, Register]:
    """The accumulator and the register above it: rDX, but AH for bytes."""
    return GENERAL[size][RAX], GENERAL[size][RDX] if size > 1 else _AH


_AH: Final = Register(RAX, 1, shift=8)


def _halves(vcpu: VcpuState, size: int, low: int, high: int) -> dict[int, int]:
    if size == 1:
        return {RAX: GENERAL[2][RAX].merged(vcpu, high << 8 | low)}
    return {RAX: GENERAL[size][RAX].merged(vcpu, low), RDX: GENERAL[size][RDX].merged(vcpu, high)}


LOADS: Final[dict[str, Result]] = {
    function.__name__: function
    for function in (
        *(load, load_signed, load_swapped, load_if),
        *(combine, combine_two, find, compare, multiply, divide),
    )
}
"""By the opcode table's third column."""


# --- memory is written -----------------------------------------------------------------


def store(_i: Instruction, vcpu: VcpuState, _memory: Memory, source: Source) -> int:
    """MOV to memory, MOVNTI, MOVDIRI."""
    return source.read(vcpu)


def store_swapped(_i: Instruction, vcpu: VcpuState, memory: Memory, source: Source) -> int:
    """MOVBE."""
    return swapped(source.read(vcpu), memory.size)


def store_condition(i: Instruction, vcpu: VcpuState, _memory: Memory) -> int:
    """SETcc."""
    return int(holds(i.opcode.mnemonic.removeprefix("set"), vcpu.rflags))


def swapped(value: int, size: int) -> int:
    """`value` with its bytes in reverse."""
    return int.from_bytes(value.to_bytes(size, "little"), "big")


STORES: Final[dict[str, Value]] = {
    function.__name__: function for function in (store, store_swapped, store_condition)
}
"""By the opcode table's third column."""


# --- memory is read and written ------------------------------------------------------------

Updated = tuple[int, dict[int, int], int]


def modify(
    i: Instruction, vcpu: VcpuState, old: int, memory: Memory, source: Source | None = None
) -> Updated:
    """Memory = memory operation `source`."""
    right = source.read(vcpu) if source else 0
    new, flags = _OPERATIONS[i.opcode.mnemonic](old, right, vcpu.rflags, memory.size)
    return new, {}, flags


def shift_double(
    i: Instruction, vcpu: VcpuState, old: int, memory: Memory, filler: Register, count: Source
) -> Updated:
    """SHLD, SHRD."""
    distance = count.read(vcpu) & (0x3F if memory.size == 8 else 0x1F)
    shift = DOUBLE_SHIFTS[i.opcode.mnemonic]
    new, flags = shift(old, filler.read(vcpu), distance, vcpu.rflags, memory.size)
    return new, {}, flags


def exchange(_i: Instruction, vcpu: VcpuState, old: int, _memory: Memory, register: Register) -> Updated:
    """XCHG."""
    registers = {register.number: register.merged(vcpu, old)}
    return register.read(vcpu), registers, vcpu.rflags & ARITHMETIC


def exchange_add(i: Instruction, vcpu: VcpuState, old: int, memory: Memory, register: Register) -> Updated:
    """XADD."""
    new, _, flags = modify(i, vcpu, old, memory, register)
    return new, {register.number: register.merged(vcpu, old)}, flags


def exchange_if(_i: Instruction, vcpu: VcpuState, old: int, memory: Memory, source: Register) -> Updated:
    """CMPXCHG: what was found is written back if it was not expected (SDM vol. 2, CMPXCHG)."""
    accumulator = GENERAL[memory.size][RAX]
    difference, flags = subtract(accumulator.read(vcpu), old, 0, memory.size)
    if difference:
        return old, {RAX: accumulator.merged(vcpu, old)}, flags
    return source.read(vcpu), {}, flags


def exchange_pair(_i: Instruction, vcpu: VcpuState, old: int, memory: Memory) -> Updated:
    """CMPXCHG8B, CMPXCHG16B."""
    size = memory.size // 2
    low, high, new_low, new_high = (GENERAL[size][n].read(vcpu) for n in (RAX, RDX, RBX, RCX))
    if old != high << 8 * size | low:
        registers = {RAX: old & mask_of(size), RDX: old >> 8 * size}
        return old, registers, only(ZF, 0, vcpu.rflags)
    return new_high << 8 * size | new_low, {}, only(ZF, ZF, vcpu.rflags)


UPDATES: Final[dict[str, Update]] = {
    function.__name__: function
    for function in (modify, shift_double, exchange, exchange_add, exchange_if, exchange_pair)
}
"""By the opcode table's third column."""


SHAPES: Final[dict[str, Shape]] = {
    **{name: reading(result) for name, result in LOADS.items()},
    **{name: writing(value) for name, value in STORES.items()},
    **{name: updating(update) for name, update in UPDATES.items()},
}
"""By the opcode table's third column."""
