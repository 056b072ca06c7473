"""Random instances of forms, made by iced's encoder: operands, addressing and prefixes.

Where an operand has no register to be placed by, its displacement is chosen to hit the
window; all else is placed by the registers, which `situations` chooses.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

import iced_x86 as iced
from attrs import define, field

from mmiod.values import CS, DS, FS
from mmiod.x86 import Mode
from tests.x86.forms import REGISTERS, mnemonic, operand_kinds
from tests.x86.layout import BASES, ENTRY, WINDOW
from tests.x86.predicted import GENERAL, SEGMENT_NUMBERS, decoded, operand_bytes

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code, OpKind

_BX, _SP, _BP, _SI, _DI = 3, 4, 5, 6, 7
_PAIRS16: Final[tuple[tuple[int | None, int | None], ...]] = (
    *((base, index) for base in (_BX, _BP) for index in (_SI, _DI)),
    *((base, None) for base in (_SI, _DI, _BP, _BX, None)),
)
SOURCES: Final[dict[int, OpKind]] = {
    2: iced.OpKind.MEMORY_SEG_SI,
    4: iced.OpKind.MEMORY_SEG_ESI,
    8: iced.OpKind.MEMORY_SEG_RSI,
}
DESTINATIONS: Final[dict[int, OpKind]] = {
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
_SEGMENTS: Final = ("ES", "CS", "SS", "DS", "FS", "GS")
_LOCKABLE: Final = frozenset(
    "ADD OR ADC SBB AND SUB XOR NOT NEG INC DEC XCHG XADD CMPXCHG CMPXCHG8B CMPXCHG16B BTS BTR BTC".split()
)
_REPEAT_MEANS_ANOTHER: Final = frozenset("XCHG MOV CALL JMP BSF BSR TZCNT LZCNT POPCNT CRC32".split())
"""XACQUIRE, XRELEASE and BND, or the opcode of another instruction."""


class Unencodable(Exception):
    """The operands drawn do not go together (AH with REX, ...)."""


def encode(code: Code, mode: Mode, random: Random) -> bytes:
    """One instance of a form."""
    while True:
        try:
            return _Draft(code, mode, random).encoded()
        except (Unencodable, ValueError):
            continue


@define
class _Draft:
    """An instruction under construction."""

    code: Code
    mode: Mode
    random: Random
    instruction: iced.Instruction = field(factory=iced.Instruction)
    address_size: int = 0

    def encoded(self) -> bytes:
        """Draw everything, in an order in which later parts see what they need."""
        self.address_size = self._address_size()
        self.instruction.code = self.code
        for number, kind in enumerate(operand_kinds(self.code)):
            self._set_operand(number, kind)
        self._set_mask()
        self._set_prefixes()
        encoder = iced.Encoder(int(self.mode))
        encoder.encode(self.instruction, ENTRY[self.mode])
        encoded = self._redundant() + bytes(encoder.take_buffer())
        if decoded(encoded, self.mode).code != self.code or len(encoded) > 15:
            raise Unencodable
        return encoded

    def number(self, bits: int) -> int:
        """Random bits, or one of the numbers at which flags change."""
        return self.random.choice((self.random.getrandbits(bits), 0, 1 << bits - 1, (1 << bits) - 1))

    def _address_size(self) -> int:
        native = {Mode.CODE16: 2, Mode.CODE32: 4, Mode.CODE64: 8}[self.mode]
        return {2: 4, 4: 2, 8: 4}[native] if self.random.random() < 0.3 else native

    # --- prefixes ----------------------------------------------------------------

    def _set_prefixes(self) -> None:
        name, instruction = mnemonic(self.code), self.instruction
        if name in _LOCKABLE and instruction.op0_kind == iced.OpKind.MEMORY:
            instruction.has_lock_prefix = self.random.random() < 0.3
        if not instruction.is_string_instruction or self.random.random() < 0.3:
            return
        if self.random.random() < 0.5:
            instruction.has_rep_prefix = True
        else:
            instruction.has_repne_prefix = True

    def _redundant(self) -> bytes:
        """REP where it means nothing."""
        name, instruction, form = mnemonic(self.code), self.instruction, iced.OpCodeInfo(self.code)
        if form.encoding != iced.EncodingKind.LEGACY or form.table != iced.OpCodeTableKind.NORMAL:
            return b""
        if instruction.has_lock_prefix or instruction.is_string_instruction or name in _REPEAT_MEANS_ANOTHER:
            return b""
        return self.random.choice((b"", b"", b"\xf2", b"\xf3"))

    def _set_mask(self) -> None:
        """EVEX: k1 to k7 or none, merging or zeroing."""
        form, choose = iced.OpCodeInfo(self.code), self.random.random
        if not form.can_use_op_mask_register or choose() < 0.3:
            return
        self.instruction.op_mask = REGISTERS[f"K{self.random.randrange(1, 8)}"]
        loads = self.instruction.op0_kind == iced.OpKind.REGISTER
        self.instruction.zeroing_masking = form.can_use_zeroing_masking and loads and choose() < 0.5

    def _override(self, default: int) -> int:
        """The segment that will count; now and then a prefix is set."""
        if self.random.random() < 0.6:
            return default
        name = self.random.choice(_SEGMENTS)
        number = SEGMENT_NUMBERS[REGISTERS[name]]
        if self.address_size == 2 and number == CS:  # its base is 0: too low for 16 bits
            return default
        self.instruction.segment_prefix = REGISTERS[name]
        return default if self.mode is Mode.CODE64 and number < FS else number

    # --- operands ----------------------------------------------------------------

    def _set_operand(self, number: int, kind: str) -> None:
        instruction = self.instruction
        if kind in _UNSIGNED:
            operand, bits = _UNSIGNED[kind]
            instruction.set_op_kind(number, operand)
            instruction.set_immediate_u64(number, self.number(bits))
        elif kind in _SIGNED:
            operand, bits = _SIGNED[kind]
            instruction.set_op_kind(number, operand)
            instruction.set_immediate_i64(number, self.number(bits) - (1 << bits - 1))
        elif kind == "IMM8_CONST_1":
            instruction.set_op_kind(number, iced.OpKind.IMMEDIATE8)
            instruction.set_immediate_u64(number, 1)
        elif kind == "SEG_RSI":
            self._override(DS)
            instruction.set_op_kind(number, SOURCES[self.address_size])
        elif kind == "ES_RDI":
            instruction.set_op_kind(number, DESTINATIONS[self.address_size])
        elif kind == "SEG_RBX_AL":
            self._set_table(number)
        elif kind.endswith("_REG_MEM"):  # a register that holds an address
            instruction.set_op_kind(number, iced.OpKind.REGISTER)
            instruction.set_op_register(number, REGISTERS[self._general(self._width(kind))])
        elif "MEM" in kind:
            instruction.set_op_kind(number, iced.OpKind.MEMORY)
            self._set_moffs() if kind == "MEM_OFFS" else self._set_memory()
        else:
            instruction.set_op_kind(number, iced.OpKind.REGISTER)
            instruction.set_op_register(number, REGISTERS[self._register(kind)])

    def _width(self, kind: str) -> int:
        """The bytes of an operand kind like R32_REG; an address register is as wide as addresses."""
        width = int(kind[1:].partition("_")[0]) // 8
        if kind.endswith("_REG_MEM"):
            self.address_size = width
        return width

    def _general(self, size: int) -> str:
        names = GENERAL[size]
        return self.random.choice(names if self.mode is Mode.CODE64 else names[:8])

    def _register(self, kind: str) -> str:
        prefix, _, what = kind.partition("_")
        long = self.mode is Mode.CODE64
        if kind == "SEG_REG":
            loads = operand_kinds(self.code)[0] == kind
            return self.random.choice([name for name in _SEGMENTS if not (loads and name == "CS")])
        if not what:
            return kind  # a fixed one
        if prefix in ("XMM", "YMM", "ZMM"):
            evex = iced.OpCodeInfo(self.code).encoding == iced.EncodingKind.EVEX
            return f"{prefix}{self.random.randrange((32 if evex else 16) if long else 8)}"
        if prefix in ("MM", "K"):
            return f"{prefix}{self.random.randrange(8)}"
        return self._general(self._width(kind))

    # --- memory ------------------------------------------------------------------

    @property
    def _mask(self) -> int:
        return (1 << 8 * self.address_size) - 1

    def _set_table(self, number: int) -> None:
        """XLAT: rBX + AL."""
        instruction, base = self.instruction, {2: "BX", 4: "EBX", 8: "RBX"}[self.address_size]
        self._override(DS)
        instruction.set_op_kind(number, iced.OpKind.MEMORY)
        instruction.memory_base = REGISTERS[base]
        instruction.memory_index = REGISTERS["AL"]
        instruction.memory_index_scale = 1

    def _offset(self, segment: int) -> int:
        """An offset into `segment` that hits the window."""
        base = BASES[self.mode][segment]
        start = max(WINDOW.start - base, 0) + 64
        offset = self.random.randrange(start, min(start + 0xFE00, WINDOW.stop - base - 128))
        if self.address_size == 2 and offset > 0xFF00:
            raise Unencodable
        linear = base + offset
        return offset - linear % max(1, operand_bytes(self.code)) if self.random.random() < 0.7 else offset

    def _set_moffs(self) -> None:
        self.instruction.memory_displacement = self._offset(self._override(DS)) & self._mask
        self.instruction.memory_displ_size = self.address_size

    def _set_memory(self) -> None:
        instruction, names = self.instruction, GENERAL[self.address_size]
        base, index, scale = self._base_index()
        segment = self._override(2 if base in (_SP, _BP) else DS)
        if index is not None:
            instruction.memory_index = REGISTERS[names[index]]
            instruction.memory_index_scale = 1 << scale
        if base is None and index is None:
            self._set_absolute(segment)
            return
        if base is not None:
            instruction.memory_base = REGISTERS[names[base]]
        width = self.random.choice((0, 1, min(self.address_size, 4))) if base is not None else 4
        self._store_displacement(self._displacement(width), width)

    def _set_absolute(self, segment: int) -> None:
        """No register: the displacement does it all, perhaps relative to RIP."""
        width = min(self.address_size, 4)
        if self.mode is Mode.CODE64 and self.random.random() < 0.5:
            width = self.address_size
            self.instruction.memory_base = REGISTERS["RIP" if width == 8 else "EIP"]
        self._store_displacement(self._offset(segment), width)

    def _store_displacement(self, displacement: int, width: int) -> None:
        displacement &= self._mask
        if self.address_size == 8 and (displacement + (1 << 31)) & self._mask >= 1 << 32:
            raise Unencodable
        self.instruction.memory_displacement = displacement
        self.instruction.memory_displ_size = width

    def _displacement(self, width: int) -> int:
        """Signed; of one byte it counts operands where EVEX has it so."""
        if not width:
            return 0
        number = self.random.getrandbits(8 * width) - (1 << 8 * width - 1)
        scaled = width == 1 and iced.OpCodeInfo(self.code).encoding == iced.EncodingKind.EVEX
        return number * operand_bytes(self.code) if scaled else number

    def _base_index(self) -> tuple[int | None, int | None, int]:
        choose = self.random.choice
        if self.address_size == 2:
            return *choose(_PAIRS16), 0
        registers: list[int | None] = list(range(16 if self.mode is Mode.CODE64 else 8))
        index = choose([*(n for n in registers if n != _SP), *[None] * 4])
        return choose([*registers, None]), index, choose((0, 1, 2, 3)) if index is not None else 0
