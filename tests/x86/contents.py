"""Memory before an instruction, where what it holds matters: equal operands, targets, selectors."""

from __future__ import annotations

from random import Random
from typing import Final

import iced_x86 as iced
from attrs import define, field

from mmiod.x86 import Mode
from tests.x86.forms import CODES, mnemonic, operand_kinds
from tests.x86.layout import CODE_SELECTORS, DATA_SELECTORS
from tests.x86.predicted import has_memory, linear_address, operand_bytes

_AX, _DX = 0, 2


def contents(
    random: Random, instruction: iced.Instruction, mode: Mode, gpr: list[int], places: list[int]
) -> dict[int, bytes]:
    """What memory holds besides `CONTENT`; strings begin at `places`, the last of which is the stack.

    The accumulator may get a value that strings can equal.
    """
    found = Contents(random, instruction, mode, gpr, places)
    found.fill()
    return found.memory


@define
class Contents:
    """What `contents` works on."""

    random: Random
    instruction: iced.Instruction
    mode: Mode
    gpr: list[int]
    places: list[int]
    memory: dict[int, bytes] = field(factory=dict)

    def fill(self) -> None:
        """By mnemonic."""
        _FILLERS.get(mnemonic(self.instruction.code), Contents.maybe_special)(self)

    def maybe_special(self) -> None:
        """Now and then one of the numbers at which flags change."""
        size = operand_bytes(self.instruction.code)
        if has_memory(self.instruction) and 1 <= size <= 8 and self.random.random() < 0.4:
            top = 1 << 8 * size - 1
            self._write(self.random.choice((0, 1, top - 1, top, 2 * top - 1)), size)

    def _write(self, value: int, size: int) -> None:
        address = linear_address(self.instruction, self.mode, self.gpr)
        self.memory[address] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")

    def maybe_equal(self) -> None:
        """Half of the comparisons hold."""
        size = operand_bytes(self.instruction.code)
        if self.random.random() < 0.5:
            self._write(self.gpr[_AX], size)

    def maybe_equal_pair(self) -> None:
        """The same of CMPXCHG8B and CMPXCHG16B."""
        half = operand_bytes(self.instruction.code) // 2
        if self.random.random() < 0.5:
            low = self.gpr[_AX] & (1 << 8 * half) - 1
            self._write(low | self.gpr[_DX] << 8 * half, 2 * half)

    def maybe_equal_strings(self) -> None:
        """Equal bytes everywhere: comparisons go on."""
        if self.random.random() < 0.5:
            byte = self.gpr[_AX] & 0xFF
            self.gpr[_AX] = byte * (0x0101_0101_0101_0101 if self.mode is Mode.CODE64 else 0x0101_0101)
            for address in self.places[:-1]:
                self.memory[address - 64] = bytes([byte]) * 128

    def target(self) -> None:
        """Near: an offset.  Far: an offset and the selector of a code segment."""
        size = operand_bytes(self.instruction.code)
        far = "_M16" in CODES[self.instruction.code]
        offset_size = size - 2 if far else size
        offset = self.random.getrandbits(min(8 * offset_size, 32 if self.mode is not Mode.CODE64 else 47))
        if not far:
            self._write(offset, size)
            return
        choices = CODE_SELECTORS.get(self.mode, (self.random.getrandbits(16),))
        self._write(offset | self.random.choice(choices) << 8 * offset_size, size)

    def command(self) -> None:
        """What the processor fills in is 0."""
        self._write(0, 4)

    def canonical_return(self) -> None:
        """To a canonical address."""
        if self.mode is Mode.CODE64:
            self.memory[self.places[-1]] = self.random.getrandbits(47).to_bytes(8, "little")

    def selector(self) -> None:
        """Of a data segment, or any in real mode."""
        if operand_kinds(self.instruction.code)[0] == "SEG_REG":
            real = self.mode is Mode.CODE16
            self._write(self.random.getrandbits(16) if real else self.random.choice(DATA_SELECTORS), 2)


_FILLERS: Final = {
    "CMPXCHG": Contents.maybe_equal,
    "CMPXCHG8B": Contents.maybe_equal_pair,
    "CMPXCHG16B": Contents.maybe_equal_pair,
    **{word + size: Contents.maybe_equal_strings for word in ("CMPS", "SCAS") for size in "BWDQ"},
    "CALL": Contents.target,
    "JMP": Contents.target,
    "ENQCMD": Contents.command,
    "ENQCMDS": Contents.command,
    "MOV": Contents.selector,
    "RET": Contents.canonical_return,
}
