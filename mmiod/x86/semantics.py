"""What instructions do, by shape: how an operation is joined to memory and registers.

A shape is called with the instruction, the vCPU and the instruction's operands, which
the opcode table guarantees to be of the kinds that the shape names.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Final

from mmiod.values import Delta, Intent, Retry, VcpuState
from mmiod.x86.decoder import Instruction
from mmiod.x86.execution import completed, reach
from mmiod.x86.faults import Suspend
from mmiod.x86.flags import CF, OPERATIONS
from mmiod.x86.operands import Memory, Register, Source, signed
from mmiod.x86.ports import port_in, port_out
from mmiod.x86.steps import Cas, Read, Run, Step, Write

Shape = Callable[..., Run]


def loaded(i: Instruction, vcpu: VcpuState, register: Register, value: int) -> Delta:
    """`register` takes `value`, which memory gave, zero-extended."""
    return completed(i, vcpu, {register.number: register.merged(vcpu, value)})


def loaded_signed(i: Instruction, vcpu: VcpuState, register: Register, value: int, size: int) -> Delta:
    """`register` takes `value` of `size` bytes, sign-extended."""
    return loaded(i, vcpu, register, signed(value, size) & register.mask)


def load(i: Instruction, vcpu: VcpuState, register: Register, memory: Memory) -> Run:
    """MOV from memory, MOVZX."""
    address = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.READ)
    value = yield Read(address, memory.size)
    return loaded(i, vcpu, register, value)


def load_signed(i: Instruction, vcpu: VcpuState, register: Register, memory: Memory) -> Run:
    """MOVSX, MOVSXD."""
    address = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.READ)
    value = yield Read(address, memory.size)
    return loaded_signed(i, vcpu, register, value, memory.size)


def store(i: Instruction, vcpu: VcpuState, memory: Memory, source: Source) -> Run:
    """MOV to memory."""
    address = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.WRITE)
    yield Write(address, memory.size, source.read(vcpu))
    return completed(i, vcpu, {})


def combine(i: Instruction, vcpu: VcpuState, register: Register, memory: Memory) -> Run:
    """`register` = `register` operation `memory`."""
    address = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.READ)
    value = yield Read(address, memory.size)
    operation = OPERATIONS[i.opcode.mnemonic]
    result, flags = operation(register.read(vcpu), value, vcpu.rflags & CF, memory.size)
    return completed(i, vcpu, {register.number: register.merged(vcpu, result)}, flags)


def compare(i: Instruction, vcpu: VcpuState, left: Source | Memory, right: Source | Memory) -> Run:
    """CMP, TEST: flags only."""
    memory = left if isinstance(left, Memory) else right
    assert isinstance(memory, Memory)
    address = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.READ)
    found = yield Read(address, memory.size)
    first, second = (
        found if isinstance(operand, Memory) else operand.read(vcpu) for operand in (left, right)
    )
    _, flags = OPERATIONS[i.opcode.mnemonic](first, second, 0, memory.size)
    return completed(i, vcpu, {}, flags)


def modify(i: Instruction, vcpu: VcpuState, memory: Memory, source: Source) -> Run:
    """`memory` = `memory` operation `source`; a compare-and-swap with LOCK."""
    address = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.WRITE)
    old = yield Read(address, memory.size)
    operation = OPERATIONS[i.opcode.mnemonic]
    new, flags = operation(old, source.read(vcpu), vcpu.rflags & CF, memory.size)
    if i.lock:
        yield from swap(address, memory.size, old, new)
    else:
        yield Write(address, memory.size, new)
    return completed(i, vcpu, {}, flags)


def exchange(i: Instruction, vcpu: VcpuState, memory: Memory, register: Register) -> Run:
    """XCHG: locked with or without the prefix (SDM vol. 3, 8.1.2.1)."""
    address = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.WRITE)
    old = yield Read(address, memory.size)
    yield from swap(address, memory.size, old, register.read(vcpu))
    return loaded(i, vcpu, register, old)


def swap(address: int, size: int, old: int, new: int) -> Generator[Step, int, None]:
    """Replace `old`; if another vCPU was faster nothing happened, and the guest tries again."""
    if (yield Cas(address, size, old, new)) != old:
        raise Suspend(Retry())


SHAPES: Final[dict[str, Shape]] = {
    shape.__name__: shape
    for shape in (load, load_signed, store, combine, compare, modify, exchange, port_in, port_out)
}
"""By the opcode table's third column."""
