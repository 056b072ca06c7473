"""Loads and stores of one register, prepared: the instruction's half of the flat lane.

A `Move` holds for one instruction (its bytes) in one environment: CR0, CR4, EFER, DR7 and the
segment registers as they were when it was made.  What is left are a handful of words of each exit.
It is made of the plan's direct form (`mmiod.x86.direct`), which with `core/direct.py` and
`core/translation.py` is its specification; where they would do more than is done here, a move says
SLOW, or is not made at all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import define

from mmiod.core.lane import SLOW
from mmiod.values import FS, READ, Direction, Intent, VcpuState
from mmiod.x86 import Plan, decode, mode_of
from mmiod.x86.flags import RF, TF
from mmiod.x86.mode import CODE64, INSTRUCTION_POINTER_MASK
from mmiod.x86.operands import Immediate, Register, signed

PAGE: Final = 4096
CR0_PG: Final = 1 << 31
_BREAKPOINTS: Final = 0xFF
_AC: Final = 1 << 18
_VM: Final = 1 << 17
SLOW_FLAGS: Final = _AC | TF | _VM
LOW_HALF: Final = 1 << 47
HIGH_HALF: Final = 0xFFFF_8000_0000_0000
_LINEAR: Final = {False: 0xFFFF_FFFF, True: 0xFFFF_FFFF_FFFF_FFFF}
_PLAIN: Final = 0x92
_TYPE: Final = 0x9E
_LAST_CODE: Final = 16
"""Bytes before an end of the code's room within which an instruction may not fit."""


@define(eq=False)
class Move:
    """`size` bytes between memory and a register, or an immediate."""

    cr0: int
    size: int
    direction: Direction
    intent: Intent
    base: int
    index: int
    """Numbers of registers, -1 for none."""
    scale: int
    displacement: int
    relative: bool
    mask: int
    wide: bool
    segment_base: int
    limit: int
    """First offset behind the segment; 0: not checked."""
    length: int
    code_end: int
    """First RIP at which the instruction may not fit."""
    rip_mask: int
    number: int
    """Of the register, -1 for an immediate."""
    shift: int
    part: int
    """The mask of a stored register's bytes, or of what a load replaces of one; 0: all of it."""
    extended: int
    """The mask to which a load extends the sign; 0: it does not."""
    immediate: int
    paged: bool

    def linear(self, registers: Sequence[int], rip: int, rflags: int) -> int:
        """The linear address, all of whose bytes are in one page; or SLOW."""
        if rflags & SLOW_FLAGS:
            return SLOW
        offset = self.displacement
        if self.base >= 0:
            offset += registers[self.base]
        if self.index >= 0:
            offset += registers[self.index] << self.scale
        if self.relative:
            offset += rip
        offset &= self.mask
        if self.wide:
            address = self.segment_base + offset & 0xFFFF_FFFF_FFFF_FFFF
            if LOW_HALF - PAGE <= address < HIGH_HALF or LOW_HALF - PAGE <= rip < HIGH_HALF:
                return SLOW
        else:
            if offset + self.size > self.limit or rip >= self.code_end:
                return SLOW
            address = self.segment_base + offset & 0xFFFF_FFFF if self.segment_base else offset
        return address if address % PAGE + self.size <= PAGE else SLOW

    def value(self, registers: Sequence[int]) -> int:
        """What a store writes."""
        if self.number < 0:
            return self.immediate
        return registers[self.number] >> self.shift & self.part

    def loaded(self, registers: Sequence[int], value: int) -> int:
        """The register behind a load."""
        if self.extended:
            value = signed(value, self.size) & self.extended
        if self.part:
            value = registers[self.number] & ~(self.part << self.shift) | value << self.shift
        return value

    def behind(self, rip: int, rflags: int) -> tuple[int, int]:
        """RIP and RFLAGS when it is done."""
        return rip + self.length & self.rip_mask, rflags & ~RF


def move_of(state: VcpuState, code: bytes, *, vectors: bool) -> Move | None:
    """The move that these bytes are on this vCPU, if they are one."""
    mode = mode_of(state)
    plan = decode(code, mode)
    if not isinstance(plan, Plan) or plan.direct is None or plan.instruction.opcode.aligned:
        return None
    if state.rflags & SLOW_FLAGS or (vectors and state.dr7 & _BREAKPOINTS):
        return None
    direct, memory, wide = plan.direct, plan.direct.memory, mode is CODE64
    segment, limit = state.segments[memory.segment], 0
    if not wide:
        if segment.attributes & _TYPE != _PLAIN:
            return None
        limit = segment.limit + 1
    source = direct.source if direct.direction != READ else plan.instruction.operands[0]
    if not isinstance(source, Register | Immediate):
        return None
    register = source if isinstance(source, Register) else None
    part = extended = 0
    if register is not None:
        part = register.mask if direct.direction != READ or register.size < 4 else 0
        if direct.result is not None and direct.result.__name__ == "load_signed":
            extended = register.mask
    return Move(
        state.cr0, memory.size, direct.direction, direct.intent,
        -1 if memory.base is None else memory.base, -1 if memory.index is None else memory.index,
        memory.scale, memory.displacement, memory.relative, memory.mask, wide,
        segment.base if not wide or memory.segment >= FS else 0, limit,
        plan.instruction.length, state.segments[1].limit - _LAST_CODE, INSTRUCTION_POINTER_MASK[mode],
        -1 if register is None else register.number, 0 if register is None else register.shift,
        part, extended, source.value if isinstance(source, Immediate) else 0, bool(state.cr0 & CR0_PG),
    )  # fmt: skip
