"""The NVM command set (NVM Express 1.4, 6): what commands of I/O queues ask of the image."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final

from attrs import frozen

from mmiod.device.block import SECTOR, Medium
from mmiod.device.nvme.entries import ALL_NAMESPACES, Opcode, Refused, Status, Submission
from mmiod.device.nvme.identify import MAX_LENGTH, NAMESPACE
from mmiod.device.nvme.queues import Step

_FUA: Final = 1 << 30
"""Force unit access, of dword 12."""
_DEALLOCATE: Final = 1 << 2
"""AD of dword 11 (6.7)."""
_RANGE: Final = struct.Struct("<4xIQ")
"""Of Dataset Management: context attributes, blocks, first block."""
_FLUSH: Final = Step("flush")


@frozen
class Nvm:
    """What I/O commands look at; `cached` is whether writes may stay in the write cache."""

    medium: Medium
    cached: bool

    def length(self, entry: Submission) -> int:
        """Bytes that the host gives with a command.

        Raises:
            Refused: the command will not be done.
        """
        action = _ACTIONS.get(entry.opcode)
        if action is None:
            raise Refused(Status.INVALID_OPCODE)
        entry.check()
        everywhere = entry.opcode == Opcode.FLUSH and entry.namespace == ALL_NAMESPACES
        if not (everywhere or entry.namespace == NAMESPACE):
            raise Refused(Status.INVALID_NAMESPACE)
        if not self.medium.sectors:  # it is not active (6.1.4)
            raise Refused(Status.INVALID_FIELD)
        return action.length(self, entry)

    def steps(self, entry: Submission, data: bytes) -> list[Step]:
        """What to ask of the image for a command, after `length`.

        Raises:
            Refused: the command will not be done.
        """
        return _ACTIONS[entry.opcode].steps(self, entry, data)

    # --- lengths

    def nothing(self, _entry: Submission) -> int:
        """The host gives no data."""
        return 0

    def blocks(self, entry: Submission) -> int:
        """6.15: the blocks' content."""
        self._check_writable()
        self._check_transfer(entry)
        return entry.blocks * SECTOR

    def ranges(self, entry: Submission) -> int:
        """6.7: up to 256."""
        return ((entry.dwords[0] & 0xFF) + 1) * _RANGE.size

    # --- steps

    def flush(self, _entry: Submission, _data: bytes) -> list[Step]:
        """6.8."""
        return [_FLUSH]

    def read(self, entry: Submission, _data: bytes) -> list[Step]:
        """6.9: what the host's system keeps of the image has been written to it, so FUA needs nothing."""
        self._check_transfer(entry)
        return [Step("read", entry.lba, entry.blocks)]

    def write(self, entry: Submission, _data: bytes) -> list[Step]:
        """6.15."""
        return self._lasting(entry, Step("write", entry.lba, entry.blocks))

    def write_zeroes(self, entry: Submission, _data: bytes) -> list[Step]:
        """6.16."""
        self._check_writable()
        self._check_blocks(entry.lba, entry.blocks)
        return self._lasting(entry, Step("write_zeroes", entry.lba, entry.blocks))

    def manage(self, entry: Submission, data: bytes) -> list[Step]:
        """6.7: deallocation is done, all other hints are not taken."""
        if not entry.dwords[1] & _DEALLOCATE:
            return []
        self._check_writable()
        ranges = [(block, count) for count, block in _RANGE.iter_unpack(data) if count]
        for block, count in ranges:
            self._check_blocks(block, count)
        return [Step("discard", block, count) for block, count in ranges]

    def _lasting(self, entry: Submission, step: Step) -> list[Step]:
        """Some writes are over when they would outlive a loss of power."""
        return [step, _FLUSH] if entry.dwords[2] & _FUA or not self.cached else [step]

    def _check_writable(self) -> None:
        if self.medium.read_only:
            raise Refused(Status.WRITE_TO_READ_ONLY_RANGE)

    def _check_transfer(self, entry: Submission) -> None:
        if entry.blocks * SECTOR > MAX_LENGTH:
            raise Refused(Status.INVALID_FIELD)
        self._check_blocks(entry.lba, entry.blocks)

    def _check_blocks(self, block: int, count: int) -> None:
        if block + count > self.medium.sectors:
            raise Refused(Status.LBA_OUT_OF_RANGE)


@frozen
class _Action:
    steps: Callable[[Nvm, Submission, bytes], list[Step]]
    length: Callable[[Nvm, Submission], int] = Nvm.nothing


_ACTIONS: Final[Mapping[int, _Action]] = {
    Opcode.FLUSH: _Action(Nvm.flush),
    Opcode.WRITE: _Action(Nvm.write, Nvm.blocks),
    Opcode.READ: _Action(Nvm.read),
    Opcode.WRITE_ZEROES: _Action(Nvm.write_zeroes),
    Opcode.DATASET_MANAGEMENT: _Action(Nvm.manage, Nvm.ranges),
}
