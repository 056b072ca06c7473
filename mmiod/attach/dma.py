"""DMA_MAP and DMA_UNMAP: a client's requests, done to the guest memory of its function."""

from __future__ import annotations

import errno
import itertools
from collections.abc import Iterator

from attrs import define, field

from mmiod.attach import descriptors
from mmiod.errors import MachineError, ProtocolError
from mmiod.machine.memory import GuestMemory
from mmiod.machine.slot import Slot, Storage, storage_of
from mmiod.protocol.vfio_user import MAX_MAPS, MapMemory, UnmapMemory


@define(eq=False)
class DmaMaps:
    """What a client has mapped."""

    memory: GuestMemory
    _numbers: Iterator[int] = field(factory=itertools.count)

    def map(self, asked: MapMemory) -> None:
        """Map; the descriptor is taken over.

        Raises:
            ProtocolError: naming the field; its code is an errno.
        """
        if len(self.memory.slots) >= MAX_MAPS:
            descriptors.close([] if asked.descriptor is None else [asked.descriptor])
            raise ProtocolError(errno.ENOSPC, "dma_map.address", asked.address, f"at most {MAX_MAPS} maps")
        storage = self._storage(asked)
        try:
            self.add(asked.address, asked.length, asked.read_only, storage)
        except MachineError as error:
            if storage is not None:
                storage.close()
            raise ProtocolError(errno.EEXIST, "dma_map.address", asked.address, str(error)) from error

    def add(self, address: int, length: int, read_only: bool, storage: Storage | None) -> None:
        """Enter what is mapped.

        Raises:
            MachineError: something is mapped there.
        """
        self.memory.add(Slot(next(self._numbers), address, length, read_only, storage))

    def _storage(self, asked: MapMemory) -> Storage | None:
        if asked.descriptor is None:
            return None
        try:
            return storage_of(asked.descriptor, asked.offset, asked.length, read_only=asked.read_only)
        except MachineError as error:
            raise ProtocolError(errno.EINVAL, "dma_map.size", asked.length, str(error)) from error

    def unmap(self, asked: UnmapMemory) -> None:
        """Forget what is mapped within a range.

        Raises:
            ProtocolError: nothing is.
        """
        end = asked.address + asked.length
        inside = [
            slot for slot in self.memory.slots.values() if asked.address <= slot.gpa and slot.end <= end
        ]
        for slot in inside:
            self.memory.remove(slot.number)
        if not inside:
            raise ProtocolError(errno.ENOENT, "dma_unmap.address", asked.address, "nothing is mapped there")
