"""The direct form of a plan: one load or store of one register, without a generator.

It holds for what nearly every MMIO access is, and is built from the functions that the
generator uses; where anything is unusual `linear` answers SLOW and the generator runs.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from attrs import frozen

from mmiod.values import FS, READ, WRITE, Delta, Direction, VcpuState
from mmiod.x86.decoder import Instruction
from mmiod.x86.execution import completed
from mmiod.x86.mode import CODE64
from mmiod.x86.operands import Memory, Register, Selector
from mmiod.x86.segments import RFLAGS_AC
from mmiod.x86.semantics import loaded, loaded_signed

SLOW: Final = -1
"""No linear address: take the generator."""

_HIGHEST_LOW: Final = 0x7FFF_FFFF_FFFF
_LOWEST_HIGH: Final = 0xFFFF_8000_0000_0000
_HIGHEST: Final = 0xFFFF_FFFF_FFFF_FFFF
_WRITABLE_MASK: Final = 0x9E  # P, S and type without "accessed"
_WRITABLE: Final = 0x92  # present data, writable, expand-up


@frozen
class Direct:
    """A load or store of `size` bytes.

    `linear(vcpu)` is the address or SLOW; `value(vcpu)` is what a store writes (0 for a
    load); `delta(vcpu, value)` is the result, given what a load read.
    """

    size: int
    direction: Direction
    linear: Callable[[VcpuState], int]
    value: Callable[[VcpuState], int]
    delta: Callable[[VcpuState, int], Delta]


def direct_of(i: Instruction) -> Direct | None:
    """The direct form of `i`, if it has one."""
    match i.opcode.shape, i.operands:
        case "load", (Register() as register, Memory() as memory):
            return _load(i, memory, lambda vcpu, value: loaded(i, vcpu, register, value))
        case "load_signed", (Register() as register, Memory() as memory):
            size = memory.size
            return _load(i, memory, lambda vcpu, value: loaded_signed(i, vcpu, register, value, size))
        case "store", (Memory() as memory, source) if not isinstance(source, Memory | Selector):
            return Direct(
                memory.size, WRITE, _linear(i, memory), source.read, lambda vcpu, _: completed(i, vcpu, {})
            )
    return None


def _load(i: Instruction, memory: Memory, delta: Callable[[VcpuState, int], Delta]) -> Direct:
    return Direct(memory.size, READ, _linear(i, memory), lambda _: 0, delta)


def _linear(i: Instruction, memory: Memory) -> Callable[[VcpuState], int]:
    if i.mode is CODE64:
        return partial(_linear64, memory, memory.size - 1)
    return partial(_linear32, memory, memory.size - 1)


def _linear64(memory: Memory, rest: int, vcpu: VcpuState) -> int:
    address = memory.offset(vcpu)
    if vcpu.rflags & RFLAGS_AC:
        return SLOW
    if memory.segment >= FS:
        address = address + vcpu.segments[memory.segment].base & _HIGHEST
    if address + rest <= _HIGHEST_LOW or _LOWEST_HIGH <= address <= _HIGHEST - rest:
        return address
    return SLOW


def _linear32(memory: Memory, rest: int, vcpu: VcpuState) -> int:
    segment = vcpu.segments[memory.segment]
    offset = memory.offset(vcpu)
    if segment.attributes & _WRITABLE_MASK != _WRITABLE or vcpu.rflags & RFLAGS_AC:
        return SLOW
    return segment.base + offset & 0xFFFF_FFFF if offset + rest <= segment.limit else SLOW
