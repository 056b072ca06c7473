"""Strings in one piece: between RAM and a device that takes several elements at once.

Only mapped RAM on one side and a device on the other qualify; everything else goes
element by element, and so does what waits, faults or has to be asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define

from mmiod.values import Intent, Refusal, Refused, Space
from mmiod.x86 import Linear, Pattern, Port, Suspend

if TYPE_CHECKING:
    from mmiod.core.translation import Translation
    from mmiod.machine.address_map import Range
    from mmiod.machine.machine import Machine
    from mmiod.machine.slot import Slot
    from mmiod.x86 import Transfer

MANY: Final = 1 << 32
"""More elements than any string has at once."""


@define
class Device:
    """Elements that a device answers; `stride` is 0 if they are all at `address`, else 1 or -1."""

    space: Space
    address: int
    stride: int
    room: int
    """How many elements from the first on its range holds."""


@define
class Ram:
    """Elements of `size` bytes in mapped RAM, from the first at `gpa` on."""

    slot: Slot
    gpa: int
    size: int
    down: bool
    room: int

    def read(self, count: int) -> bytes:
        """The elements in their order, which is not that of addresses if it goes down."""
        assert self.slot.storage is not None
        data = self.slot.storage.read(self._lowest(count), count * self.size)
        return _reversed(data, self.size) if self.down else data

    def write(self, data: bytes) -> None:
        """Store elements; read-only RAM drops them."""
        assert self.slot.storage is not None
        if not self.slot.read_only:
            start = self._lowest(len(data) // self.size)
            self.slot.storage.write(start, _reversed(data, self.size) if self.down else data)

    def _lowest(self, count: int) -> int:
        return self.gpa - self.slot.gpa - ((count - 1) * self.size if self.down else 0)


def transfer(machine: Machine, translation: Translation, step: Transfer) -> int:
    """Move elements; gives how many, 0 if they have to go one by one.

    Raises:
        GuestFault, Suspend: as a probe of the first element; nothing was done.
    """
    source = _locate(machine, translation, step, step.source, Intent.READ)
    target = _locate(machine, translation, step, step.target, Intent.WRITE)
    if not translation.confirmed:
        raise Suspend(Refused(Refusal.ADDRESS_MISMATCH))
    match source, target:
        case Ram() | Pattern(), Device():
            count = min(step.count, target.room, source.room if isinstance(source, Ram) else MANY)
            if not count:
                return 0
            data = source.read(count) if isinstance(source, Ram) else _repeated(source, step.size, count)
            return machine.write_batch(target.space, target.address, step.size, data, target.stride)
        case Device(), Ram():
            count = min(step.count, source.room, target.room)
            if not count:
                return 0
            data = machine.read_batch(source.space, source.address, step.size, count, source.stride)
            if data:
                target.write(data)
            return len(data) // step.size
    return 0


def _repeated(pattern: Pattern, size: int, count: int) -> bytes:
    return pattern.value.to_bytes(size, "little") * count


def _locate(
    machine: Machine,
    translation: Translation,
    step: Transfer,
    end: Linear | Port | Pattern,
    intent: Intent,
) -> Device | Ram | Pattern | None:
    """Where the elements of an operand are; None if they are neither in RAM nor a device's."""
    if isinstance(end, Pattern):
        return end
    if isinstance(end, Port):
        found = machine.find(Space.PIO, end.number)
        room = room_of(end.number, step.size, 0, found)
        return Device(Space.PIO, end.number, 0, room) if found.claim is not None else None
    gpa = translation.translate(end.address, intent)
    found = machine.find(Space.MMIO, gpa)
    room = room_of(gpa, step.size, -1 if step.down else 1, found)
    if found.claim is not None:
        return Device(Space.MMIO, gpa, -1 if step.down else 1, room)
    slot = machine.memory.find(gpa)
    if slot is None or slot.storage is None:
        return None
    return Ram(
        slot, gpa, step.size, step.down, min(room, _room(gpa, step.size, step.down, slot.gpa, slot.end))
    )


def room_of(address: int, size: int, stride: int, found: Range) -> int:
    """How many elements from `address` on one range holds."""
    if not stride:
        return MANY if address + size <= found.end else 0
    return _room(address, size, stride < 0, found.start, found.end)


def _room(address: int, size: int, down: bool, start: int, end: int) -> int:
    if address + size > end:
        return 0
    return (address - start) // size + 1 if down else (end - address) // size


def _reversed(data: bytes, size: int) -> bytes:
    """The elements from last to first."""
    return b"".join(data[at : at + size] for at in range(len(data) - size, -1, -size))
