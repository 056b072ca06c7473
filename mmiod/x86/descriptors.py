"""Loading segment registers (SDM vol. 3, 3.4.2-3.4.5, 5.2-5.6; vol. 2, MOV, POP).

A selector that comes from a device must not be read twice, so the beginning of each
descriptor table, which holds all that systems use, is read before it: nothing that only
the hypervisor can supply is missing afterwards.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from attrs import define

from mmiod.values import SS, Delta, Intent, Segment, VcpuState
from mmiod.x86 import faults
from mmiod.x86.decoder import Instruction
from mmiod.x86.execution import completed, reach
from mmiod.x86.faults import GuestFault
from mmiod.x86.flows import Shape
from mmiod.x86.mode import CODE64, EFER_LMA, RFLAGS_VM
from mmiod.x86.operands import Memory, Selector
from mmiod.x86.segments import protected
from mmiod.x86.stack import moved, slot
from mmiod.x86.steps import ProbeSystem, Read, ReadSystem, Run, Step, WriteSystem

_PAGE: Final = 4096
_VIRTUAL_8086: Final = 0xF3
"""Attributes of every segment of a virtual-8086 task."""

ACCESSED, READABLE, WRITABLE, CONFORMING, EXECUTABLE = 1, 2, 2, 4, 8
MEMORY, PRESENT = 0x10, 0x80
_GRANULAR: Final = 0x8000


@define
class Descriptors:
    """The beginnings of the GDT and the LDT, as (base, limit, bytes read)."""

    vcpu: VcpuState
    tables: list[tuple[Segment, bytes]]

    def find(self, selector: int) -> Generator[Step, int, int]:
        """The descriptor, 8 bytes; raises #GP(selector) beyond the table's limit."""
        table, data = self.tables[selector >> 2 & 1]
        start = selector & ~7
        if start + 7 > table.limit or not table.attributes & PRESENT:
            raise GuestFault(faults.GP, selector & ~3)
        if start + 8 <= len(data):
            return int.from_bytes(data[start : start + 8], "little")
        return (yield ReadSystem(self._linear(table, start), 8))

    def accessed(self, selector: int, descriptor: int) -> Generator[Step, int, None]:
        """Set the accessed bit, if it is not set."""
        access = descriptor >> 40 & 0xFF
        if not access & ACCESSED:
            table, _ = self.tables[selector >> 2 & 1]
            yield WriteSystem(self._linear(table, (selector & ~7) + 5), 1, access | ACCESSED)

    def _linear(self, table: Segment, offset: int) -> int:
        return table.base + offset & (1 << (64 if self.vcpu.efer & EFER_LMA else 32)) - 1


def descriptors(vcpu: VcpuState) -> Generator[Step, int, Descriptors]:
    """Read the beginnings of the tables, to the end of the page that each begins in."""
    tables = []
    gdt = Segment(vcpu.gdtr.base, vcpu.gdtr.limit, 0, PRESENT)
    for table in (gdt, vcpu.ldtr) if protected(vcpu) else ():
        data = b""
        size = min(table.limit + 1, _PAGE - table.base % _PAGE) if table.attributes & PRESENT else 0
        if size > 8:
            data = (yield ReadSystem(table.base, size)).to_bytes(size, "little")
            if any(_unaccessed(access) for access in data[5::8]):
                yield ProbeSystem(table.base, size)
        tables.append((table, data))
    return Descriptors(vcpu, tables)


def _unaccessed(access: int) -> bool:
    """Whether loading the segment would change its descriptor."""
    return access & (MEMORY | PRESENT | ACCESSED) == MEMORY | PRESENT


def segment_of(selector: int, descriptor: int) -> Segment:
    """What a segment register holds after it was loaded."""
    base = descriptor >> 16 & 0xFF_FFFF | descriptor >> 56 << 24
    limit = descriptor & 0xFFFF | descriptor >> 32 & 0xF_0000
    attributes = descriptor >> 40 & 0xF0FF | ACCESSED
    return Segment(base, limit << 12 | 0xFFF if attributes & _GRANULAR else limit, selector, attributes)


