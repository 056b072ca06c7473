"""Unicorn's page walk as an oracle: one access through tables that the test wrote.

Fetches are told apart by what they execute: each physical page begins with MOV EAX, its
address.  The error code of a #PF is looked up in Unicorn's saved context, at an offset
found by provoking faults whose codes are certain.
"""

from __future__ import annotations

import struct
from typing import Final

from attrs import define, field, frozen
from unicorn import unicorn_const as uc, x86_const as ux
from unicorn.unicorn_py3.unicorn import Uc, UcContext

from mmiod.values import Intent, VcpuState

PAGE: Final = 0x1000
MEMORY: Final = 0x0100_0000
PHYSICAL_BITS: Final = 40
"""What Unicorn takes for MAXPHYADDR."""
ROOT: Final = 0x20_0000
"""The root table; the tables below it, for the address under test, are the pages behind it."""
_SPARE: Final = ROOT + 8 * PAGE
_STACK: Final = 0x8000
"""In the first 64 KiB: Unicorn's 32-bit mode begins with a 16-bit stack."""
_GDT, _SUPERVISOR, _USER = (0x10_0000 + n * PAGE for n in range(3))
_ACCESSES: Final = {Intent.READ: b"\x8a\x18", Intent.WRITE: b"\x88\x18"}  # bl, [rax]
_EFER: Final = 0xC000_0080
_POINTER_AND_RIGHTS: Final = 0x67


@frozen
class Format:
    """One of the paging modes: what selects it, the bytes of an entry, what levels translate."""

    name: str
    long: bool
    cr4: int
    entry: int
    shifts: tuple[int, ...]


FORMATS: Final = (
    Format("2-level", False, 0, 4, (22, 12)),
    Format("2-level, PSE", False, 1 << 4, 4, (22, 12)),
    Format("PAE", False, 1 << 5, 8, (30, 21, 12)),
    Format("4-level", True, 1 << 5, 8, (39, 30, 21, 12)),
    Format("5-level", True, 1 << 5 | 1 << 12, 8, (48, 39, 30, 21, 12)),
)


@define
class Walked:
    """What an access came to: a physical address, or a fault's (error code, CR2)."""

    gpa: int | None = None
    fault: tuple[int, int] | None = None


