"""The direct form of a plan: one load or store of one register, without a generator.

It holds for what nearly every MMIO access is, and is built from the functions that the
generator uses; where that would fault `linear` answers SLOW and the generator runs.
"""

from __future__ import annotations

from typing import Final

from attrs import define

from mmiod.values import READ, WRITE, Delta, Direction, Intent, VcpuState
from mmiod.x86.decoder import Instruction
from mmiod.x86.execution import completed
from mmiod.x86.faults import GuestFault
from mmiod.x86.flows import Result, locate
from mmiod.x86.operands import Immediate, Memory, Register
from mmiod.x86.segments import RFLAGS_AC
from mmiod.x86.semantics import load, load_signed

SLOW: Final = -1
"""No linear address: take the generator."""


@define(eq=False)
class Direct:
    """A load or store of `size` bytes.

    `linear(vcpu)` is the address or SLOW; `value(vcpu)` is what a store writes (0 for a
    load); `delta(vcpu, value)` is the result, given what a load read.
    """

    instruction: Instruction
    memory: Memory
    direction: Direction
    intent: Intent
    source: Register | Immediate | None
    """None for a load."""
    result: Result | None
    """None for a store."""

    @property
    def size(self) -> int:
        """Bytes of the access."""
        return self.memory.size

    def linear(self, vcpu: VcpuState) -> int:
        """The linear address, or SLOW."""
        if vcpu.rflags & RFLAGS_AC:
            return SLOW
        memory = self.memory
        try:
            return locate(self.instruction, vcpu, memory, memory.offset(vcpu), self.intent)
        except GuestFault:
            return SLOW

    def value(self, vcpu: VcpuState) -> int:
        """What is written."""
        return self.source.read(vcpu) if self.source else 0

    def delta(self, vcpu: VcpuState, value: int) -> Delta:
        """What the instruction does, given what was read."""
        if self.result is None:
            return completed(self.instruction, vcpu, {})
        return self.result(self.instruction, vcpu, value, *self.instruction.operands)


_LOADS: Final = {function.__name__: function for function in (load, load_signed)}


def direct_of(i: Instruction) -> Direct | None:
    """The direct form of `i`, if it has one."""
    shape, memory = i.opcode.shape, i.memory
    if type(memory) is not Memory:  # the tables of bits and of XLAT are not plain
        return None
    if shape in _LOADS:
        return Direct(i, memory, READ, Intent.READ, None, _LOADS[shape])
    source = i.operands[-1]
    if shape == "store" and isinstance(source, Register | Immediate):
        return Direct(i, memory, WRITE, Intent.WRITE, source, None)
    return None
