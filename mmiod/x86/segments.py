"""Logical to linear addresses: limits, types, canonical form, alignment.

SDM vol. 3, 5.3-5.5 (limit and type checks), vol. 1, 3.3.7.1 (canonical addresses),
vol. 3, 6.15 (#AC).  A segment register that holds no descriptor (null, or not present)
has P clear in its attributes; the selector is not looked at, since real mode leaves
usable segments with selector 0 behind.
"""

from __future__ import annotations

from typing import Final

from mmiod.values import CS, FS, SS, Intent, Segment, VcpuState
from mmiod.x86 import faults
from mmiod.x86.faults import GuestFault
from mmiod.x86.mode import CODE64, RFLAGS_VM, Mode

CR0_PE: Final = 1 << 0
CR0_AM: Final = 1 << 18
CR4_LA57: Final = 1 << 12
RFLAGS_AC: Final = 1 << 18

_PRESENT_MEMORY: Final = 0x90  # P and S
_CODE: Final = 0x8
_EXPAND_DOWN: Final = 0x4
_ACCESSIBLE: Final = 0x2  # code: readable; data: writable
_BIG: Final = 0x4000
_LINEAR32: Final = 0xFFFF_FFFF
_LINEAR64: Final = 0xFFFF_FFFF_FFFF_FFFF


def linear(vcpu: VcpuState, mode: Mode, segment: int, offset: int, size: int, intent: Intent) -> int:
    """The linear address of `size` bytes at segment:offset, checked for a read or a write.

    Raises GuestFault: #SS(0) if the segment is SS, else #GP(0).
    """
    if mode is CODE64:
        return _canonical(vcpu, segment, offset, size)
    register = vcpu.segments[segment]
    if not (_permits(vcpu, register, intent) and _within(vcpu, register, offset, size)):
        raise GuestFault(faults.SS if segment == SS else faults.GP, 0)
    return register.base + offset & _LINEAR32


def protected(vcpu: VcpuState) -> bool:
    """Whether descriptors count: protected mode, and not its virtual-8086 submode."""
    return bool(vcpu.cr0 & CR0_PE) and not vcpu.rflags & RFLAGS_VM


def _canonical(vcpu: VcpuState, segment: int, offset: int, size: int) -> int:
    base = vcpu.segments[segment].base if segment >= FS else 0
    address = base + offset & _LINEAR64
    above = 56 if vcpu.cr4 & CR4_LA57 else 47
    top = address >> above
    if top != address + size - 1 >> above or (top and top != _LINEAR64 >> above):
        raise GuestFault(faults.SS if segment == SS else faults.GP, 0)
    return address


def _permits(vcpu: VcpuState, register: Segment, intent: Intent) -> bool:
    if not protected(vcpu):
        return True
    attributes = register.attributes
    if attributes & _PRESENT_MEMORY != _PRESENT_MEMORY:
        return False
    if intent is Intent.WRITE:
        return attributes & (_CODE | _ACCESSIBLE) == _ACCESSIBLE
    return attributes & (_CODE | _ACCESSIBLE) != _CODE


def _within(vcpu: VcpuState, register: Segment, offset: int, size: int) -> bool:
    last = offset + size - 1
    if register.attributes & (_CODE | _EXPAND_DOWN) == _EXPAND_DOWN and protected(vcpu):
        return offset > register.limit and last <= (_LINEAR32 if register.attributes & _BIG else 0xFFFF)
    return last <= register.limit


def check_alignment(vcpu: VcpuState, address: int, size: int) -> None:
    """Raise #AC(0) where the guest asked for it; called after translation, which has priority."""
    checked = vcpu.rflags & RFLAGS_AC and vcpu.cpl == 3 and vcpu.cr0 & CR0_AM
    if checked and address & size - 1:
        raise GuestFault(faults.AC, 0)


def code_address(vcpu: VcpuState, mode: Mode, skip: int = 0) -> int:
    """The linear address of the instruction's byte number `skip`."""
    if mode is CODE64:
        return vcpu.rip + skip & _LINEAR64
    return vcpu.segments[CS].base + vcpu.rip + skip & _LINEAR32
