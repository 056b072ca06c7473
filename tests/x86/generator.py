"""Random instances of forms, made by iced's encoder.

Operands, addressing, prefixes, registers and flags are random, but memory operands land
in a window that the oracle has mapped: the base register, or without one the
displacement, is chosen last.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

import iced_x86 as iced
from attrs import define, field

from mmiod.values import CS, DS, ES, FS, GS, SS
from mmiod.x86 import Mode
from tests.x86.forms import CODES, REGISTERS, STRINGS, Case, mnemonic, operand_kinds

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code, OpKind

CODE: Final = 0x1000
"""Linear address of the instruction; code segments are based at 0."""
WINDOW: Final = range(0x20000, 0x40000)
"""Linear addresses of memory operands."""

_SEGMENTS: Final = {"ES": ES, "CS": CS, "SS": SS, "DS": DS, "FS": FS, "GS": GS}
_NAMES64: Final = "RAX RCX RDX RBX RSP RBP RSI RDI R8 R9 R10 R11 R12 R13 R14 R15".split()
_NAMES32: Final = "EAX ECX EDX EBX ESP EBP ESI EDI".split() + [f"R{n}D" for n in range(8, 16)]
_NAMES16: Final = "AX CX DX BX SP BP SI DI".split() + [f"R{n}W" for n in range(8, 16)]
_NAMES8: Final = "AL CL DL BL AH CH DH BH SPL BPL SIL DIL".split() + [f"R{n}L" for n in range(8, 16)]
_BY_SIZE: Final = {1: _NAMES8, 2: _NAMES16, 4: _NAMES32, 8: _NAMES64}
NUMBERS: Final = {
    REGISTERS[name]: number for names in (_NAMES64, _NAMES32, _NAMES16) for number, name in enumerate(names)
}
"""General registers of 16, 32 and 64 bits by iced's number."""

_AX, _CX, _DX, _BX, _SP, _BP, _SI, _DI = range(8)
_PAIRS16: Final[tuple[tuple[int | None, int | None], ...]] = (
    *((base, index) for base in (_BX, _BP) for index in (_SI, _DI)),
    *((base, None) for base in (_SI, _DI, _BP, _BX, None)),
)
_SOURCES: Final[dict[int, OpKind]] = {
    2: iced.OpKind.MEMORY_SEG_SI,
    4: iced.OpKind.MEMORY_SEG_ESI,
    8: iced.OpKind.MEMORY_SEG_RSI,
}
_DESTINATIONS: Final[dict[int, OpKind]] = {
    2: iced.OpKind.MEMORY_ESDI,
    4: iced.OpKind.MEMORY_ESEDI,
    8: iced.OpKind.MEMORY_ESRDI,
}
_UNSIGNED: Final = {
    "IMM8": (iced.OpKind.IMMEDIATE8, 8),
    "IMM16": (iced.OpKind.IMMEDIATE16, 16),
    "IMM32": (iced.OpKind.IMMEDIATE32, 32),
}
_SIGNED: Final = {
    "IMM8SEX16": (iced.OpKind.IMMEDIATE8TO16, 8),
    "IMM8SEX32": (iced.OpKind.IMMEDIATE8TO32, 8),
    "IMM8SEX64": (iced.OpKind.IMMEDIATE8TO64, 8),
    "IMM32SEX64": (iced.OpKind.IMMEDIATE32TO64, 32),
}
_ALIASES: Final[dict[Code, Code]] = {
    code: getattr(iced.Code, name[: name.rindex("_")])
    for code, name in CODES.items()
    if name.startswith("TEST") and name.endswith("R1")
}
"""F6 /1 and F7 /1, which Unicorn rejects, to /0."""
_LOCKABLE: Final = frozenset("ADD OR ADC SBB AND SUB XOR XCHG".split())


class Unencodable(Exception):
    """The operands drawn do not go together (AH with REX, ...)."""


def cases(code: Code, mode: Mode, count: int, bases: list[int]) -> list[Case]:
    """`count` cases of a form, always the same ones, for segments at these bases."""
    generator = Generator(code, mode, Random(f"{CODES[code]} {mode}"), bases)
    return [generator.case() for _ in range(count)]


