"""Unicorn's registers, the hidden ones too.

Unicorn's register interface gives selectors, but an exit carries bases, limits and
attributes, and no table in memory holds them: in real mode they may be left over from
protected mode ("unreal mode", which SeaBIOS uses).  So they are read from the image
that `uc_context_save` makes of its CPU state.  That layout is Unicorn's own affair;
therefore `_origin` looks for it with values that it wrote through the public interface
and refuses an engine where they are not all found.

XCR0, which Unicorn does not show, is reported as 1, its value after a reset.
"""

from __future__ import annotations

import ctypes
import functools
import struct
from collections.abc import Mapping
from importlib import metadata
from typing import Final

from attrs import define, field
from unicorn import unicorn_const as uc, x86_const as x86
from unicorn.unicorn_py3.unicorn import Uc, UcContext

from mmiod.values import CS, SS, Delta, Segment, VcpuState

GPR: Final = (
    x86.UC_X86_REG_RAX, x86.UC_X86_REG_RCX, x86.UC_X86_REG_RDX, x86.UC_X86_REG_RBX,
    x86.UC_X86_REG_RSP, x86.UC_X86_REG_RBP, x86.UC_X86_REG_RSI, x86.UC_X86_REG_RDI,
    x86.UC_X86_REG_R8, x86.UC_X86_REG_R9, x86.UC_X86_REG_R10, x86.UC_X86_REG_R11,
    x86.UC_X86_REG_R12, x86.UC_X86_REG_R13, x86.UC_X86_REG_R14, x86.UC_X86_REG_R15,
)  # fmt: skip
_GPR32: Final = (
    x86.UC_X86_REG_EAX, x86.UC_X86_REG_ECX, x86.UC_X86_REG_EDX, x86.UC_X86_REG_EBX,
    x86.UC_X86_REG_ESP, x86.UC_X86_REG_EBP, x86.UC_X86_REG_ESI, x86.UC_X86_REG_EDI,
)  # fmt: skip
RESET_CR0: Final = 0x6000_0010
RESET_CS_BASE: Final = 0xFFFF_0000
RESET_CS: Final = 0xF000
RESET_RIP: Final = 0xFFF0
RESET_EDX: Final = 0x600
"""Family 6, as QEMU's processors say."""

RESET_FCW: Final = 0x40
RESET_MXCSR: Final = 0x1F80

# gpr rip rflags, 3 lazy flags, their kind, direction, hflags, hflags2,
# es cs ss ds fs gs ldtr tr gdtr idtr (selector base limit flags), cr0..cr8
_STATE: Final = struct.Struct("<16QQQ3QIiII" + 10 * "I4xQII" + "9Q")
_HFLAGS: Final = 23
_SEGMENTS: Final = 25
_CR: Final = 65
_SEGMENT: Final = struct.Struct("<I4xQII")
_WORD: Final = struct.Struct("<I")
_CS32, _SS32, _ADDSEG, _CS64 = 1 << 4, 1 << 5, 1 << 6, 1 << 15
"""In hflags: sizes of code and stack, and that bases of data count."""
_L: Final = 1 << 13
_HFLAGS_OFFSET: Final = struct.calcsize("<16QQQ3QIi")
_SEGMENTS_OFFSET: Final = struct.calcsize("<16QQQ3QIiII")

_DR: Final = struct.Struct("<iiQ8Q32xi")
"""Error code, whether INT raised it, where that INT ends, DR0-7, exception in flight."""
_DR_OFFSET: Final = struct.calcsize("<iiQ")
_IN_FLIGHT: Final = struct.Struct("<i")
_IN_FLIGHT_OFFSET: Final = _DR.size - _IN_FLIGHT.size
_NONE_IN_FLIGHT: Final = -1

_CPL: Final = 3
_SHADOW: Final = 1 << 3
_ATTRIBUTES: Final = 0xF0FF
_EFER: Final = 0xC000_0080


