"""An instruction's surroundings, made from its bytes and a seed: registers, flags, memory.

`situation(code, mode, seed)` is all that it takes to see a case again.  Registers are random
but for those that place the operands: these hit `layout.WINDOW`.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

import iced_x86 as iced
from attrs import define, field

from mmiod.values import ES, SS
from mmiod.x86 import Mode
from tests.x86.contents import contents
from tests.x86.forms import CODES, REGISTER_NAMES, mnemonic, operand_kinds
from tests.x86.generator import DESTINATIONS, SOURCES
from tests.x86.layout import BASES, CONTENT, WINDOW
from tests.x86.predicted import (
    NUMBERS,
    SEGMENT_NUMBERS,
    address_bytes,
    decoded,
    has_memory,
    linear_address,
    operand_bytes,
)

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import OpKind

_AX, _CX, _DX, _BX, _SP, _SI, _DI = 0, 1, 2, 3, 4, 6, 7
_TRIES: Final = 200
_MARGIN: Final = 128
"""Bytes at both ends of the window where no operand begins."""
_ALIGNED: Final = frozenset(
    """
    MOVAPS MOVAPD MOVDQA MOVDQA32 MOVDQA64 MOVNTPS MOVNTPD MOVNTDQ MOVNTDQA CMPXCHG16B AADD AAND AOR AXOR
    """.split()
)
_ALIGNED_LEGACY: Final = frozenset({"MOVSLDUP", "MOVSHDUP"})
"""By legacy encoding only (SDM vol. 2, 2.4: type 4)."""
_BITS: Final = frozenset("BT BTS BTR BTC".split())


class Unplaceable(Exception):
    """No registers bring the operands into the window."""


@define
class Case:
    """One instruction and all that it starts from."""

    form: str
    mode: Mode
    code: bytes
    seed: int
    gpr: list[int]
    rflags: int
    zmm: list[int] = field(repr=False)
    k: list[int] = field(repr=False)
    mm: list[int] = field(repr=False)
    memory: dict[int, bytes] = field(factory=dict)
    """What memory holds besides `CONTENT`."""

    def read(self, address: int, size: int) -> bytes:
        """Memory before the instruction."""
        start = address - WINDOW.start
        data = bytearray(CONTENT[start : start + size])
        for at, written in self.memory.items():
            for number, byte in enumerate(written, at - address):
                if 0 <= number < size:
                    data[number] = byte
        return bytes(data)


def situation(code: bytes, mode: Mode, seed: int) -> Case:
    """The case of an instruction's bytes and a seed.  Raises Unplaceable."""
    return _Situation(code, mode, seed).case()


def aligned(name: str) -> bool:
    """Whether the operand of this mnemonic has to be aligned to its size, legacy or vector."""
    return name in _ALIGNED | _ALIGNED_LEGACY or name.removeprefix("V") in _ALIGNED


