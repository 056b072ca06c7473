"""The processor under our feet as an oracle: one instruction between a prologue and an epilogue.

A stub in executable memory loads registers from a context, runs the instruction at `ENTRY`
and stores them again.  All of it lies where `layout` has it, so that instructions are run
with the operands, addresses and registers that mmiod sees.  An instruction that faults ends
the process: run cases in one that may die.

Only 64-bit code can run.  What 16- and 32-bit code does with vectors is the same once the
operand's address is known, so such an instruction runs as its 64-bit twin.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import iced_x86 as iced

from mmiod.values import FS
from mmiod.x86 import Mode
from tests.x86.forms import REGISTERS
from tests.x86.layout import CONTENT, ENTRY, WINDOW
from tests.x86.predicted import GENERAL, SEGMENT_NUMBERS, decoded, has_memory, linear_address
from tests.x86.situations import Case

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code

_STUB: Final = range(0x1_0000, 0x1_1000)
_CODE: Final = range(0x1_1000, 0x1_2000)
_BEFORE: Final = 0x1_2000
_AFTER: Final = 0x1_3000
_CONTEXT: Final = range(_BEFORE, 0x1_4000)
_ZMM, _K, _MM, _GPR = 0, 2048, 2112, 2176
"""Offsets in a context: 32 * 64 bytes, 8 * 8, 8 * 8, then 16 general registers, flags, the host's RSP."""
_FLAGS: Final = _GPR + 128
_HOST: Final = _FLAGS + 8
_LAYOUT: Final = struct.Struct("<8Q8Q16QQ")

_FIXED: Final = 0x10_0000  # MAP_FIXED_NOREPLACE: never over what is there
_NEEDED: Final = frozenset("avx512f avx512bw avx512dq avx512vl bmi1 bmi2".split())
_SAVED: Final = ("RBX", "RBP", "R12", "R13", "R14", "R15")


