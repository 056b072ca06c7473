"""An instruction's encoding up to its operands: prefixes, sizes, opcode number, ModRM.

SDM vol. 2, 2.1 (prefixes), 2.2.1 (REX), 2.1.2 (opcode maps); vol. 1, tables 3-3 and 3-4 (sizes).
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from mmiod.values import CS, DS, ES, FS, GS, SS
from mmiod.x86.cursor import Cursor
from mmiod.x86.mode import CODE16, CODE32, CODE64, Mode
from mmiod.x86.operands import Memory

LOCK: Final = 0xF0
REPNE: Final = 0xF2
REP: Final = 0xF3
_OPERAND_SIZE: Final = 0x66
_ADDRESS_SIZE: Final = 0x67
_SEGMENTS: Final = {0x26: ES, 0x2E: CS, 0x36: SS, 0x3E: DS, 0x64: FS, 0x65: GS}
_LEGACY: Final = frozenset({LOCK, REPNE, REP, _OPERAND_SIZE, _ADDRESS_SIZE, *_SEGMENTS})
_PREFIXES: Final = {CODE16: _LEGACY, CODE32: _LEGACY, CODE64: _LEGACY | frozenset(range(0x40, 0x50))}

REX_W: Final = 8
REX_R: Final = 4
REX_X: Final = 2
REX_B: Final = 1

MANDATORY: Final = {"NP": 0, "66": 1, "F3": 2, "F2": 3}
"""What a prefix of the opcode's choice is called in its number, as in VEX.pp."""

_SIZES: Final = {CODE16: (2, 4), CODE32: (4, 2), CODE64: (4, 2)}
"""Operand size without and with 66."""
_ADDRESS_SIZES: Final = {CODE16: (2, 4), CODE32: (4, 2), CODE64: (8, 4)}
"""Address size without and with 67."""


def opcode_number(escape: int, opcode: int, mandatory: int) -> int:
    """How the opcode table numbers `opcode` of the map behind `escape` (0, 0x0F, 0x0F38, 0x0F3A)."""
    return mandatory << 24 | escape << 8 | opcode


@define(eq=False)
class Encoding(Cursor):
    """What the prefixes say, and the bytes that are still to read.

    Sizes are bytes.  `rex` is 0 without that prefix, `repeat` 0, REP or REPNE, `segment`
    the override if there is one that counts, `mandatory` the prefix by which opcodes of
    the 0F maps differ.  `modrm` and `memory` are there once they were read.
    """

    mode: Mode = field(kw_only=True)
    operand_size: int = 0
    address_size: int = 0
    segment: int | None = None
    repeat: int = 0
    lock: bool = False
    rex: int = 0
    mandatory: int = 0
    modrm: int = 0
    memory: Memory | None = None

    def read_prefixes(self) -> int:
        """The byte behind the prefixes; of each group the last prefix counts."""
        prefixes, wide, address = _PREFIXES[self.mode], 0, 0
        while (byte := self.byte()) in prefixes:
            if byte & 0xF0 == 0x40:
                self.rex = byte
                continue
            self.rex = 0  # it counts only next to the opcode
            if byte == _OPERAND_SIZE:
                wide = 1
            elif byte == _ADDRESS_SIZE:
                address = 1
            else:
                self._set(byte)
        self.operand_size = 8 if self.rex & REX_W else _SIZES[self.mode][wide]
        self.address_size = _ADDRESS_SIZES[self.mode][address]
        self.mandatory = (2 if self.repeat == REP else 3) if self.repeat else wide
        return byte

    def _set(self, prefix: int) -> None:
        if prefix == LOCK:
            self.lock = True
        elif prefix in (REP, REPNE):
            self.repeat = prefix
        elif self.mode is not CODE64 or _SEGMENTS[prefix] >= FS:  # 64-bit code ignores the others
            self.segment = _SEGMENTS[prefix]

    def read_opcode(self, first: int) -> int:
        """The number of the opcode that begins with `first`."""
        if first != 0x0F:
            return first
        second = self.byte()
        if second in (0x38, 0x3A):
            return opcode_number(0x0F00 | second, self.byte(), self.mandatory)
        return opcode_number(0x0F, second, self.mandatory)

    def segment_or(self, default: int) -> int:
        """The segment of a memory operand that has `default` without an override."""
        return default if self.segment is None else self.segment

    @property
    def reg(self) -> int:
        """ModRM.reg without its extension by REX.R."""
        return self.modrm >> 3 & 7

    @property
    def address_mask(self) -> int:
        """The bits of an effective address."""
        return (1 << 8 * self.address_size) - 1