@define
class _Situation:
    code: bytes
    mode: Mode
    seed: int
    random: Random = field(init=False)
    instruction: iced.Instruction = field(init=False)
    name: str = field(init=False)
    gpr: list[int] = field(factory=list)
    strings: list[int] = field(factory=list)
    """Where strings begin."""
    top: int = 0
    """Where the stack is."""

    def __attrs_post_init__(self) -> None:
        self.random = Random(f"{self.code.hex()} {self.mode} {self.seed}")
        self.instruction = decoded(self.code, self.mode)
        self.name = mnemonic(self.instruction.code)

    def case(self) -> Case:
        """Draw until the operands fit."""
        for _ in range(_TRIES):
            try:
                self._draw_registers()
                self._place()
            except Unplaceable:
                continue
            memory = contents(self.random, self.instruction, self.mode, self.gpr, [*self.strings, self.top])
            return self._finished(memory)
        raise Unplaceable(self.code.hex(), self.mode, self.seed)

    def _finished(self, memory: dict[int, bytes]) -> Case:
        draw = self.random.getrandbits
        kinds = operand_kinds(self.instruction.code)
        vectors = any(kind.startswith(("XMM", "YMM", "ZMM")) for kind in kinds)
        masks = self.instruction.has_op_mask or any(kind.startswith("K_") for kind in kinds)
        return Case(
            CODES[self.instruction.code],
            self.mode,
            self.code,
            self.seed,
            self.gpr,
            2 | draw(12) & 0xCD5,
            [draw(512) for _ in range(32)] if vectors else [0] * 32,
            [self._mask() for _ in range(8)] if masks else [0] * 8,
            [draw(64) for _ in range(8)],
            memory,
        )

    def _mask(self) -> int:
        """All bits random, few set, few clear, none, all."""
        draw = self.random.getrandbits
        return self.random.choice((draw(64), draw(64), draw(64) & draw(64) & draw(64), 0, (1 << 64) - 1))

    def _number(self, bits: int) -> int:
        """Random bits, or one of the numbers at which flags change."""
        return self.random.choice((self.random.getrandbits(bits), 0, 1 << bits - 1, (1 << bits) - 1))

    # --- registers ---------------------------------------------------------------

    def _draw_registers(self) -> None:
        long = self.mode is Mode.CODE64
        used = 16 if long else 8
        self.gpr = [self._number(64 if long else 32) for _ in range(used)] + [0] * (16 - used)
        repeated = self.instruction.has_rep_prefix or self.instruction.has_repne_prefix
        if self.instruction.is_string_instruction and repeated:
            # Whether no iteration by ECX clears RCX's upper half is up to the processor.
            self.gpr[_CX] = self.random.randrange(1 if long else 0, 5)
        if self.name in ("DIV", "IDIV") and self.random.random() < 0.8:
            self.gpr[_DX] = self.random.choice((0, self.random.getrandbits(4)))
        if self.name == "IDIV":
            self._spare_unicorn()
        if self.name in ("SHLD", "SHRD") and operand_bytes(self.instruction.code) == 2:
            # SDM vol. 2: a count beyond the operand's size leaves it undefined.
            self.gpr[_CX] = self.gpr[_CX] & ~0x1F | self.random.randrange(17)
            if (
                self.instruction.op2_kind == iced.OpKind.IMMEDIATE8
                and self.instruction.immediate8 & 0x1F > 16
            ):
                raise Unplaceable
        if self.name in _BITS:
            self._draw_bit_offset()

    def _spare_unicorn(self) -> None:
        """It dies of the lowest dividend by -1: one more overflows as well."""
        size = operand_bytes(self.instruction.code)
        mask = (1 << 8 * size) - 1
        if self.gpr[_DX] & mask == 1 << 8 * size - 1 and not self.gpr[_AX] & mask:
            self.gpr[_AX] |= 1

    def _draw_bit_offset(self) -> None:
        """A number that keeps the operand within the window."""
        register = NUMBERS.get(self.instruction.op1_register)
        if register is not None:
            size = operand_bytes(self.instruction.code)
            self._set(register, self.random.randrange(-0x7000, 0x7000), size)

    def _set(self, register: int, value: int, size: int) -> None:
        mask = (1 << 8 * size) - 1
        self.gpr[register] = self.gpr[register] & ~mask | value & mask

    # --- places ------------------------------------------------------------------

    def _place(self) -> None:
        self.strings, instruction = [], self.instruction
        stack = iced.OpCodeInfo(instruction.code).is_stack_instruction
        width = {Mode.CODE16: 2, Mode.CODE32: 4, Mode.CODE64: 8}[self.mode]
        if stack:
            self._set(_SP, self._offset(SS, width, 1), width)
        for number in range(instruction.op_count):
            self._place_string(instruction.op_kind(number))
        line = operand_kinds(instruction.code)[:1] in _LINES
        if line:
            self._place_line()
        if has_memory(instruction):
            self._place_memory()
        if line and self.gpr[NUMBERS[instruction.op0_register]] % 64:
            raise Unplaceable  # it is the operand's base as well
        self.top = BASES[self.mode][SS] + (self.gpr[_SP] & (1 << 8 * width) - 1)
        if stack and not WINDOW.start + _MARGIN <= self.top <= WINDOW.stop - _MARGIN:
            raise Unplaceable  # it is the operand's base as well

    def _offset(self, segment: int, width: int, alignment: int) -> int:
        """An offset into `segment` that hits the window, of `width` bytes."""
        base = BASES[self.mode][segment]
        highest = min((1 << 8 * width) - 1 + base, WINDOW.stop) - _MARGIN
        lowest = max(WINDOW.start, base) + _MARGIN
        if base >= 1 << 63:
            base, highest, lowest = base - (1 << 64), WINDOW.stop - _MARGIN, WINDOW.start + _MARGIN
        if lowest >= highest:
            raise Unplaceable
        linear = self.random.randrange(lowest, highest)
        return linear - linear % alignment - base

    def _place_string(self, kind: OpKind) -> None:
        if kind not in _STRINGS:
            return
        register, width = _STRINGS[kind]
        segment = ES if register == _DI else SEGMENT_NUMBERS[self.instruction.memory_segment]
        offset = self._offset(segment, width, 1)
        self._set(register, offset, width)
        self.strings.append(BASES[self.mode][segment] + offset & (1 << 64) - 1)

    def _place_line(self) -> None:
        """MOVDIR64B, ENQCMD: 64 aligned bytes at ES:register."""
        register = self.instruction.op0_register
        width = iced.RegisterInfo(register).size
        self._set(NUMBERS[register], self._offset(ES, width, 64), width)

    def _place_memory(self) -> None:
        instruction = self.instruction
        width = address_bytes(instruction)
        size = operand_bytes(instruction.code) or 1
        segment = SEGMENT_NUMBERS[instruction.memory_segment]
        alignment = size if aligned(self.name) else self.random.choice((1, size))
        target = self._offset(segment, width, alignment)
        if REGISTER_NAMES[instruction.memory_index] == "AL":
            self._set(_BX, target - (self.gpr[_AX] & 0xFF), width)
        elif not instruction.is_ip_rel_memory_operand:
            self._solve(target, width)
        self._check(size, alignment)

    def _solve(self, target: int, width: int) -> None:
        """Set the base, or without one the index, so that the effective address is `target`."""
        instruction, mask = self.instruction, (1 << 8 * width) - 1
        base, index = NUMBERS.get(instruction.memory_base), NUMBERS.get(instruction.memory_index)
        scale, rest = instruction.memory_index_scale, target - instruction.memory_displacement & mask
        if base is None and index is None:
            return
        if base == index:
            assert base is not None
            self._set_quotient(base, rest, scale + 1, width)
        elif base is None:
            assert index is not None
            self._set_quotient(index, rest, scale, width)
        else:
            self._set(base, rest - (self.gpr[index] * scale if index is not None else 0), width)

    def _set_quotient(self, register: int, product: int, factor: int, width: int) -> None:
        if product % factor:
            raise Unplaceable
        self._set(register, product // factor, width)

    def _check(self, size: int, alignment: int) -> None:
        moved = 0
        if self.name in _BITS and self.instruction.op1_register in NUMBERS:
            number = self.gpr[NUMBERS[self.instruction.op1_register]] & (1 << 8 * size) - 1
            number -= (number >> 8 * size - 1) << 8 * size
            moved = size * (number // (8 * size))
        address = linear_address(self.instruction, self.mode, self.gpr, moved)
        inside = WINDOW.start + _MARGIN <= address <= WINDOW.stop - _MARGIN
        if not inside or (aligned(self.name) and address % alignment):
            raise Unplaceable


_LINES: Final = {(f"R{bits}_REG_MEM",) for bits in (16, 32, 64)}
_STRINGS: Final = {
    **{kind: (_SI, width) for width, kind in SOURCES.items()},
    **{kind: (_DI, width) for width, kind in DESTINATIONS.items()},
}
