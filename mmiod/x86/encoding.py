"""An instruction's encoding up to ModRM: prefixes, sizes, register fields.

SDM vol. 2, 2.1 (prefixes), 2.2.1 (REX); vol. 1, tables 3-3 and 3-4 (sizes).
"""

from __future__ import annotations

from typing import Final

from attrs import define

from mmiod.values import CS, DS, ES, FS, GS, SS
from mmiod.x86.cursor import Cursor
from mmiod.x86.mode import CODE16, CODE64, Mode

LOCK: Final = 0xF0
REPNE: Final = 0xF2
REP: Final = 0xF3
_OPERAND_SIZE: Final = 0x66
_ADDRESS_SIZE: Final = 0x67
_SEGMENTS: Final = {0x26: ES, 0x2E: CS, 0x36: SS, 0x3E: DS, 0x64: FS, 0x65: GS}

REX_W: Final = 8
REX_R: Final = 4
REX_X: Final = 2
REX_B: Final = 1


@define
class Encoding:
    """What the prefixes say, and the bytes that are still to read.

    Sizes are bytes.  `rex` is 0 without that prefix, `repeat` 0, REP or REPNE, `segment`
    the override if there is one that counts.
    """

    cursor: Cursor
    mode: Mode
    operand_size: int = 0
    address_size: int = 0
    segment: int | None = None
    repeat: int = 0
    lock: bool = False
    rex: int = 0
    _modrm: int = -1

    def read_prefixes(self) -> None:
        """The last prefix of each group counts; REX counts only next to the opcode."""
        seen: set[int] = set()
        while True:
            byte = self.cursor.peek()
            if self.mode is CODE64 and byte & 0xF0 == 0x40:
                self.rex = byte
            elif self._legacy_prefix(byte):
                seen.add(byte)
                self.rex = 0
            else:
                break
            self.cursor.position += 1
        self._set_sizes(_OPERAND_SIZE in seen, _ADDRESS_SIZE in seen)

    def _legacy_prefix(self, byte: int) -> bool:
        if byte in _SEGMENTS:
            if self.mode is not CODE64 or _SEGMENTS[byte] >= FS:  # 64-bit code ignores the others
                self.segment = _SEGMENTS[byte]
        elif byte in (REP, REPNE):
            self.repeat = byte
        elif byte == LOCK:
            self.lock = True
        else:
            return byte in (_OPERAND_SIZE, _ADDRESS_SIZE)
        return True

    def _set_sizes(self, operand_prefix: bool, address_prefix: bool) -> None:
        if self.mode is CODE64:
            self.operand_size = 8 if self.rex & REX_W else 2 if operand_prefix else 4
            self.address_size = 4 if address_prefix else 8
        else:
            wide = self.mode is not CODE16
            self.operand_size = 4 if wide != operand_prefix else 2
            self.address_size = 4 if wide != address_prefix else 2

    @property
    def modrm(self) -> int:
        """The ModRM byte, read when first asked for."""
        if self._modrm < 0:
            self._modrm = self.cursor.byte()
        return self._modrm

    @property
    def reg(self) -> int:
        """ModRM.reg without its extension by REX.R."""
        return self.modrm >> 3 & 7

    @property
    def address_mask(self) -> int:
        """The bits of an effective address."""
        return (1 << 8 * self.address_size) - 1