def real_segment(vcpu: VcpuState, number: int, selector: int) -> Segment:
    """A segment register loaded without descriptors; real mode keeps limit and attributes."""
    if vcpu.rflags & RFLAGS_VM:
        return Segment(selector << 4, 0xFFFF, selector, _VIRTUAL_8086)
    old = vcpu.segments[number]
    return Segment(selector << 4, old.limit, selector, old.attributes)


def data_segment(
    i: Instruction, vcpu: VcpuState, known: Descriptors, number: int, selector: int
) -> Generator[Step, int, Segment]:
    """What loading `selector` into a segment register but CS leaves in it."""
    if not protected(vcpu):
        return real_segment(vcpu, number, selector)
    if not selector & ~3:
        if number == SS and not (i.mode is CODE64 and vcpu.cpl < 3 and selector == vcpu.cpl):
            raise GuestFault(faults.GP, 0)
        return Segment(selector=selector)
    descriptor = yield from known.find(selector)
    segment = segment_of(selector, descriptor)
    (_check_stack if number == SS else _check_data)(vcpu, segment)
    if not segment.attributes & PRESENT:
        raise GuestFault(faults.SS if number == SS else faults.NP, selector & ~3)
    yield from known.accessed(selector, descriptor)
    return segment


def privilege(segment: Segment) -> int:
    """A segment's DPL."""
    return segment.attributes >> 5 & 3


def _check_stack(vcpu: VcpuState, segment: Segment) -> None:
    usable = segment.attributes & (MEMORY | EXECUTABLE | WRITABLE) == MEMORY | WRITABLE
    if not (usable and segment.selector & 3 == vcpu.cpl == privilege(segment)):
        raise GuestFault(faults.GP, segment.selector & ~3)


def _check_data(vcpu: VcpuState, segment: Segment) -> None:
    attributes = segment.attributes
    code = attributes & EXECUTABLE
    readable = attributes & MEMORY and (not code or attributes & READABLE)
    exempt = code and attributes & CONFORMING
    if not readable or not (exempt or max(vcpu.cpl, segment.selector & 3) <= privilege(segment)):
        raise GuestFault(faults.GP, segment.selector & ~3)


# --- instructions ------------------------------------------------------------------------


def load_segment(i: Instruction, vcpu: VcpuState, register: Selector, memory: Memory) -> Run:
    """MOV to a segment register."""
    address = yield from reach(i, vcpu, memory, memory.offset(vcpu), Intent.READ)
    known = yield from descriptors(vcpu)
    selector = yield Read(address, 2)
    return (yield from _loaded(i, vcpu, known, register.number, selector, {}))


def pop_segment(i: Instruction, vcpu: VcpuState, register: Selector) -> Run:
    """POP to a segment register."""
    top = yield from slot(i, vcpu, 0, Intent.READ)
    known = yield from descriptors(vcpu)
    selector = (yield Read(top, i.operand_size)) & 0xFFFF
    return (yield from _loaded(i, vcpu, known, register.number, selector, moved(i, vcpu, i.operand_size)))


def _loaded(
    i: Instruction,
    vcpu: VcpuState,
    known: Descriptors,
    number: int,
    selector: int,
    registers: dict[int, int],
) -> Generator[Step, int, Delta]:
    """The register takes its segment; a new SS keeps interrupts off until rSP is loaded too.

    So it does with a single step, which is lost (SDM vol. 3, 6.8.3).
    """
    segment = yield from data_segment(i, vcpu, known, number, selector)
    delta = completed(i, vcpu, registers)
    delta.segments = {number: segment}
    if number == SS:
        delta.shadow, delta.debug = True, 0
    return delta


SHAPES: Final[dict[str, Shape]] = {shape.__name__: shape for shape in (load_segment, pop_segment)}
"""By the opcode table's third column."""
