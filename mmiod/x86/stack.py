"""Instructions whose stack, or whose operand besides the stack, may be in a device.

SDM vol. 1, 6.2 (stack and operand sizes); vol. 2, PUSH, POP, PUSHA, PUSHF, ENTER, LEAVE.
All slots and operands are probed before the first access.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Final

from mmiod.values import SS, Intent, VcpuState
from mmiod.x86 import faults, segments
from mmiod.x86.decoder import Instruction
from mmiod.x86.execution import completed, reach
from mmiod.x86.faults import GuestFault
from mmiod.x86.flows import Shape
from mmiod.x86.mode import ATTRIBUTE_D, CODE64, RFLAGS_VM
from mmiod.x86.operands import GENERAL, RBP, RSP, Immediate, Memory, Register, Source, mask_of
from mmiod.x86.steps import Probe, Read, Run, Step, Write

_RF_VM: Final = 1 << 16 | RFLAGS_VM
_IOPL: Final = 3 << 12
_IF: Final = 1 << 9
_POPPED: Final = 0x24_4DD5
"""What POPF changes at any CPL: ID AC NT OF DF TF SF ZF AF PF CF."""


def pointer(i: Instruction, vcpu: VcpuState) -> Register:
    """RSP, as wide as stack addresses are."""
    if i.mode is CODE64:
        return GENERAL[8][RSP]
    return GENERAL[4 if vcpu.segments[SS].attributes & ATTRIBUTE_D else 2][RSP]


def slot(
    i: Instruction, vcpu: VcpuState, displacement: int, intent: Intent, base: int = RSP
) -> Generator[Step, int, int]:
    """Check and probe the stack's element at rSP (or rBP) + `displacement`; its linear address."""
    mask = pointer(i, vcpu).mask
    offset = vcpu.gpr[base] + displacement & mask
    address = segments.linear(vcpu, i.mode, SS, offset, i.operand_size, intent)
    yield Probe(address, i.operand_size, intent)
    segments.check_alignment(vcpu, address, i.operand_size)
    return address


def slots(
    i: Instruction, vcpu: VcpuState, displacements: Iterable[int], intent: Intent, base: int = RSP
) -> Generator[Step, int, list[int]]:
    """As `slot`, for several elements."""
    found = []
    for displacement in displacements:
        address = yield from slot(i, vcpu, displacement, intent, base)
        found.append(address)
    return found


def moved(i: Instruction, vcpu: VcpuState, by: int, base: int = RSP) -> dict[int, int]:
    """RSP after a push or a pop of `by` bytes, counted from rSP (or rBP)."""
    register = pointer(i, vcpu)
    return {RSP: register.merged(vcpu, vcpu.gpr[base] + by & register.mask)}


def push(i: Instruction, vcpu: VcpuState, source: Source | Memory) -> Run:
    """PUSH."""
    size = i.operand_size
    found = 0
    if isinstance(source, Memory):
        found = yield from reach(i, vcpu, source, source.offset(vcpu), Intent.READ)
    top = yield from slot(i, vcpu, -size, Intent.WRITE)
    value = (yield Read(found, size)) if isinstance(source, Memory) else source.read(vcpu)
    yield Write(top, size, value)
    return completed(i, vcpu, moved(i, vcpu, -size))


def pop_memory(i: Instruction, vcpu: VcpuState, memory: Memory) -> Run:
    """POP to memory; a base of rSP is the one after the pop."""
    size = i.operand_size
    top = yield from slot(i, vcpu, 0, Intent.READ)
    offset = memory.offset(vcpu)
    if memory.base == RSP:
        offset = offset + size & memory.mask
    target = yield from reach(i, vcpu, memory, offset, Intent.WRITE)
    yield Write(target, size, (yield Read(top, size)))
    return completed(i, vcpu, moved(i, vcpu, size))


def pop_register(i: Instruction, vcpu: VcpuState, register: Register) -> Run:
    """POP; into rSP itself the value stays."""
    top = yield from slot(i, vcpu, 0, Intent.READ)
    value = yield Read(top, i.operand_size)
    registers = moved(i, vcpu, i.operand_size)
    registers[register.number] = register.merged(vcpu, value)
    return completed(i, vcpu, registers)


