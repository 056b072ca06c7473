"""Logical to linear addresses: limits, types, canonical form, tags, alignment.

SDM vol. 3, 5.3-5.5 (limit and type checks), vol. 1, 3.3.7.1 (canonical addresses),
vol. 3, 4.4 (linear-address masking, LAM), 6.15 (#AC); APM vol. 2, 5.10 (upper address
ignore, UAI).  A segment register that holds no descriptor (null, or not present)
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
CR3_LAM_U57: Final = 1 << 61
CR3_LAM_U48: Final = 1 << 62
CR4_LA57: Final = 1 << 12
CR4_LAM_SUP: Final = 1 << 28
EFER_UAIE: Final = 1 << 20
RFLAGS_AC: Final = 1 << 18

_PRESENT_MEMORY: Final = 0x90  # P and S
_CODE: Final = 0x8
_EXPAND_DOWN: Final = 0x4
_ACCESSIBLE: Final = 0x2  # code: readable; data: writable
_BIG: Final = 0x4000
_TYPE: Final = 0x9E  # P, S and type without "accessed"
_PLAIN: Final = 0x92  # present data, writable, expand-up
_LOW_HALF: Final = 1 << 47
_LINEAR32: Final = 0xFFFF_FFFF
_LINEAR64: Final = 0xFFFF_FFFF_FFFF_FFFF


def linear(vcpu: VcpuState, mode: Mode, segment: int, offset: int, size: int, intent: Intent) -> int:
    """The linear address of `size` bytes at segment:offset, checked for a read or a write.

    Raises GuestFault: #SS(0) if the segment is SS, else #GP(0).
    """
    if mode is CODE64:
        return _canonical(vcpu, segment, offset, size)
    register = vcpu.segments[segment]
    if register.attributes & _TYPE == _PLAIN and offset + size <= register.limit + 1:
        return register.base + offset & _LINEAR32
    if not (_permits(vcpu, register, intent) and _within(vcpu, register, offset, size)):
        raise GuestFault(faults.SS if segment == SS else faults.GP, 0)
    return register.base + offset & _LINEAR32


def protected(vcpu: VcpuState) -> bool:
    """Whether descriptors count: protected mode, and not its virtual-8086 submode."""
    return bool(vcpu.cr0 & CR0_PE) and not vcpu.rflags & RFLAGS_VM


def _canonical(vcpu: VcpuState, segment: int, offset: int, size: int) -> int:
    base = vcpu.segments[segment].base if segment >= FS else 0
    address = base + offset & _LINEAR64
    if address + size <= _LOW_HALF:
        return address
    if not canonical(vcpu, address, size):
        address = _untagged(vcpu, address)
        if not canonical(vcpu, address, size):
            raise GuestFault(faults.SS if segment == SS else faults.GP, 0)
    return address


def canonical(vcpu: VcpuState, address: int, size: int = 1) -> bool:
    """Whether `size` bytes lie in one canonical half."""
    above = 56 if vcpu.cr4 & CR4_LA57 else 47
    top = address >> above
    return top == address + size - 1 >> above and (not top or top == _LINEAR64 >> above)


def _untagged(vcpu: VcpuState, address: int) -> int:
    """The address of data without the tag that the processor is told to ignore."""
    if vcpu.efer & EFER_UAIE:
        return _extended(address, 56)
    top = _tagged_from(vcpu, address)
    # LAM leaves bit 63 in the check.
    return _extended(address, top) if top and address >> 63 == address >> top & 1 else address


def _tagged_from(vcpu: VcpuState, address: int) -> int:
    """The highest bit that LAM does not ignore, bit 63 apart; 0 if it ignores none."""
    if address >> 63:
        return (56 if vcpu.cr4 & CR4_LA57 else 47) if vcpu.cr4 & CR4_LAM_SUP else 0
    if vcpu.cr3 & CR3_LAM_U57:
        return 56
    return 47 if vcpu.cr3 & CR3_LAM_U48 else 0


def _extended(address: int, top: int) -> int:
    """`address` with bit `top` in all bits above."""
    low = address & (1 << top) - 1
    return low | _LINEAR64 & -1 << top if address >> top & 1 else low


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


_ALIGNMENTS: Final = {2: 2, 4: 4, 6: 4, 8: 8, 10: 8}
"""Of an operand by its bytes: of a far pointer that of its offset, of more than 8 bytes none."""


def check_alignment(vcpu: VcpuState, address: int, size: int) -> None:
    """Raise #AC(0) where the guest asked for it; called after translation, which has priority."""
    checked = vcpu.rflags & RFLAGS_AC and vcpu.cpl == 3 and vcpu.cr0 & CR0_AM
    if checked and address % _ALIGNMENTS.get(size, 1):
        raise GuestFault(faults.AC, 0)


def code_address(vcpu: VcpuState, mode: Mode, skip: int = 0) -> int:
    """The linear address of the instruction's byte number `skip`.

    Raises GuestFault: #GP(0) if code cannot be fetched there.
    """
    if mode is CODE64:
        address = vcpu.rip + skip & _LINEAR64
        fetchable = canonical(vcpu, address)
    else:
        offset = vcpu.rip + skip & _LINEAR32
        address = vcpu.segments[CS].base + offset & _LINEAR32
        fetchable = offset <= vcpu.segments[CS].limit
    if not fetchable:
        raise GuestFault(faults.GP, 0)
    return address


def check_target(vcpu: VcpuState, mode: Mode, target: int) -> int:
    """`target`, which a transfer within CS jumps to; raises #GP(0) if code cannot be there."""
    if not (canonical(vcpu, target) if mode is CODE64 else target <= vcpu.segments[CS].limit):
        raise GuestFault(faults.GP, 0)
    return target
