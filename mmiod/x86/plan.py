"""Plans: decoded instructions ready to run, and the cache in front of the decoder."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Final

from attrs import define

from mmiod.values import VcpuState
from mmiod.x86 import (
    bmi,
    descriptors,
    enqueue,
    lines,
    msrs,
    ports,
    semantics,
    stack,
    transfers,
    vectors,
)
from mmiod.x86.cursor import NeedMore, NotSupported, Undecodable, Undefined
from mmiod.x86.decoder import Instruction, decode_instruction
from mmiod.x86.direct import Direct, direct_of
from mmiod.x86.flows import Shape
from mmiod.x86.mode import Mode
from mmiod.x86.steps import Run
from mmiod.x86.strings import ELEMENTS, Batch

_OTHERS: Final = (ports, stack, descriptors, transfers, lines, enqueue, msrs, vectors, bmi)


def _spread(execute: Callable[..., Run]) -> Shape:
    """A shape of a function that takes the operands one by one."""
    return lambda i, vcpu: execute(i, vcpu, *i.operands)


SHAPES: Final[dict[str, Shape]] = semantics.SHAPES | {
    name: _spread(execute) for module in _OTHERS for name, execute in module.SHAPES.items()
}
"""By the opcode table's third column."""

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

    @property
    def vectors(self) -> bool:
        """Whether it reads or changes vector registers."""
        return "vector" in self.instruction.opcode.attributes

    def run(self, vcpu: VcpuState, rep_bound: int = REP_BOUND) -> Run:
        """Execute on `vcpu`, which is only read.

        Yields steps, takes their answers, returns the delta.  Raises GuestFault (its
        `delta` tells iterations done before it) and Suspend (nothing was done).
        """
        i, shape = self.instruction, self.shape
        if shape is None:
            return Batch(i, vcpu).run(rep_bound)
        return shape(i, vcpu)


@lru_cache(maxsize=PLANS)
def decode(code: bytes, mode: Mode) -> Plan | NeedMore | Undefined | NotSupported:
    """The plan of the instruction at the beginning of `code`, or why there is none."""
    try:
        instruction = decode_instruction(code, mode)
    except Undecodable as stop:
        return stop.outcome
    shape = instruction.opcode.shape
    return Plan(instruction, None if shape in ELEMENTS else SHAPES[shape], direct_of(instruction))
