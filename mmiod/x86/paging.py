"""A page walk that only looks (SDM vol. 3, chapter 4; APM vol. 2, chapter 5).

Accessed and dirty bits are never set.  Where a processor would have to set one the
answer is NeedTranslation, and so it is for what this walk cannot know: table memory
that `read` does not reach, protection keys.  PAE's four PDPTEs are read from memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import define, frozen

from mmiod.values import Intent, NeedTranslation, VcpuState
from mmiod.x86 import faults
from mmiod.x86.faults import GuestFault
from mmiod.x86.mode import EFER_LMA
from mmiod.x86.segments import CR4_LA57, RFLAGS_AC

CR0_WP: Final = 1 << 16
CR0_PG: Final = 1 << 31
CR4_PSE: Final = 1 << 4
CR4_PAE: Final = 1 << 5
CR4_SMEP: Final = 1 << 20
CR4_SMAP: Final = 1 << 21
CR4_PKE: Final = 1 << 22
CR4_PKS: Final = 1 << 24
EFER_NXE: Final = 1 << 11

_PRESENT: Final = 1 << 0
_WRITABLE: Final = 1 << 1
_USER: Final = 1 << 2
_ACCESSED: Final = 1 << 5
_DIRTY: Final = 1 << 6
_LARGE: Final = 1 << 7
_NX: Final = 1 << 63

_ERROR_PRESENT: Final = 1 << 0
_ERROR_WRITE: Final = 1 << 1
_ERROR_USER: Final = 1 << 2
_ERROR_RESERVED: Final = 1 << 3
_ERROR_FETCH: Final = 1 << 4

_ADDRESS: Final = 0x000F_FFFF_FFFF_F000
PHYSICAL_BITS: Final = 52
"""MAXPHYADDR if nobody says otherwise: the architecture's largest."""


@frozen
class _Level:
    """One table: the linear bits that index it, and what its entries may be.

    `reserved` bits must be 0 in every entry.  An entry maps a large page if `large`,
    and then `large_reserved` bits must be 0; else bit 7 means nothing.
    `permits`: the entry has R/W, U/S and the accessed bit.
    """

    shift: int
    bits: int
    reserved: int = 0
    large: bool = False
    large_reserved: int = 0
    permits: bool = True


@frozen
class _Format:
    entry: int  # bytes
    root: int  # CR3's address bits
    levels: tuple[_Level, ...]


_PAGE: Final = _Level(12, 9)
_DIRECTORY: Final = _Level(21, 9, large=True, large_reserved=0x1F_E000)
_POINTERS: Final = _Level(30, 9, large=True, large_reserved=0x3FFF_E000)
_LEVEL4: Final = _Level(39, 9, reserved=_LARGE)
_LEVEL5: Final = _Level(48, 9, reserved=_LARGE)
_PAE_UNUSED: Final = 0x7FF0_0000_0000_0000  # 62:52, ignored by long mode only

_BITS32: Final = _Format(4, 0xFFFF_F000, (_Level(22, 10), _Level(12, 10)))
_BITS32_PSE: Final = _Format(
    4, 0xFFFF_F000, (_Level(22, 10, large=True, large_reserved=1 << 21), _Level(12, 10))
)
_PAE: Final = _Format(
    8,
    0xFFFF_FFE0,
    (
        _Level(30, 2, reserved=_PAE_UNUSED | _NX | 0x1E6, permits=False),
        _Level(21, 9, reserved=_PAE_UNUSED, large=True, large_reserved=0x1F_E000),
        _Level(12, 9, reserved=_PAE_UNUSED),
    ),
)
_LEVELS4: Final = _Format(8, _ADDRESS, (_LEVEL4, _POINTERS, _DIRECTORY, _PAGE))
_LEVELS5: Final = _Format(8, _ADDRESS, (_LEVEL5, _LEVEL4, _POINTERS, _DIRECTORY, _PAGE))

ReadPhysical = Callable[[int, int], int | None]
"""(gpa, size) -> the little-endian number there, or None where it cannot be read."""


def walk(
    vcpu: VcpuState,
    address: int,
    intent: Intent,
    read: ReadPhysical,
    *,
    system: bool = False,
    physical_bits: int = PHYSICAL_BITS,
    encryption_mask: int = 0,
) -> int | GuestFault | NeedTranslation:
    """The guest physical address of linear `address`, or the #PF to throw, or "ask".

    `system` is an access by the processor itself (descriptor tables, TSS).
    `encryption_mask` holds the C-bit or shared bit, which is no part of an address.
    """
    if not vcpu.cr0 & CR0_PG:
        return address
    return _Walk(vcpu, address, intent, read, system, physical_bits, encryption_mask).result()