@define
class Image:
    """A saved context of Unicorn's as bytes that can be read and changed in place."""

    context: UcContext
    bytes: ctypes.Array[ctypes.c_char] = field(init=False)

    def __attrs_post_init__(self) -> None:
        address = self.context.context.value
        self.bytes = (ctypes.c_char * self.context.size).from_address(address)


@functools.cache
def _origin() -> tuple[int, int]:
    """Where in an image the CPU state and the debug registers are.

    Raises:
        RuntimeError: this build of Unicorn keeps them elsewhere.
    """
    engine = Uc(uc.UC_ARCH_X86, uc.UC_MODE_16)  # in which a selector is a base, too
    tables = (x86.UC_X86_REG_LDTR, x86.UC_X86_REG_TR, x86.UC_X86_REG_GDTR, x86.UC_X86_REG_IDTR)
    selectors = (
        x86.UC_X86_REG_ES,
        x86.UC_X86_REG_SS,
        x86.UC_X86_REG_DS,
        x86.UC_X86_REG_FS,
        x86.UC_X86_REG_GS,
    )
    debug = [0xDEB0_0000 + number for number in range(4)]
    for number, register in enumerate(_GPR32):
        engine.reg_write(register, 0xC0DE_0000 + number)
    for number, register in enumerate(selectors):
        engine.reg_write(register, 0x1110 + number)
    for number, register in enumerate(tables):
        engine.reg_write(register, (0, 0x7E57_0000 + number, 0x4560 + number, 0))
    for number, value in enumerate(debug):
        engine.reg_write(x86.UC_X86_REG_DR0 + number, value)
    image = bytes(Image(engine.context_save()).bytes)
    state = image.find(struct.pack("<8Q", *(0xC0DE_0000 + number for number in range(8))))
    exception = image.find(struct.pack("<4Q", *debug)) - _DR_OFFSET
    if state >= 0 and exception >= 0:
        words = _STATE.unpack_from(image, state)
        bases = [words[at + 1] for at in range(_SEGMENTS, _CR, 4)]
        expected = [
            0x11100, 0, 0x11110, 0x11120, 0x11130, 0x11140,
            *(0x7E57_0000 + number for number in range(4)),
        ]  # fmt: skip
        if expected == bases and _DR.unpack_from(image, exception)[-1] == _NONE_IN_FLIGHT:
            return state, exception
    raise RuntimeError(f"Unicorn {metadata.version('unicorn')} keeps its CPU state in an unknown layout")