def push_all(i: Instruction, vcpu: VcpuState) -> Run:
    """PUSHA: rAX first, and rSP as it was."""
    size = i.operand_size
    targets = yield from slots(i, vcpu, range(-size, -9 * size, -size), Intent.WRITE)
    for address, register in zip(targets, GENERAL[size], strict=False):
        yield Write(address, size, register.read(vcpu))
    return completed(i, vcpu, moved(i, vcpu, -8 * size))


def pop_all(i: Instruction, vcpu: VcpuState) -> Run:
    """POPA: rDI first; rSP is passed over."""
    size, popped = i.operand_size, {}
    sources = yield from slots(i, vcpu, range(0, 8 * size, size), Intent.READ)
    for address, register in zip(sources, reversed(GENERAL[size][:8]), strict=True):
        if register.number != RSP:
            popped[register.number] = register.merged(vcpu, (yield Read(address, size)))
    return completed(i, vcpu, popped | moved(i, vcpu, 8 * size))


def push_flags(i: Instruction, vcpu: VcpuState) -> Run:
    """PUSHF: without RF and VM."""
    _check_virtual_8086(vcpu)
    top = yield from slot(i, vcpu, -i.operand_size, Intent.WRITE)
    yield Write(top, i.operand_size, vcpu.rflags & ~_RF_VM & mask_of(i.operand_size))
    return completed(i, vcpu, moved(i, vcpu, -i.operand_size))


def pop_flags(i: Instruction, vcpu: VcpuState) -> Run:
    """POPF: IF and IOPL only as far as the privilege goes."""
    _check_virtual_8086(vcpu)
    top = yield from slot(i, vcpu, 0, Intent.READ)
    value = yield Read(top, i.operand_size)
    changed = _POPPED
    if vcpu.cpl <= (vcpu.rflags & _IOPL) >> 12:
        changed |= _IF
    if not vcpu.cpl:
        changed |= _IOPL
    changed &= mask_of(i.operand_size)
    delta = completed(i, vcpu, moved(i, vcpu, i.operand_size))
    delta.rflags = delta.rflags & ~changed | value & changed
    return delta


def _check_virtual_8086(vcpu: VcpuState) -> None:
    """The flags of a virtual-8086 task are its monitor's, unless IOPL is 3."""
    if vcpu.rflags & RFLAGS_VM and vcpu.rflags & _IOPL != _IOPL:
        raise GuestFault(faults.GP, 0)


def enter(i: Instruction, vcpu: VcpuState, length: Immediate, level: Immediate) -> Run:
    """ENTER: the frames above are copied for nested procedures."""
    size, levels = i.operand_size, level.value % 32
    frame = moved(i, vcpu, -size)[RSP]
    pushed = levels + 1 if levels else 1
    sources = yield from slots(i, vcpu, range(-size, -size * levels, -size), Intent.READ, RBP)
    targets = yield from slots(i, vcpu, range(-size, -size * (pushed + 1), -size), Intent.WRITE)
    yield Write(targets[0], size, GENERAL[size][RBP].read(vcpu))
    for source, target in zip(sources, targets[1:], strict=False):
        yield Write(target, size, (yield Read(source, size)))
    if levels:
        yield Write(targets[-1], size, frame & mask_of(size))
    registers = moved(i, vcpu, -size * pushed - length.value)
    return completed(i, vcpu, registers | {RBP: GENERAL[size][RBP].merged(vcpu, frame & mask_of(size))})


def leave(i: Instruction, vcpu: VcpuState) -> Run:
    """LEAVE."""
    size = i.operand_size
    top = yield from slot(i, vcpu, 0, Intent.READ, RBP)
    value = yield Read(top, size)
    registers = moved(i, vcpu, size, RBP)
    return completed(i, vcpu, registers | {RBP: GENERAL[size][RBP].merged(vcpu, value)})


SHAPES: Final[dict[str, Shape]] = {
    shape.__name__: shape
    for shape in (
        *(push, pop_memory, pop_register, push_all, pop_all),
        *(push_flags, pop_flags, enter, leave),
    )
}
"""By the opcode table's third column."""
