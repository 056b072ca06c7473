"""Delivery of interrupts and exceptions, which Unicorn leaves to its user.

Real mode goes through the interrupt vector table, protected mode through interrupt and
trap gates of the IDT (SDM vol. 3, 6.12 and 20.1.4; Intel's "IVT" and "IDT" are both at
IDTR.base).  That is what firmware uses.  Not done, and said so: task gates, a change of
privilege, virtual-8086 mode, and stacks that are reached through paging.

A gate that cannot be used ends in a triple fault at once; the #GP and #DF on the way
there are not delivered, since firmware has no handlers for them.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve, frozen
from unicorn import x86_const as x86
from unicorn.unicorn_py3.unicorn import Uc

from mmiod.values import CS, SS, VcpuState
from mmiod.vmm.accelerator import TripleFault, Unable
from mmiod.vmm.guest import GuestMemory
from mmiod.vmm.registers import Registers

ERROR_CODE: Final = frozenset({8, 10, 11, 12, 13, 14, 17})
"""Exceptions that push an error code."""
PAGE_FAULT: Final = 14

_PROTECTION: Final = 1 << 0
_PAGING: Final = 1 << 31
_TF, _IF, _NT, _RF, _VM, _AC = 1 << 8, 1 << 9, 1 << 14, 1 << 16, 1 << 17, 1 << 18
_PRESENT: Final = 1 << 7
_DEFAULT_BIG: Final = 1 << 14
_CODE_SEGMENT: Final = 0b11 << 3
_SELECTOR_INDEX: Final = 0xFFF8


@frozen
class _Gate:
    """How a vector is entered: where, with pushes of `width` bytes, which flags cleared."""

    selector: int
    offset: int
    width: int
    clears: int


def deliver(
    engine: Uc,
    registers: Registers,
    memory: GuestMemory,
    vector: int,
    error_code: int | None = None,
) -> None:
    """Enter the handler of `vector`; `registers.rip` is where it returns to.

    Raises:
        TripleFault: the vector has no usable gate.
        Unable: delivery needs what the module's text leaves out.
    """
    state = registers.load()
    protected = bool(state.cr0 & _PROTECTION)
    if state.cr0 & _PAGING or state.rflags & _VM:
        raise Unable(f"delivery of vector {vector:#x} with paging or in virtual-8086 mode")
    gate = _protected_gate(memory, state, vector) if protected else _real_gate(memory, state, vector)
    frame = [state.rflags, state.segments[CS].selector, state.rip]
    if protected and error_code is not None:
        frame.append(error_code)
    _push(engine, memory, state, frame, gate.width)
    registers.rflags = state.rflags & ~gate.clears
    if protected:
        engine.reg_write(x86.UC_X86_REG_CS, gate.selector)
    else:  # a 64-bit engine would look for a descriptor and leave the base
        code = evolve(state.segments[CS], selector=gate.selector, base=gate.selector << 4)
        registers.load_segments({CS: code})
    registers.rip = gate.offset
    registers.settle()


def _real_gate(memory: GuestMemory, state: VcpuState, vector: int) -> _Gate:
    entry = _entry(memory, state, vector, 4)
    return _Gate(entry >> 16, entry & 0xFFFF, 2, _IF | _TF | _AC)


def _protected_gate(memory: GuestMemory, state: VcpuState, vector: int) -> _Gate:
    entry = _entry(memory, state, vector, 8)
    selector, access = entry >> 16 & 0xFFFF, entry >> 40 & 0xFF
    kind = access & 0x1F
    if kind not in _GATES or not access & _PRESENT:
        if access & _PRESENT and kind == _TASK_GATE:
            raise Unable(f"delivery of vector {vector:#x} through a task gate")
        raise TripleFault(f"vector {vector:#x} has gate {entry:#x}")
    width, clears = _GATES[kind]
    _check_code(memory, state, selector, vector)
    offset = entry & 0xFFFF | (entry >> 32 & 0xFFFF_0000 if width == 4 else 0)
    return _Gate(selector, offset, width, clears)


_TASK_GATE: Final = 0x5
_CLEARED: Final = _TF | _NT | _RF | _VM
_GATES: Final = {
    0x6: (2, _CLEARED | _IF),
    0x7: (2, _CLEARED),
    0xE: (4, _CLEARED | _IF),
    0xF: (4, _CLEARED),
}
"""Interrupt and trap gates of 16 and 32 bits: what they push, which flags they clear."""


def _entry(memory: GuestMemory, state: VcpuState, vector: int, size: int) -> int:
    at = vector * size
    entry = memory.read(state.idtr.base + at, size)
    if at + size - 1 > state.idtr.limit or len(entry) < size:
        raise TripleFault(f"vector {vector:#x} is outside the table of {state.idtr.limit + 1:#x} bytes")
    return int.from_bytes(entry, "little")


def _check_code(memory: GuestMemory, state: VcpuState, selector: int, vector: int) -> None:
    """The gate's code segment must be present and at the current privilege level."""
    index = selector & _SELECTOR_INDEX
    descriptor = memory.read(state.gdtr.base + index, 8)
    access = descriptor[5] if len(descriptor) == 8 else 0
    if (
        not index
        or index + 7 > state.gdtr.limit
        or access & (_CODE_SEGMENT | _PRESENT) != _CODE_SEGMENT | _PRESENT
    ):
        raise TripleFault(f"vector {vector:#x} has selector {selector:#x}, no code segment")
    if access >> 5 & 3 != state.cpl:
        raise Unable(f"delivery of vector {vector:#x} with a change of privilege")


def _push(engine: Uc, memory: GuestMemory, state: VcpuState, frame: list[int], width: int) -> None:
    stack = state.segments[SS]
    mask = 0xFFFF_FFFF if stack.attributes & _DEFAULT_BIG else 0xFFFF
    pointer = state.gpr[4]
    for value in frame:
        pointer = pointer & ~mask | (pointer - width) & mask
        place = stack.base + (pointer & mask) & 0xFFFF_FFFF
        try:
            memory.write(place, (value & (1 << 8 * width) - 1).to_bytes(width, "little"))
        except ValueError as outside:
            raise Unable(f"delivery on a stack that is not RAM: {outside}") from None
    engine.reg_write(x86.UC_X86_REG_ESP, pointer & 0xFFFF_FFFF)
