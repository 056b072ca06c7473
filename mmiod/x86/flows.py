"""The ways in which instructions access memory, each around a pure function.

`reading`, `writing` and `updating` make a shape of a function that knows no memory: it
computes what happens to a value that was read, which value is written, or both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmiod.values import Delta, Intent, Retry, VcpuState
from mmiod.x86 import faults
from mmiod.x86.decoder import Instruction
from mmiod.x86.execution import completed
from mmiod.x86.faults import GuestFault, Suspend
from mmiod.x86.operands import Memory
from mmiod.x86.segments import RFLAGS_AC, check_alignment, linear
from mmiod.x86.steps import Cas, Probe, Read, Run, Write

Shape = Callable[..., Run]
"""Executes an instruction: called with it, the vCPU and its operands."""

Result = Callable[..., Delta]
"""(instruction, vCPU, value that was read, operands) to what the instruction did."""
Value = Callable[..., int]
"""(instruction, vCPU, operands) to the value that is written."""
Update = Callable[..., tuple[int, dict[int, int], int]]
"""(instruction, vCPU, value that was read, operands) to the new value, registers, arithmetic flags."""


def locate(i: Instruction, vcpu: VcpuState, memory: Memory, offset: int, intent: Intent) -> int:
    """The linear address of an operand at `offset` in its segment, checked but for paging."""
    address = linear(vcpu, i.mode, memory.segment, offset, memory.size, intent)
    check_aligned(i, address, memory.size)
    return address


def check_aligned(i: Instruction, address: int, size: int) -> None:
    """Raise #GP(0) where the instruction itself wants alignment."""
    aligned = i.opcode.aligned
    if aligned and size >= aligned and address & size - 1:
        raise GuestFault(faults.GP, 0)


_READ: Final = Intent.READ
_WRITE: Final = Intent.WRITE


def reading(result: Result) -> Shape:
    """Reads memory.

    The access needs no probe, as nothing precedes it, but where #AC may: a page fault is before that.
    """

    def shape(i: Instruction, vcpu: VcpuState, *_: object) -> Run:
        memory = i.memory
        assert memory is not None
        size = memory.size
        address = linear(vcpu, i.mode, memory.segment, memory.offset(vcpu), size, _READ)
        if i.opcode.aligned:
            check_aligned(i, address, size)
        if vcpu.rflags & RFLAGS_AC:
            yield Probe(address, size, _READ)
            check_alignment(vcpu, address, size)
        found = yield Read(address, size)
        return result(i, vcpu, found, *i.operands)

    return shape


def writing(value: Value) -> Shape:
    """Writes memory; probed as by `reading`."""

    def shape(i: Instruction, vcpu: VcpuState, *_: object) -> Run:
        memory = i.memory
        assert memory is not None
        size = memory.size
        address = linear(vcpu, i.mode, memory.segment, memory.offset(vcpu), size, _WRITE)
        if i.opcode.aligned:
            check_aligned(i, address, size)
        if vcpu.rflags & RFLAGS_AC:
            yield Probe(address, size, _WRITE)
            check_alignment(vcpu, address, size)
        yield Write(address, size, value(i, vcpu, *i.operands))
        return completed(i, vcpu, {})

    return shape


def updating(update: Update) -> Shape:
    """Reads and writes memory; if that has to be one access, by a compare-and-swap.

    If another vCPU was faster nothing has happened, and the guest tries again.
    """

    def shape(i: Instruction, vcpu: VcpuState, *_: object) -> Run:
        memory = i.memory
        assert memory is not None
        size = memory.size
        address = linear(vcpu, i.mode, memory.segment, memory.offset(vcpu), size, _WRITE)
        if i.opcode.aligned:
            check_aligned(i, address, size)
        yield Probe(address, size, _WRITE)
        if vcpu.rflags & RFLAGS_AC:
            check_alignment(vcpu, address, size)
        old = yield Read(address, size)
        new, registers, flags = update(i, vcpu, old, *i.operands)
        if not i.lock:
            yield Write(address, size, new)
        elif (yield Cas(address, size, old, new)) != old:
            raise Suspend(Retry())
        return completed(i, vcpu, registers, flags)

    return shape