class Registers:
    """The registers of one 64-bit engine.  Call only while it does not run."""

    def __init__(self, engine: Uc) -> None:
        self._engine = engine
        self._state, self._exception = _origin()
        self._image = Image(engine.context_save())
        # A fresh 16-bit engine is in the state after a reset, but for CS and the rest of `reset`.
        self._after_reset = Image(Uc(uc.UC_ARCH_X86, uc.UC_MODE_16).context_save())
        cs = self._state + _SEGMENTS_OFFSET + CS * _SEGMENT.size
        *_, limit, flags = _SEGMENT.unpack_from(self._after_reset.bytes, cs)
        _SEGMENT.pack_into(self._after_reset.bytes, cs, RESET_CS, RESET_CS_BASE, limit, flags)
        self.rip = 0
        self.reset()

    def reset(self) -> None:
        """The state after a reset (SDM vol. 3, table 10-1)."""
        self._engine.reg_write(x86.UC_X86_REG_CR0, 0)  # makes the engine forget translations
        self._engine.context_restore(self._after_reset.context)
        self._engine.reg_write(x86.UC_X86_REG_CR0, RESET_CR0)
        self._engine.reg_write(x86.UC_X86_REG_EDX, RESET_EDX)
        self._engine.reg_write(x86.UC_X86_REG_FPCW, RESET_FCW)
        self._engine.reg_write(x86.UC_X86_REG_MXCSR, RESET_MXCSR)
        for table in (x86.UC_X86_REG_GDTR, x86.UC_X86_REG_IDTR):
            self._engine.reg_write(table, (0, 0, 0xFFFF, 0))
        self.rip = RESET_RIP

    def load(self) -> VcpuState:
        """All that an exit tells of the vCPU."""
        words = self._words()
        *segments, ldtr, tr, gdtr, idtr = (
            Segment(words[at + 1], words[at + 2], words[at], words[at + 3] >> 8 & _ATTRIBUTES)
            for at in range(_SEGMENTS, _CR, 4)
        )
        debug = _DR.unpack_from(self._image.bytes, self._exception)[3:11]
        return VcpuState(
            gpr=list(words[:16]), rip=self.rip, rflags=self.rflags, segments=segments,
            tr=tr, ldtr=ldtr, gdtr=gdtr, idtr=idtr, cpl=words[_HFLAGS] & _CPL,
            cr0=words[_CR], cr2=words[_CR + 2], cr3=words[_CR + 3], cr4=words[_CR + 4],
            efer=int(self._engine.reg_read(x86.UC_X86_REG_MSR, _EFER)), xcr0=1, dr6=debug[6], dr7=debug[7],
        )  # fmt: skip

    def apply(self, delta: Delta) -> None:
        """Write back what an instruction did."""
        for number, value in delta.registers.items():
            self._engine.reg_write(GPR[number], value)
        if delta.segments:
            self.load_segments(delta.segments)
        self.rflags = delta.rflags
        self.rip = delta.rip
        self._end_shadow()

    def load_segments(self, segments: Mapping[int, Segment]) -> None:
        """Load segment registers, and what the engine derives from them."""
        hflags = self._words()[_HFLAGS]
        for number, segment in segments.items():
            at = self._state + _SEGMENTS_OFFSET + number * _SEGMENT.size
            parts = segment.selector, segment.base, segment.limit, segment.attributes << 8
            _SEGMENT.pack_into(self._image.bytes, at, *parts)
            if number == CS:
                big = _CS64 | _CS32 if segment.attributes & _L else _CS32 * (segment.attributes >> 14 & 1)
                hflags = hflags & ~(_CS64 | _CS32) | big
            elif number == SS:
                hflags = hflags & ~_SS32 | _SS32 * (segment.attributes >> 14 & 1)
        hflags |= 0 if hflags & _CS64 else _ADDSEG
        _WORD.pack_into(self._image.bytes, self._state + _HFLAGS_OFFSET, hflags)
        self._engine.context_restore(self._image.context)

    @property
    def rflags(self) -> int:
        """The flags, which the engine keeps in pieces."""
        return int(self._engine.reg_read(x86.UC_X86_REG_EFLAGS))

    @rflags.setter
    def rflags(self, value: int) -> None:
        self._engine.reg_write(x86.UC_X86_REG_EFLAGS, value)

    @property
    def shadow(self) -> bool:
        """Whether the next instruction is in the shadow of an STI or of a load of SS."""
        return bool(self._words()[_HFLAGS] & _SHADOW)

    def exception(self) -> tuple[int, bool]:
        """Error code of the exception that stopped the engine, and whether an INT raised it."""
        self._words()
        error_code, software, *_ = _DR.unpack_from(self._image.bytes, self._exception)
        return error_code, bool(software)

    def settle(self) -> None:
        """The exception was delivered: the next one is no double fault."""
        self._words()
        _IN_FLIGHT.pack_into(self._image.bytes, self._exception + _IN_FLIGHT_OFFSET, _NONE_IN_FLIGHT)
        self._engine.context_restore(self._image.context)

    def _end_shadow(self) -> None:
        """An interrupt shadow ends with its instruction, whoever executed that."""
        hflags = self._words()[_HFLAGS]
        if hflags & _SHADOW:
            _WORD.pack_into(self._image.bytes, self._state + _HFLAGS_OFFSET, hflags & ~_SHADOW)
            self._engine.context_restore(self._image.context)

    def _words(self) -> tuple[int, ...]:
        self._engine.context_update(self._image.context)
        return _STATE.unpack_from(self._image.bytes, self._state)
