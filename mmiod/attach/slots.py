"""MAP, UNMAP and REMAP: a client's requests, done to the guest memory of its machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmiod.errors import MachineError, ProtocolError
from mmiod.machine.memory import GuestMemory
from mmiod.machine.slot import Slot, Storage, storage_of
from mmiod.protocol.exit import NUMBERS, Map, Remap, Unmap

ERROR: Final = NUMBERS["error"]


def map_slot(memory: GuestMemory, request: Map, descriptors: list[int], max_slots: int) -> None:
    """Map a slot; the descriptor is taken over.

    Raises:
        ProtocolError: naming the field.
    """
    if request.slot >= max_slots:
        reason = f"slots are 0..{max_slots - 1}"
        raise ProtocolError(ERROR["LIMIT"], "map.slot", request.slot, reason, subject=request.serial)
    storage = None if request.no_descriptor else _storage(request, descriptors.pop())
    known = memory.slots.get(request.slot)
    if known is not None and (known.gpa, known.length) == (request.gpa, request.length):
        memory.remove(request.slot)  # sent again by a client that missed the ACK
    slot = Slot(request.slot, request.gpa, request.length, request.read_only, storage)
    try:
        _change("map", request, lambda: memory.add(slot))
    except ProtocolError:
        if storage is not None:
            storage.close()
        raise


def unmap_slot(memory: GuestMemory, request: Unmap) -> None:
    """Forget a slot.

    Raises:
        ProtocolError: there is no such slot.
    """
    _change("unmap", request, lambda: memory.remove(request.slot))


def remap_slot(memory: GuestMemory, request: Remap) -> None:
    """Move a slot.

    Raises:
        ProtocolError: there is no such slot, or another one is there.
    """
    _change("remap", request, lambda: memory.move(request.slot, request.gpa))


def _storage(request: Map, descriptor: int) -> Storage:
    try:
        return storage_of(descriptor, request.offset, request.length, read_only=request.read_only)
    except MachineError as error:
        raise ProtocolError(
            ERROR["DESCRIPTOR"], "map.length", request.length, str(error), subject=request.serial
        ) from error


def _change(name: str, request: Map | Unmap | Remap, change: Callable[[], None]) -> None:
    try:
        change()
    except MachineError as error:
        raise ProtocolError(
            ERROR["SLOT"], f"{name}.slot", request.slot, str(error), subject=request.serial
        ) from error