def _format(vcpu: VcpuState) -> _Format:
    if vcpu.efer & EFER_LMA:
        return _LEVELS5 if vcpu.cr4 & CR4_LA57 else _LEVELS4
    if vcpu.cr4 & CR4_PAE:
        return _PAE
    return _BITS32_PSE if vcpu.cr4 & CR4_PSE else _BITS32


@define
class _Walk:
    vcpu: VcpuState
    address: int
    intent: Intent
    read: ReadPhysical
    system: bool
    physical_bits: int
    encryption_mask: int
    rights: int = _WRITABLE | _USER
    executable: bool = True
    untouched: bool = False
    """An entry on the way lacks its accessed bit."""

    def result(self) -> int | GuestFault | NeedTranslation:
        """Go down the levels; what a level forbids counts before what a page forbids."""
        tables = _format(self.vcpu)
        table = self.vcpu.cr3 & tables.root & ~self.encryption_mask
        for level in tables.levels:
            index = self.address >> level.shift & (1 << level.bits) - 1
            entry = self.read(table + index * tables.entry, tables.entry)
            if entry is None:
                return self._unknown()
            entry &= ~self.encryption_mask
            if not entry & _PRESENT:
                return self._fault(0)
            leaf = level.shift == 12 or bool(level.large and entry & _LARGE)
            frame = self._frame(entry, level, tables.entry, leaf)
            if self._reserved(entry, level, frame, leaf):
                return self._fault(_ERROR_PRESENT | _ERROR_RESERVED)
            self._collect(entry, level)
            if leaf:
                return self._page(entry, frame | self.address & (1 << level.shift) - 1)
            table = frame
        raise AssertionError(tables)

    def _frame(self, entry: int, level: _Level, size: int, leaf: bool) -> int:
        """The table or page an entry points at; a 4 MiB page has bits 39:32 in 20:13."""
        if size == 4 and leaf and level.large:
            return entry & 0xFFC0_0000 | (entry >> 13 & 0xFF) << 32
        mask = _ADDRESS & ~((1 << level.shift) - 1) if leaf else _ADDRESS
        return entry & mask

    def _reserved(self, entry: int, level: _Level, frame: int, leaf: bool) -> bool:
        reserved = level.reserved
        if leaf and level.large:
            reserved |= level.large_reserved
        if not self.vcpu.efer & EFER_NXE:
            reserved |= _NX
        return bool(entry & reserved) or bool(frame >> self.physical_bits)

    def _collect(self, entry: int, level: _Level) -> None:
        if level.permits:
            self.rights &= entry
            self.untouched |= not entry & _ACCESSED
        if entry & _NX:
            self.executable = False

    def _page(self, entry: int, gpa: int) -> int | GuestFault | NeedTranslation:
        if not self._permitted():
            return self._fault(_ERROR_PRESENT)
        unclean = self.intent is Intent.WRITE and not entry & _DIRTY
        if self.untouched or unclean or self._keyed():
            return self._unknown()
        return gpa

    @property
    def _user(self) -> bool:
        return self.vcpu.cpl == 3 and not self.system

    def _permitted(self) -> bool:
        """SDM vol. 3, 4.6.1."""
        vcpu, user_page = self.vcpu, bool(self.rights & _USER)
        if self._user and not user_page:
            return False
        if self.intent is Intent.EXECUTE:
            return self.executable and not (user_page and not self._user and vcpu.cr4 & CR4_SMEP)
        if user_page and not self._user and self._access_prevented():
            return False
        if self.intent is Intent.WRITE and not self.rights & _WRITABLE:
            return not self._user and not vcpu.cr0 & CR0_WP
        return True

    def _access_prevented(self) -> bool:
        """SMAP; AC lifts it for the program's own accesses."""
        return bool(self.vcpu.cr4 & CR4_SMAP) and (self.system or not self.vcpu.rflags & RFLAGS_AC)

    def _keyed(self) -> bool:
        """Whether a protection key decides: its register is not part of the state."""
        if self.intent is Intent.EXECUTE:
            return False
        return bool(self.vcpu.cr4 & (CR4_PKE if self.rights & _USER else CR4_PKS))

    def _unknown(self) -> NeedTranslation:
        return NeedTranslation(self.address, self.intent, 0 if self.system else self.vcpu.cpl)

    def _fault(self, code: int) -> GuestFault:
        if self.intent is Intent.WRITE:
            code |= _ERROR_WRITE
        if self._user:
            code |= _ERROR_USER
        if self.intent is Intent.EXECUTE and self._fetch_bit():
            code |= _ERROR_FETCH
        return GuestFault(faults.PF, code, self.address)

    def _fetch_bit(self) -> bool:
        cr4 = self.vcpu.cr4
        return bool(cr4 & CR4_SMEP or (cr4 & CR4_PAE and self.vcpu.efer & EFER_NXE))
