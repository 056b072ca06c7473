"""What works on cache lines, or on nothing: CLFLUSH and its kin, PREFETCH, NOP, MOVDIR64B."""

from __future__ import annotations

from typing import Final

from mmiod.values import ES, Intent, VcpuState
from mmiod.x86.decoder import Instruction
from mmiod.x86.execution import completed, reach
from mmiod.x86.flows import Shape, locate
from mmiod.x86.operands import Memory, Register
from mmiod.x86.steps import Probe, Read, Run, Write


def nothing(i: Instruction, vcpu: VcpuState, _memory: Memory) -> Run:
    """NOP, PREFETCH: hints, which do not even translate their operand."""
    yield from ()
    return completed(i, vcpu, {})


def touch(i: Instruction, vcpu: VcpuState, memory: Memory) -> Run:
    """CLFLUSH, CLFLUSHOPT, CLWB: checked as a read of one byte; a device has no lines to flush."""
    yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.READ)
    return completed(i, vcpu, {})


def move_direct(i: Instruction, vcpu: VcpuState, target: Register, memory: Memory) -> Run:
    """MOVDIR64B: one write of 64 bytes, aligned, to ES:register (SDM vol. 2, MOVDIR64B)."""
    source = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.READ)
    line = Memory(memory.size, ES, target.mask, target.number)
    address = locate(i, vcpu, line, line.offset(vcpu), Intent.WRITE)
    yield Probe(address, memory.size, Intent.WRITE)
    yield Write(address, memory.size, (yield Read(source, memory.size)))
    return completed(i, vcpu, {})


SHAPES: Final[dict[str, Shape]] = {shape.__name__: shape for shape in (nothing, touch, move_direct)}
"""By the opcode table's third column."""
