"""Jumps, calls and returns whose pointer or stack may be in a device.

SDM vol. 2, CALL, JMP, RET; vol. 3, 5.8.1 (far transfers to code segments).  Call gates
and task switches are not supported.  Where vendors differ: 66 makes a near transfer of
64-bit code 2 bytes wide as on AMD's processors, REX.W a far one 8 bytes as on Intel's.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from mmiod.values import CS, Delta, Intent, Segment, Unsupported, VcpuState
from mmiod.x86 import faults
from mmiod.x86.decoder import Instruction
from mmiod.x86.descriptors import (
    CONFORMING,
    EXECUTABLE,
    MEMORY,
    PRESENT,
    Descriptors,
    descriptors,
    privilege,
    real_segment,
    segment_of,
)
from mmiod.x86.execution import completed, reach
from mmiod.x86.faults import GuestFault, Suspend
from mmiod.x86.flows import Shape, reading
from mmiod.x86.mode import ATTRIBUTE_D, ATTRIBUTE_L, CODE64, EFER_LMA
from mmiod.x86.operands import Immediate, Memory, mask_of
from mmiod.x86.segments import canonical, check_target, protected
from mmiod.x86.stack import moved, slot
from mmiod.x86.steps import Read, Run, Step, Write

_GATES: Final = frozenset({0x1, 0x3, 0x4, 0x5, 0x9, 0xB, 0xC})
"""System descriptors that a far transfer goes through: TSS, call gate, task gate."""


def _next(i: Instruction, vcpu: VcpuState) -> int:
    """The return address."""
    return completed(i, vcpu, {}).rip & mask_of(i.operand_size)


def _gone(i: Instruction, vcpu: VcpuState, target: int, registers: dict[int, int]) -> Delta:
    """The instruction is done and execution goes on at `target`."""
    delta = completed(i, vcpu, registers)
    delta.rip = check_target(vcpu, i.mode, target)
    return delta


# --- near --------------------------------------------------------------------------------


def jump(i: Instruction, vcpu: VcpuState, target: int, _memory: Memory) -> Delta:
    """JMP through memory."""
    return _gone(i, vcpu, target, {})


def call(i: Instruction, vcpu: VcpuState, memory: Memory) -> Run:
    """CALL through memory."""
    address = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.READ)
    top = yield from slot(i, vcpu, -i.operand_size, Intent.WRITE)
    delta = _gone(i, vcpu, (yield Read(address, memory.size)), moved(i, vcpu, -i.operand_size))
    yield Write(top, i.operand_size, _next(i, vcpu))
    return delta


def call_relative(i: Instruction, vcpu: VcpuState, displacement: Immediate) -> Run:
    """CALL."""
    target = _next(i, vcpu) + displacement.value & mask_of(i.operand_size)
    delta = _gone(i, vcpu, target, moved(i, vcpu, -i.operand_size))
    top = yield from slot(i, vcpu, -i.operand_size, Intent.WRITE)
    yield Write(top, i.operand_size, _next(i, vcpu))
    return delta


def ret(i: Instruction, vcpu: VcpuState, released: Immediate | None = None) -> Run:
    """RET."""
    top = yield from slot(i, vcpu, 0, Intent.READ)
    target = yield Read(top, i.operand_size)
    return _gone(i, vcpu, target, moved(i, vcpu, i.operand_size + (released.value if released else 0)))


# --- far ---------------------------------------------------------------------------------


def jump_far(i: Instruction, vcpu: VcpuState, memory: Memory) -> Run:
    """JMP to another code segment."""
    address = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.READ)
    return (yield from _enter(i, vcpu, address))


def call_far(i: Instruction, vcpu: VcpuState, memory: Memory) -> Run:
    """CALL of another code segment."""
    size = i.operand_size
    address = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.READ)
    selector = yield from slot(i, vcpu, -size, Intent.WRITE)
    pointer = yield from slot(i, vcpu, -2 * size, Intent.WRITE)
    delta = yield from _enter(i, vcpu, address)
    yield Write(selector, size, vcpu.segments[CS].selector)
    yield Write(pointer, size, _next(i, vcpu))
    delta.registers = moved(i, vcpu, -2 * size)
    return delta


def _enter(i: Instruction, vcpu: VcpuState, address: int) -> Generator[Step, int, Delta]:
    """Read the far pointer at `address`, and go there."""
    known = yield from descriptors(vcpu)
    target = yield Read(address, i.operand_size)
    selector = yield Read(address + i.operand_size & mask_of(8 if i.mode is CODE64 else 4), 2)
    segment = yield from _code_segment(i, vcpu, known, selector)
    _check(vcpu, segment, target)
    delta = completed(i, vcpu, {})
    delta.rip, delta.segments = target, {CS: segment}
    return delta


def _code_segment(
    i: Instruction, vcpu: VcpuState, known: Descriptors, selector: int
) -> Generator[Step, int, Segment]:
    """What CS holds after a transfer without a change of privilege."""
    if not protected(vcpu):
        return real_segment(vcpu, CS, selector)
    if not selector & ~3:
        raise GuestFault(faults.GP, 0)
    descriptor = yield from known.find(selector)
    segment = segment_of(selector & ~3 | vcpu.cpl, descriptor)
    if not segment.attributes & MEMORY and descriptor >> 40 & 0xF in _GATES:
        raise Suspend(Unsupported(i.code))
    if not _enterable(vcpu, segment, selector & 3):
        raise GuestFault(faults.GP, selector & ~3)
    if not segment.attributes & PRESENT:
        raise GuestFault(faults.NP, selector & ~3)
    yield from known.accessed(selector, descriptor)
    return segment


def _enterable(vcpu: VcpuState, segment: Segment, requested: int) -> bool:
    attributes = segment.attributes
    if attributes & (MEMORY | EXECUTABLE) != MEMORY | EXECUTABLE:
        return False
    if vcpu.efer & EFER_LMA and attributes & ATTRIBUTE_L and attributes & ATTRIBUTE_D:
        return False
    if attributes & CONFORMING:
        return privilege(segment) <= vcpu.cpl
    return requested <= vcpu.cpl == privilege(segment)


def _check(vcpu: VcpuState, segment: Segment, target: int) -> None:
    """Raise #GP(0) if no code can be at `target` in `segment`."""
    long = vcpu.efer & EFER_LMA and segment.attributes & ATTRIBUTE_L
    if not (canonical(vcpu, target) if long else target <= segment.limit):
        raise GuestFault(faults.GP, 0)


SHAPES: Final[dict[str, Shape]] = {
    "jump": reading(jump),
    **{shape.__name__: shape for shape in (call, call_relative, ret, jump_far, call_far)},
}
"""By the opcode table's third column."""