@cache
def missing() -> str | None:
    """Why this machine is no oracle, or None."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"{platform.machine()} {sys.platform} is not x86-64 Linux"
    words = set(Path("/proc/cpuinfo").read_text().split())
    if _NEEDED - words:
        return f"this CPU has no {' '.join(sorted(_NEEDED - words))}"
    lowest = int(Path("/proc/sys/vm/mmap_min_addr").read_text())
    return f"nothing may be mapped below {lowest:#x}" if lowest > _STUB.start else None


class Native:
    """The oracle of this process: there can be one."""

    def __init__(self) -> None:
        reason = missing()
        if reason is not None:
            raise OSError(reason)
        for place in (_STUB, _CODE):
            _map(place, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
        for place in (_CONTEXT, WINDOW):
            _map(place, mmap.PROT_READ | mmap.PROT_WRITE)
        prologue, self._epilogue = _prologue(), _STUB.start + 0x800
        _poke(_STUB.start, prologue)
        _poke(self._epilogue, _epilogue())
        _poke(WINDOW.start, CONTENT)
        self._call = ctypes.CFUNCTYPE(None)(_STUB.start)

    def run(self, case: Case) -> Case:
        """The case after its instruction: registers and memory."""
        for address, data in case.memory.items():
            _poke(address, data)
        before = _peek(WINDOW.start, len(WINDOW))
        _poke(_BEFORE, b"".join(number.to_bytes(64, "little") for number in case.zmm))
        _poke(_BEFORE + _K, _LAYOUT.pack(*case.k, *case.mm, *case.gpr, case.rflags))
        code = twin(case)
        back = self._epilogue - (ENTRY[Mode.CODE64] + len(code) + 5)
        _poke(ENTRY[Mode.CODE64], code + b"\xe9" + struct.pack("<i", back))
        self._call()
        after = _peek(WINDOW.start, len(WINDOW))
        _poke(WINDOW.start, CONTENT)
        vectors = _peek(_AFTER, 2048)
        rest = _LAYOUT.unpack(_peek(_AFTER + _K, _LAYOUT.size))
        return Case(
            case.form,
            case.mode,
            case.code,
            case.seed,
            list(rest[16:32]),
            rest[32],
            [int.from_bytes(vectors[at : at + 64], "little") for at in range(0, 2048, 64)],
            list(rest[:8]),
            list(rest[8:16]),
            _bytes(case.memory) | changes(before, after),
        )


def _bytes(memory: dict[int, bytes]) -> dict[int, bytes]:
    """Byte by byte, so that some of them can be others."""
    return {
        at: data[at - address : at - address + 1]
        for address, data in memory.items()
        for at in range(address, address + len(data))
    }


def changes(before: bytes, after: bytes) -> dict[int, bytes]:
    """The bytes of the window that differ, by address."""
    if before == after:
        return {}
    different = int.from_bytes(before, "little") ^ int.from_bytes(after, "little")
    first = (different & -different).bit_length() - 1 >> 3
    last = different.bit_length() - 1 >> 3
    return {WINDOW.start + at: after[at : at + 1] for at in range(first, last + 1) if before[at] != after[at]}


def twin(case: Case) -> bytes:
    """The instruction as it can run here: 64-bit code, no segment whose base would have to be set."""
    instruction = decoded(case.code, case.mode)
    segment = SEGMENT_NUMBERS.get(instruction.memory_segment, 0)
    if case.mode is Mode.CODE64 and segment < FS:
        return case.code
    assert has_memory(instruction)
    address = linear_address(instruction, case.mode, case.gpr)
    instruction.memory_base = instruction.memory_index = iced.Register.NONE
    instruction.segment_prefix = iced.Register.NONE
    instruction.memory_index_scale = 1
    instruction.memory_displacement, instruction.memory_displ_size = address, 4
    encoder = iced.Encoder(64)
    encoder.encode(instruction, ENTRY[Mode.CODE64])
    return bytes(encoder.take_buffer())


# --- the stub ----------------------------------------------------------------------------


def _at(address: int) -> iced.MemoryOperand:
    return iced.MemoryOperand(displ=address, displ_size=4)


def _load(form: Code, register: str, address: int) -> iced.Instruction:
    return iced.Instruction.create_reg_mem(form, REGISTERS[register], _at(address))


def _store(form: Code, register: str, address: int) -> iced.Instruction:
    return iced.Instruction.create_mem_reg(form, _at(address), REGISTERS[register])


def _vectors() -> list[tuple[str, int, Code, Code]]:
    """(register, offset, form that loads it, form that stores it)."""
    code = iced.Code
    zmm = (code.EVEX_VMOVDQU64_ZMM_K1Z_ZMMM512, code.EVEX_VMOVDQU64_ZMMM512_K1Z_ZMM)
    k = (code.VEX_KMOVQ_KR_KM64, code.VEX_KMOVQ_M64_KR)
    mm = (code.MOVQ_MM_MMM64, code.MOVQ_MMM64_MM)
    return [
        *((f"ZMM{n}", _ZMM + 64 * n, *zmm) for n in range(32)),
        *((f"K{n}", _K + 8 * n, *k) for n in range(8)),
        *((f"MM{n}", _MM + 8 * n, *mm) for n in range(8)),
    ]


def _prologue() -> bytes:
    """Keep what the caller wants back; flags before RSP, as POPF needs a stack."""
    code, create = iced.Code, iced.Instruction
    others = [(name, 8 * n) for n, name in enumerate(GENERAL[8])]
    return _assembled(
        _STUB.start,
        [
            *(create.create_reg(code.PUSH_R64, REGISTERS[name]) for name in _SAVED),
            create.create(code.PUSHFQ),
            _store(code.MOV_RM64_R64, "RSP", _BEFORE + _HOST),
            *(_load(load, name, _BEFORE + at) for name, at, load, _ in _vectors()),
            create.create_mem(code.PUSH_RM64, _at(_BEFORE + _FLAGS)),
            create.create(code.POPFQ),
            *(_load(code.MOV_R64_RM64, name, _BEFORE + _GPR + at) for name, at in others),
            create.create_branch(code.JMP_REL32_64, ENTRY[Mode.CODE64]),
        ],
    )


def _epilogue() -> bytes:
    """Store everything before anything changes; DF and the x87 tags are the caller's again."""
    code, create = iced.Code, iced.Instruction
    return _assembled(
        _STUB.start + 0x800,
        [
            *(_store(code.MOV_RM64_R64, name, _AFTER + _GPR + 8 * n) for n, name in enumerate(GENERAL[8])),
            _load(code.MOV_R64_RM64, "RSP", _BEFORE + _HOST),
            create.create(code.PUSHFQ),
            create.create_mem(code.POP_RM64, _at(_AFTER + _FLAGS)),
            *(_store(store, name, _AFTER + at) for name, at, _, store in _vectors()),
            create.create(code.EMMS),
            create.create(code.VEX_VZEROUPPER),
            create.create(code.POPFQ),
            *(create.create_reg(code.POP_R64, REGISTERS[name]) for name in reversed(_SAVED)),
            create.create(code.RETNQ),
        ],
    )


def _assembled(address: int, instructions: list[iced.Instruction]) -> bytes:
    encoder, length = iced.Encoder(64), 0
    for instruction in instructions:
        length += encoder.encode(instruction, address + length)
    return bytes(encoder.take_buffer())


# --- memory of this process --------------------------------------------------------------


def _map(place: range, protection: int) -> None:
    """Map pages at a fixed address where nothing is yet."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _FIXED
    got = libc.mmap(place.start, len(place), protection, flags, -1, 0)
    if got != place.start:
        raise OSError(ctypes.get_errno(), f"cannot map {len(place):#x} bytes at {place.start:#x}")


def _poke(address: int, data: bytes) -> None:
    ctypes.memmove(address, data, len(data))


def _peek(address: int, size: int) -> bytes:
    return ctypes.string_at(address, size)
