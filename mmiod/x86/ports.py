"""IN and OUT, and who may use a port (SDM vol. 1, 19.5)."""

from __future__ import annotations

from collections.abc import Generator
from typing import Final

from mmiod.values import VcpuState
from mmiod.x86 import faults
from mmiod.x86.decoder import Instruction
from mmiod.x86.execution import completed
from mmiod.x86.faults import GuestFault
from mmiod.x86.flows import Shape
from mmiod.x86.mode import EFER_LMA, RFLAGS_VM
from mmiod.x86.operands import Register, Source
from mmiod.x86.segments import CR0_PE
from mmiod.x86.steps import In, Out, ReadSystem, Run, Step

_TYPE: Final = 0x1F  # S and type
_TSS32: Final = (0x9, 0xB)  # available, busy; the 64-bit TSS has the same numbers
_MAP_BASE: Final = 0x66
"""Offset of the I/O map base in the TSS, 32- and 64-bit (SDM vol. 3, 7.2.1 and 7.7)."""


def permit(vcpu: VcpuState, port: int, size: int) -> Generator[Step, int, None]:
    """Ask the I/O permission bitmap where IOPL does not decide; raises #GP(0)."""
    if not vcpu.cr0 & CR0_PE:
        return
    iopl = vcpu.rflags >> 12 & 3
    if vcpu.cpl <= iopl and not vcpu.rflags & RFLAGS_VM:
        return
    if vcpu.tr.attributes & _TYPE not in _TSS32:
        raise GuestFault(faults.GP, 0)
    start = yield from _tss_word(vcpu, _MAP_BASE)
    denied = yield from _tss_word(vcpu, start + port // 8)
    if denied >> port % 8 & (1 << size) - 1:
        raise GuestFault(faults.GP, 0)


def _tss_word(vcpu: VcpuState, offset: int) -> Generator[Step, int, int]:
    """Two bytes of the TSS; the bitmap is always read by two, for the ports of one access."""
    if offset + 1 > vcpu.tr.limit:
        raise GuestFault(faults.GP, 0)
    mask = (1 << 64 if vcpu.efer & EFER_LMA else 1 << 32) - 1
    return (yield ReadSystem(vcpu.tr.base + offset & mask, 2))


def port_in(i: Instruction, vcpu: VcpuState, accumulator: Register, port: Source) -> Run:
    """IN."""
    number = port.read(vcpu)
    yield from permit(vcpu, number, accumulator.size)
    value = yield In(number, accumulator.size)
    return completed(i, vcpu, {accumulator.number: accumulator.merged(vcpu, value)})


def port_out(i: Instruction, vcpu: VcpuState, port: Source, accumulator: Register) -> Run:
    """OUT."""
    number = port.read(vcpu)
    yield from permit(vcpu, number, accumulator.size)
    yield Out(number, accumulator.size, accumulator.read(vcpu))
    return completed(i, vcpu, {})


SHAPES: Final[dict[str, Shape]] = {"port_in": port_in, "port_out": port_out}
"""By the opcode table's third column."""
