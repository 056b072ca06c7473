"""What all shapes of instructions share: reaching memory, and being done."""

from __future__ import annotations

from collections.abc import Generator

from mmiod.values import Delta, Intent, VcpuState
from mmiod.x86 import segments
from mmiod.x86.decoder import Instruction
from mmiod.x86.flags import ARITHMETIC, RF
from mmiod.x86.mode import INSTRUCTION_POINTER_MASK
from mmiod.x86.operands import Memory
from mmiod.x86.steps import Probe, Step


def reach(
    i: Instruction, vcpu: VcpuState, memory: Memory, offset: int, intent: Intent
) -> Generator[Step, int, int]:
    """Check and probe an operand at `offset` in its segment; gives its linear address."""
    address = segments.linear(vcpu, i.mode, memory.segment, offset, memory.size, intent)
    yield Probe(address, memory.size, intent)
    segments.check_alignment(vcpu, address, memory.size)
    return address


def completed(i: Instruction, vcpu: VcpuState, registers: dict[int, int], flags: int | None = None) -> Delta:
    """The instruction is done: RIP behind it, RF clear, `flags` (if any) all arithmetic ones."""
    rflags = vcpu.rflags & ~RF
    if flags is not None:
        rflags = rflags & ~ARITHMETIC | flags
    return Delta(vcpu.rip + i.length & INSTRUCTION_POINTER_MASK[i.mode], rflags, registers)