@define
class PagingOracle:
    """Unicorn with one paging format."""

    format: Format
    _machine: Uc = field(init=False)
    _contexts: dict[int, UcContext] = field(factory=dict)
    _error_offset: int = 0
    _walked: Walked = field(factory=Walked)

    def __attrs_post_init__(self) -> None:
        mode = uc.UC_MODE_64 if self.format.long else uc.UC_MODE_32
        self._machine = machine = Uc(uc.UC_ARCH_X86, mode)
        machine.ctl_set_cpu_model(ux.UC_CPU_X86_ICELAKE_SERVER)
        machine.mem_map(0, MEMORY)
        for page in range(0, MEMORY, PAGE):
            machine.mem_write(page, b"\xb8" + struct.pack("<I", page))
        self._contexts[0] = machine.context_save()
        self._contexts[3] = self._user_context()
        machine.hook_add(uc.UC_HOOK_MEM_READ | uc.UC_HOOK_MEM_WRITE, self._on_access)
        machine.hook_add(uc.UC_HOOK_INTR, self._on_interrupt)
        self._error_offset = self._calibrated()

    def _user_context(self) -> UcContext:
        """The state behind an IRET to CPL 3."""
        machine, code_flags = self._machine, 0xAF if self.format.long else 0xCF
        descriptors = struct.pack(
            "<8xHHBBBBHHBBBB", 0xFFFF, 0, 0, 0xFB, code_flags, 0, 0xFFFF, 0, 0, 0xF3, 0xCF, 0
        )
        machine.mem_write(_GDT, descriptors)
        machine.reg_write(ux.UC_X86_REG_GDTR, (0, _GDT, len(descriptors) - 1, 0))
        frame = struct.pack("<5Q" if self.format.long else "<5I", _USER, 0x0B, 2, _STACK + 64, 0x13)
        machine.mem_write(_STACK, frame)
        machine.reg_write(ux.UC_X86_REG_RSP if self.format.long else ux.UC_X86_REG_ESP, _STACK)
        code = b"\x48\xcf" if self.format.long else b"\xcf"
        machine.mem_write(_SUPERVISOR, code)
        machine.emu_start(_SUPERVISOR, _USER)
        return machine.context_save()

    # --- tables ------------------------------------------------------------------

    def read(self, gpa: int, size: int) -> int | None:
        """Physical memory, as the walk under test reads it."""
        if gpa + size > MEMORY:
            return None
        return int.from_bytes(self._machine.mem_read(gpa, size), "little")

    def tables(self) -> bytes:
        """All tables of the address under test."""
        return bytes(self._machine.mem_read(ROOT, _SPARE - ROOT))

    def clear(self) -> None:
        """Empty tables, but for the two pages of code that make the accesses."""
        self._machine.mem_write(ROOT, bytes(16 * PAGE))
        levels = len(self.format.shifts)
        self.write(ROOT, 0, _SPARE | (1 if self.format.name == "PAE" else _POINTER_AND_RIGHTS))
        for level in range(levels - 2):
            self.write(_SPARE + level * PAGE, 0, _SPARE + (level + 1) * PAGE | _POINTER_AND_RIGHTS)
        for page, rights in ((_SUPERVISOR, 0x63), (_USER, _POINTER_AND_RIGHTS)):
            self.write(_SPARE + (levels - 2) * PAGE, page // PAGE, page | rights)

    def write(self, table: int, index: int, entry: int) -> None:
        """Set an entry; the last level's index may count from address 0."""
        at = table + index * self.format.entry % PAGE
        self._machine.mem_write(at, entry.to_bytes(self.format.entry, "little"))

    def entry_address(self, level: int, address: int) -> tuple[int, int]:
        """The table and index of `level` (0 is the root) for a linear address."""
        shift = self.format.shifts[level]
        return ROOT + level * PAGE, address >> shift & PAGE // self.format.entry - 1

    # --- accesses ----------------------------------------------------------------

    def access(self, vcpu: VcpuState, address: int, intent: Intent) -> Walked:
        """Make an access through the tables."""
        machine = self._machine
        machine.context_restore(self._contexts[vcpu.cpl])
        self._walked = Walked()
        code = _USER if vcpu.cpl == 3 else _SUPERVISOR
        if intent is not Intent.EXECUTE:
            machine.mem_write(code, _ACCESSES[intent])
            machine.ctl_remove_cache(code, code + 2)
        machine.reg_write(ux.UC_X86_REG_RAX if self.format.long else ux.UC_X86_REG_EAX, address)
        machine.reg_write(ux.UC_X86_REG_EFLAGS, vcpu.rflags)
        machine.reg_write(ux.UC_X86_REG_MSR, (_EFER, vcpu.efer))
        machine.reg_write(ux.UC_X86_REG_CR4, vcpu.cr4)
        machine.reg_write(ux.UC_X86_REG_CR0, vcpu.cr0)
        machine.reg_write(ux.UC_X86_REG_CR3, vcpu.cr3)  # last: it makes Unicorn forget translations
        machine.emu_start(address if intent is Intent.EXECUTE else code, 0, count=1)
        if intent is Intent.EXECUTE and self._walked.fault is None:
            self._walked.gpa = machine.reg_read(ux.UC_X86_REG_EAX)
        return self._walked

    def _on_access(self, _m: Uc, _kind: int, gpa: int, _size: int, _value: int, _data: object) -> None:
        self._walked.gpa = gpa

    def _on_interrupt(self, machine: Uc, number: int, _data: object) -> None:
        assert number == 14, number
        context = bytes(machine.context_save())
        code = struct.unpack_from("<I", context, self._error_offset)[0]
        register = ux.UC_X86_REG_CR2
        self._walked.fault = (code, machine.reg_read(register))
        self._contexts[-1] = machine.context_save()
        machine.emu_stop()

    def _calibrated(self) -> int:
        """Where the error code is: the word that is 4, 6, 0, 2 for these accesses to nothing."""
        self.clear()
        found: set[int] | None = None
        accesses = ((3, Intent.READ, 4), (3, Intent.WRITE, 6), (0, Intent.READ, 0), (0, Intent.WRITE, 2))
        for cpl, intent, code in accesses:
            self.access(self.state(cpl), 0x80_0000, intent)
            context = bytes(self._contexts[-1])
            words = struct.unpack_from(f"<{len(context) // 4}I", context)
            places = {4 * place for place, word in enumerate(words) if word == code}
            found = places if found is None else found & places
        assert found is not None
        [offset] = found
        return offset

    def state(self, cpl: int) -> VcpuState:
        """Paging on, and nothing else."""
        form = self.format
        return VcpuState(cpl=cpl, cr0=0x8000_0011, cr3=ROOT, cr4=form.cr4, efer=0x500 if form.long else 0)