@define
class Generator:
    """Draws cases of one form in one mode."""

    code: Code
    mode: Mode
    random: Random
    bases: list[int]
    gpr: list[int] = field(factory=list)
    instruction: iced.Instruction = field(factory=iced.Instruction)
    address_size: int = 0

    def case(self) -> Case:
        """The next case."""
        while True:
            try:
                return self._draw()
            except (Unencodable, ValueError):
                continue

    def _draw(self) -> Case:
        long = self.mode is Mode.CODE64
        self.gpr = [self._number(64 if long else 32) for _ in range(16 if long else 8)] + [0] * (
            0 if long else 8
        )
        self.address_size = self._address_size()
        self.instruction = iced.Instruction()
        self.instruction.code = self.code
        for number, kind in enumerate(operand_kinds(self.code)):
            self._set_operand(number, kind)
        self._set_prefixes()
        redundant = self._redundant()
        encoded = redundant + self._encoded(self.code)
        if iced.Decoder(int(self.mode), encoded, ip=CODE).decode().code != self.code or len(encoded) > 15:
            raise Unencodable
        alias = redundant + self._encoded(_ALIASES.get(self.code, self.code))
        rflags = 2 | self.random.getrandbits(12) & 0xCD5
        return Case(CODES[self.code], self.mode, encoded, alias, self.gpr, rflags)

    def _number(self, bits: int) -> int:
        """Random bits, or one of the numbers at which flags change."""
        return self.random.choice((self.random.getrandbits(bits), 0, 1 << bits - 1, (1 << bits) - 1))

    def _address_size(self) -> int:
        native = {Mode.CODE16: 2, Mode.CODE32: 4, Mode.CODE64: 8}[self.mode]
        return {2: 4, 4: 2, 8: 4}[native] if self.random.random() < 0.3 else native

    def _encoded(self, code: Code) -> bytes:
        self.instruction.code = code
        encoder = iced.Encoder(int(self.mode))
        encoder.encode(self.instruction, CODE)
        return bytes(encoder.take_buffer())

    # --- prefixes ----------------------------------------------------------------

    def _set_prefixes(self) -> None:
        name, instruction = mnemonic(self.code), self.instruction
        if name in _LOCKABLE and instruction.op0_kind == iced.OpKind.MEMORY:
            instruction.has_lock_prefix = self.random.random() < 0.3
        if name not in STRINGS or self.random.random() < 0.3:
            return
        if self.random.random() < 0.5:
            instruction.has_rep_prefix = True
        else:
            instruction.has_repne_prefix = True
        # Whether no iteration by ECX clears RCX's upper half is up to the processor.
        self.gpr[_CX] = self.random.randrange(1 if self.mode is Mode.CODE64 else 0, 5)

    def _redundant(self) -> bytes:
        """REP where it means nothing; before XCHG and stores it would be XACQUIRE or XRELEASE."""
        name, instruction = mnemonic(self.code), self.instruction
        if instruction.has_lock_prefix or name in STRINGS or name in ("XCHG", "MOV"):
            return b""
        return self.random.choice((b"", b"", b"\xf2", b"\xf3"))

    def _override(self, default: int) -> int:
        """The segment that will count; now and then a prefix is set."""
        if self.random.random() < 0.6:
            return default
        name = self.random.choice(list(_SEGMENTS))
        self.instruction.segment_prefix = REGISTERS[name]
        ignored = self.mode is Mode.CODE64 and _SEGMENTS[name] < FS
        return default if ignored else _SEGMENTS[name]

    # --- operands ----------------------------------------------------------------

    def _set_operand(self, number: int, kind: str) -> None:
        if kind in _UNSIGNED:
            operand, bits = _UNSIGNED[kind]
            self.instruction.set_op_kind(number, operand)
            self.instruction.set_immediate_u64(number, self._number(bits))
        elif kind in _SIGNED:
            operand, bits = _SIGNED[kind]
            self.instruction.set_op_kind(number, operand)
            self.instruction.set_immediate_i64(number, self._number(bits) - (1 << bits - 1))
        elif "MEM" in kind:
            self.instruction.set_op_kind(number, iced.OpKind.MEMORY)
            self._set_moffs() if kind == "MEM_OFFS" else self._set_memory()
        elif kind == "SEG_RSI":
            self._set_string(number, _SOURCES[self.address_size], _SI, self._override(DS))
        elif kind == "ES_RDI":
            self._set_string(number, _DESTINATIONS[self.address_size], _DI, ES)
        else:
            self.instruction.set_op_kind(number, iced.OpKind.REGISTER)
            self.instruction.set_op_register(number, REGISTERS[self._register(kind)])

    def _register(self, kind: str) -> str:
        if kind == "SEG_REG":
            return self.random.choice(list(_SEGMENTS))
        if not kind.endswith("_REG"):
            return kind  # a fixed one
        names = _BY_SIZE[int(kind[1:-4]) // 8]
        return self.random.choice(names if self.mode is Mode.CODE64 else names[:8])

    def _set_string(self, number: int, kind: OpKind, register: int, segment: int) -> None:
        self._place(register, self._offset(segment))
        self.instruction.set_op_kind(number, kind)

    # --- memory ------------------------------------------------------------------

    @property
    def _mask(self) -> int:
        return (1 << 8 * self.address_size) - 1

    def _offset(self, segment: int) -> int:
        """An offset into `segment` that hits the window."""
        base = self.bases[segment]
        low = max(WINDOW.start - base, 0)
        offset = self.random.randrange(low + 64, min(low + 0xFF00, WINDOW.stop - base - 64))
        if self.address_size == 2 and offset > 0xFF00:
            raise Unencodable
        return offset

    def _place(self, register: int, offset: int) -> None:
        """Make a register, as wide as addresses are, hold `offset`."""
        self.gpr[register] = self.gpr[register] & ~self._mask | offset & self._mask

    def _set_moffs(self) -> None:
        self.instruction.memory_displacement = self._offset(self._override(DS))
        self.instruction.memory_displ_size = self.address_size

    def _set_memory(self) -> None:
        instruction, names = self.instruction, _BY_SIZE[self.address_size]
        base, index, scale = self._base_index()
        rest = self._offset(self._override(SS if base in (_SP, _BP) else DS))
        if index is not None:
            instruction.memory_index = REGISTERS[names[index]]
            instruction.memory_index_scale = 1 << scale
            rest -= self.gpr[index] << scale
        if base is None:
            self._set_displacement(rest, index)
            return
        instruction.memory_base = REGISTERS[names[base]]
        width = self.random.choice((0, 1, min(self.address_size, 4)))
        if base == index:
            width, displacement = min(self.address_size, 4), rest - self.gpr[base]
        else:
            displacement = self._displacement(width)
            self._place(base, rest - displacement)
        self._store_displacement(displacement, width)

    def _set_displacement(self, rest: int, index: int | None) -> None:
        """No base register: the displacement does it all, perhaps relative to RIP."""
        width = min(self.address_size, 4)
        if index is None and self.mode is Mode.CODE64 and self.random.random() < 0.5:
            width = self.address_size
            self.instruction.memory_base = REGISTERS["RIP" if width == 8 else "EIP"]
        self._store_displacement(rest, width)

    def _store_displacement(self, displacement: int, width: int) -> None:
        displacement &= self._mask
        if self.address_size == 8 and (displacement + (1 << 31)) & self._mask >= 1 << 32:
            raise Unencodable
        self.instruction.memory_displacement = displacement
        self.instruction.memory_displ_size = width

    def _displacement(self, width: int) -> int:
        return self.random.getrandbits(8 * width) - (1 << 8 * width - 1) if width else 0

    def _base_index(self) -> tuple[int | None, int | None, int]:
        choose = self.random.choice
        if self.address_size == 2:
            return *choose(_PAIRS16), 0
        registers: list[int | None] = list(range(16 if self.mode is Mode.CODE64 else 8))
        index = choose([*(n for n in registers if n != _SP), *[None] * 4])
        return choose([*registers, None]), index, choose((0, 1, 2, 3)) if index is not None else 0
