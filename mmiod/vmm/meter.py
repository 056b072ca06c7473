"""The instruction meter: counts what Unicorn executes, and stops it on time, without Python.

Unicorn calls a code hook before each instruction.  A hook in Python would make the
guest forty times slower, so this one is 65 bytes of machine code that work on the
`Meter` structure.  It counts the instruction and stops *before* it when the count
would pass `limit`; while `window` is set it also stops before the first instruction
that runs with EFLAGS.IF set, which is when a pending interrupt can be taken.

A REP counts once for each iteration and once for finding CX zero; an instruction that
is tried again after a fault counts again.  Both depend on the guest alone, so the count
is the same in every run.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import ClassVar, Final

from unicorn.unicorn_const import UC_HOOK_CODE, UC_HOOK_INSN
from unicorn.unicorn_py3.unicorn import Uc, UcError, uclib
from unicorn.x86_const import UC_X86_INS_RDTSC, UC_X86_REG_EAX, UC_X86_REG_EDX, UC_X86_REG_EFLAGS

from mmiod.vmm.clock import NO_LIMIT

# System V: rdi is the engine, rcx our user data, the meter.
_CODE: Final = bytes.fromhex(
    "48 ff 01"  #                inc qword [rcx + count]
    "48 8b 01"  #                mov rax, [rcx + count]
    "48 3b 41 08"  #             cmp rax, [rcx + limit]
    "77 2a"  #                   ja stop
    "48 83 79 10 00"  #          cmp qword [rcx + window], 0
    "75 01"  #                   jne look
    "c3"  #                      ret
    "57"  #                look: push rdi
    "51"  #                      push rcx
    "48 83 ec 08"  #             sub rsp, 8          ; calls need an aligned stack
    "be" + UC_X86_REG_EFLAGS.to_bytes(4, "little").hex() +  # mov esi, UC_X86_REG_EFLAGS
    "48 8d 51 18"  #             lea rdx, [rcx + eflags]
    "ff 51 28"  #                call [rcx + reg_read]
    "48 83 c4 08"  #             add rsp, 8
    "59"  #                      pop rcx
    "5f"  #                      pop rdi
    "f7 41 18 00 02 00 00"  #    test dword [rcx + eflags], IF
    "75 01"  #                   jne stop
    "c3"  #                      ret
    "48 c7 41 20 01 00 00 00"  # stop: mov qword [rcx + stopped], 1
    "ff 61 30"  #                jmp [rcx + emu_stop]
)  # fmt: skip

# Unicorn's own prototypes say what its Python hooks need; ours are addresses.
_hook_add = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.POINTER(ctypes.c_size_t),
    ctypes.c_int,
    ctypes.c_void_p,
    ctypes.c_void_p,
    ctypes.c_uint64,
    ctypes.c_uint64,
    ctypes.c_int,
)(("uc_hook_add", uclib))
_TSC_HOOK: Final = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


class Meter(ctypes.Structure):
    """What the machine code works on.  `count`: instructions that began, whole life."""

    _fields_: ClassVar = [
        ("count", ctypes.c_uint64),
        ("limit", ctypes.c_uint64),
        ("window", ctypes.c_uint64),
        ("eflags", ctypes.c_uint64),
        ("stopped", ctypes.c_uint64),
        ("reg_read", ctypes.c_void_p),
        ("emu_stop", ctypes.c_void_p),
    ]
    count: int
    limit: int
    window: int
    stopped: int
    code: ctypes.c_char

    def take_stop(self) -> bool:
        """Whether the meter stopped the run; the instruction that it kept from running is not counted."""
        stopped = bool(self.stopped)
        self.count -= stopped
        self.stopped = 0
        return stopped


def install(engine: Uc) -> Meter:
    """Put a meter on `engine`, which must not have run yet; it has to live as long as the engine.

    Raises:
        PermissionError: the host forbids memory that is writable and executable; Unicorn
            itself could not run there either.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(_CODE)
    meter = Meter(
        limit=NO_LIMIT,
        reg_read=ctypes.cast(uclib.uc_reg_read, ctypes.c_void_p),
        emu_stop=ctypes.cast(uclib.uc_emu_stop, ctypes.c_void_p),
    )
    meter.code = ctypes.c_char.from_buffer(page)
    _add(engine, UC_HOOK_CODE, ctypes.addressof(meter.code), ctypes.addressof(meter), 0)
    return meter


def count_time_stamps(engine: Uc, now: Callable[[], int]) -> object:
    """Let RDTSC read `now()`: the host's counter would differ from run to run.

    What it returns has to live as long as the engine.
    """

    def read(_engine: object, _data: object) -> int:
        value = now()
        engine.reg_write(UC_X86_REG_EAX, value & 0xFFFF_FFFF)
        engine.reg_write(UC_X86_REG_EDX, value >> 32 & 0xFFFF_FFFF)
        return 1

    hook = _TSC_HOOK(read)
    _add(engine, UC_HOOK_INSN, ctypes.cast(hook, ctypes.c_void_p).value, 0, UC_X86_INS_RDTSC)
    return hook


def handle(engine: Uc) -> ctypes.c_void_p:
    """The engine as Unicorn's C functions take it."""
    return engine._uch  # noqa: SLF001 - the binding has no public name for it


def _add(engine: Uc, kind: int, function: int | None, data: int, instruction: int) -> None:
    everywhere = (1, 0)
    number = ctypes.byref(ctypes.c_size_t())
    status = _hook_add(handle(engine), number, kind, function, data, *everywhere, instruction)
    if status:
        raise UcError(status)
