"""Plans: decoded instructions ready to run, and the cache in front of the decoder."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from attrs import define

from mmiod.values import VcpuState
from mmiod.x86.cursor import NeedMore, NotSupported, Undecodable, Undefined
from mmiod.x86.decoder import Instruction, decode_instruction
from mmiod.x86.direct import Direct, direct_of
from mmiod.x86.mode import Mode
from mmiod.x86.semantics import SHAPES, Shape
from mmiod.x86.steps import Run
from mmiod.x86.strings import Batch

REP_BOUND: Final = 1024
"""Iterations of a REP in one run; the guest executes the instruction again for the rest."""

PLANS: Final = 8192
"""Plans kept; by bytes and mode alone, so code that changes or moves needs no flush."""


@define(eq=False)
class Plan:
    """An instruction that can be executed on any vCPU in its mode."""

    instruction: Instruction
    shape: Shape | None
    """None for string instructions, which are repeated by a `Batch`."""
    direct: Direct | None

    @property
    def length(self) -> int:
        """Bytes of the instruction."""
        return self.instruction.length

    def run(self, vcpu: VcpuState, rep_bound: int = REP_BOUND) -> Run:
        """Execute on `vcpu`, which is only read.

        Yields steps, takes their answers, returns the delta.  Raises GuestFault (its
        `delta` tells iterations done before it) and Suspend (nothing was done).
        """
        if self.shape is None:
            return Batch(self.instruction, vcpu).run(rep_bound)
        return self.shape(self.instruction, vcpu, *self.instruction.operands)


@lru_cache(maxsize=PLANS)
def decode(code: bytes, mode: Mode) -> Plan | NeedMore | Undefined | NotSupported:
    """The plan of the instruction at the beginning of `code`, or why there is none."""
    try:
        instruction = decode_instruction(code, mode)
    except Undecodable as stop:
        return stop.outcome
    return Plan(instruction, SHAPES.get(instruction.opcode.shape), direct_of(instruction))
