"""Accesses to the elements of a vector in memory, some of which may be masked out.

An element that is masked out is not accessed and cannot fault (SDM vol. 2, 2.8); a
run of active ones is one access.  Alignment is checked for the operand as a whole, and
where nothing is active not at all, as processors do.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final

from attrs import define

from mmiod.values import Intent, VcpuState
from mmiod.x86 import faults, segments
from mmiod.x86.decoder import Instruction
from mmiod.x86.faults import GuestFault
from mmiod.x86.operands import Memory, mask_of
from mmiod.x86.steps import Probe, Read, Step, Write

_LARGEST_CHECKED: Final = 8
"""Bytes of an operand for which #AC is raised; above "it may or may not be" (SDM vol. 2, MOVDQU)."""


@define
class Span:
    """`size` bytes from byte `first` of an operand, at linear `address`."""

    first: int
    size: int
    address: int


def read(
    i: Instruction, vcpu: VcpuState, memory: Memory, element: int, active: int
) -> Generator[Step, int, int]:
    """The elements of `memory` that have a bit in `active`, zeros in place of the others."""
    value = 0
    for span in (yield from _reach(i, vcpu, memory, element, active, Intent.READ)):
        value |= (yield Read(span.address, span.size)) << 8 * span.first
    return value


def write(
    i: Instruction, vcpu: VcpuState, memory: Memory, element: int, active: int, value: int
) -> Generator[Step, int, None]:
    """Write those elements of `value` to `memory` that have a bit in `active`."""
    for span in (yield from _reach(i, vcpu, memory, element, active, Intent.WRITE)):
        yield Write(span.address, span.size, value >> 8 * span.first & mask_of(span.size))


def _reach(
    i: Instruction, vcpu: VcpuState, memory: Memory, element: int, active: int, intent: Intent
) -> Generator[Step, int, list[Span]]:
    """Check and probe all that is going to be accessed."""
    spans = []
    for first, size in _runs(active, element):
        offset = memory.offset(vcpu) + first & memory.mask
        spans.append(Span(first, size, segments.linear(vcpu, i.mode, memory.segment, offset, size, intent)))
    if i.opcode.aligned and spans and spans[0].address - spans[0].first & memory.size - 1:
        raise GuestFault(faults.GP, 0)
    for span in spans:
        yield Probe(span.address, span.size, intent)
        if span.size <= _LARGEST_CHECKED and span.size == memory.size:
            segments.check_alignment(vcpu, span.address, span.size)
    return spans


def _runs(active: int, element: int) -> Iterator[tuple[int, int]]:
    """(first byte, bytes) of each run of bits in `active`, a bit being `element` bytes."""
    at = 0
    while active:
        skipped = (active & -active).bit_length() - 1
        active >>= skipped
        length = (~active & active + 1).bit_length() - 1
        yield (at + skipped) * element, length * element
        active >>= length
        at += skipped + length


def spread(bits: int, element: int) -> int:
    """`bits` with each made into all bits of an element."""
    return sum(mask_of(element) << 8 * element * n for n in range(bits.bit_length()) if bits >> n & 1)


def repeated(value: int, size: int, length: int) -> int:
    """`value` of `size` bytes, over and over in `length` bytes."""
    return value * (mask_of(length) // mask_of(size))
