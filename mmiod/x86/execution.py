"""What all shapes of instructions share: reaching memory, and being done."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from mmiod.values import Delta, Intent, VcpuState
from mmiod.x86 import segments
from mmiod.x86.decoder import Instruction
from mmiod.x86.flags import ARITHMETIC, RF, TF
from mmiod.x86.mode import INSTRUCTION_POINTER_MASK
from mmiod.x86.operands import Memory
from mmiod.x86.steps import Probe, Step

DR6_BS: Final = 1 << 14
"""A single step (SDM vol. 3, 17.2.3 and 17.3.1.4)."""


_BUT_RF: Final = ~RF


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
    rflags = vcpu.rflags & _BUT_RF
    if flags is not None:
        rflags = rflags & ~ARITHMETIC | flags
    rip = vcpu.rip + i.length & INSTRUCTION_POINTER_MASK[i.mode]
    delta = Delta(rip, rflags, registers)
    if rflags & TF:
        delta.debug = single_step(vcpu)
    return delta


def single_step(vcpu: VcpuState) -> int:
    """What DR6 gets when an instruction, or an iteration of a REP, is done: BS if TF was set."""
    return DR6_BS if vcpu.rflags & TF else 0
