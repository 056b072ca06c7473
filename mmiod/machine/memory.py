"""Guest memory as the hypervisor shares it, in slots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from attrs import define, evolve, field

from mmiod.device.accesses import parts
from mmiod.errors import MachineError
from mmiod.machine.dirty_log import DirtyLog
from mmiod.machine.ports import Messenger
from mmiod.machine.slot import Gone, Mapped, Slot

if TYPE_CHECKING:
    from mmiod.device.faces import Ranges

ADDRESS_LIMIT: Final = 1 << 52
"""Architectural limit of a physical address (SDM vol. 3, 4.1.4)."""
FOUR_GIB: Final = 1 << 32
DMA_LIMIT: Final = 16 << 20
"""Bytes that one call may move: what asks for more trusts a length the guest wrote."""


@define(eq=False)
class GuestMemory:
    """All slots of a VM."""

    slots: dict[int, Slot] = field(factory=dict)
    messenger: Messenger | None = None
    """None: nobody reaches a slot without storage."""
    prefers_messages: bool = False
    """What may wait goes by messages to slots with storage, too: the client wants to see it."""
    log: DirtyLog | None = None
    """Which pages were written, while somebody wants to know."""
    _last: Slot | None = None

    def add(self, slot: Slot) -> None:
        """Enter a slot.

        Raises:
            MachineError: its number is taken, or it overlaps another, or leaves the space.
        """
        if slot.number in self.slots:
            raise MachineError(f"slot {slot.number} is in use")
        self._check(slot, slot.gpa)
        self.slots[slot.number] = slot

    def move(self, number: int, gpa: int) -> None:
        """Put a slot elsewhere.

        Raises:
            MachineError: there is no such slot, or another one is there.
        """
        slot = self._get(number)
        self._check(slot, gpa)
        self.slots[number], self._last = evolve(slot, gpa=gpa), None
        slot.storage = Gone()

    def remove(self, number: int) -> None:
        """Forget a slot and its storage.

        Raises:
            MachineError: there is no such slot.
        """
        slot = self._get(number)
        del self.slots[number]
        self._last = None
        if slot.storage is not None:
            slot.storage.close()
        slot.storage = Gone()

    def clear(self) -> None:
        """Forget all slots."""
        for number in list(self.slots):
            self.remove(number)

    def find(self, gpa: int) -> Slot | None:
        """The slot that holds an address."""
        last = self._last
        if last is not None and last.gpa <= gpa < last.end:
            return last
        for slot in self.slots.values():
            if slot.gpa <= gpa < slot.end:
                self._last = slot
                return slot
        return None

    @property
    def below_4g(self) -> int:
        """End of the highest RAM below 4 GiB, bytes."""
        ends = [min(slot.end, FOUR_GIB) for slot in self._ram() if slot.gpa < FOUR_GIB]
        return max(ends, default=0)

    @property
    def above_4g(self) -> int:
        """RAM from 4 GiB on, bytes."""
        return sum(max(0, slot.end - max(slot.gpa, FOUR_GIB)) for slot in self._ram())

    def read(self, gpa: int, length: int) -> bytes:
        """DMA read; what is not reachable RAM reads as ones."""
        slot = self._around(gpa, length)
        if slot is not None and slot.storage is not None:
            return slot.storage.read(gpa - slot.gpa, length)
        parts = []
        for slot, at, taken in self._pieces(gpa, length):
            reachable = slot is not None and slot.storage is not None
            parts.append(slot.storage.read(at - slot.gpa, taken) if reachable else b"\xff" * taken)  # type: ignore[union-attr]
        return b"".join(parts)

    def write(self, gpa: int, data: bytes) -> None:
        """DMA write; what is not reachable RAM, or read-only, drops the bytes."""
        if not data:
            return  # and no page of the log is marked
        slot = self._around(gpa, len(data))
        if slot is not None and slot.storage is not None and not slot.read_only:
            slot.storage.write(gpa - slot.gpa, data)
            if self.log is not None:
                self.log.mark(gpa, len(data))
            return
        for slot, at, taken in self._pieces(gpa, len(data)):
            if slot is not None and slot.storage is not None and not slot.read_only:
                slot.storage.write(at - slot.gpa, data[at - gpa : at - gpa + taken])
                if self.log is not None:
                    self.log.mark(at, taken)

    def fetch(self, gpa: int, length: int) -> bytes | None:
        """`read`, or None if messages reach some of it, and nothing else does."""
        slot = self._around(gpa, length)
        if slot is not None and slot.storage is not None and not self.prefers_messages:
            return slot.storage.read(gpa - slot.gpa, length)
        return None if self.by_message(gpa, length) else self.read(gpa, length)

    def store(self, gpa: int, data: bytes) -> bool:
        """`write`, or False, and nothing is written, if messages reach some of it, and nothing else does."""
        slot = self._around(gpa, len(data))
        if slot is not None and self._takes(slot):
            slot.storage.write(gpa - slot.gpa, data)  # type: ignore[union-attr]  # it has one
            return True
        if self.by_message(gpa, len(data)):
            return False
        self.write(gpa, data)
        return True

    def gather(self, ranges: Ranges) -> bytes | None:
        """`fetch` of each range, all their bytes in a row."""
        slot = self._around_all(ranges)
        if slot is not None and isinstance(slot.storage, Mapped) and not self.prefers_messages:
            view, base = slot.storage.memory, slot.gpa  # joined where they lie: each is copied once
            return b"".join([view[gpa - base : gpa - base + length] for gpa, length in ranges])
        if self._any_by_message(ranges):
            return None
        return b"".join([self.read(gpa, length) for gpa, length in ranges])

    def scatter(self, ranges: Ranges, data: bytes) -> bool:
        """`store` to each range, of `data` as far as that goes; nothing is, if one goes by message."""
        slot = self._around_all(ranges)
        if slot is not None and self._takes(slot):
            write, base = slot.storage.write, slot.gpa  # type: ignore[union-attr]  # it has one
            for gpa, part in parts(ranges, data):
                write(gpa - base, part)
            return True
        if self._any_by_message(ranges):
            return False
        for gpa, part in parts(ranges, data):
            self.write(gpa, part)
        return True

    def holds(self, gpa: int, length: int) -> bool:
        """Whether all of it is reachable RAM."""
        return all(slot is not None and slot.storage is not None for slot, _, _ in self._pieces(gpa, length))

    def by_message(self, gpa: int, length: int) -> bool:
        """Whether messages reach some of it, and nothing else does."""
        if self.messenger is None or not length:
            return False
        _check_length(gpa, length)
        end, last = gpa + length, self._last
        if last is not None and last.gpa <= gpa and end <= last.end:  # the usual case
            return last.storage is None or self.prefers_messages
        return any(
            slot.gpa < end and gpa < slot.end and (slot.storage is None or self.prefers_messages)
            for slot in self.slots.values()
        )

    def _takes(self, slot: Slot) -> bool:
        """Whether what is written there needs nothing but a copy: no message, and no entry in the log."""
        return not (slot.storage is None or slot.read_only or self.prefers_messages or self.log is not None)

    def _any_by_message(self, ranges: Ranges) -> bool:
        """All are asked about: each is seen to be no longer than one may be."""
        return any([self.by_message(gpa, length) for gpa, length in ranges])  # noqa: C419

    def _around(self, gpa: int, length: int) -> Slot | None:
        """The slot used last, if all of it is there: the usual case."""
        slot = self._last
        inside = slot is not None and slot.gpa <= gpa and gpa + length <= slot.end
        return slot if inside and length <= DMA_LIMIT else None

    def _around_all(self, ranges: Ranges) -> Slot | None:
        """The slot used last, if all of them are there and none is too long."""
        slot = self._last
        if slot is None or not ranges:
            return None
        low, high = slot.gpa, slot.end
        for gpa, length in ranges:
            if gpa < low or gpa + length > high or length > DMA_LIMIT:
                return None
        return slot

    def _pieces(self, gpa: int, length: int) -> list[tuple[Slot | None, int, int]]:
        _check_length(gpa, length)
        pieces = []
        end = gpa + length
        while gpa < end:
            slot = self.find(gpa)
            stop = slot.end if slot else min((s.gpa for s in self.slots.values() if s.gpa > gpa), default=end)
            taken = min(stop, end) - gpa
            pieces.append((slot, gpa, taken))
            gpa += taken
        return pieces

    def _ram(self) -> list[Slot]:
        return [slot for slot in self.slots.values() if not slot.read_only]

    def _get(self, number: int) -> Slot:
        if number not in self.slots:
            raise MachineError(f"slot {number} is not mapped")
        return self.slots[number]

    def _check(self, slot: Slot, gpa: int) -> None:
        end = gpa + slot.length
        if slot.length == 0 or end > ADDRESS_LIMIT:
            raise MachineError(
                f"slot {slot.number} at {gpa:#x} with {slot.length:#x} bytes leaves the address space"
            )
        for other in self.slots.values():
            if other is not slot and gpa < other.end and other.gpa < end:
                raise MachineError(
                    f"slot {slot.number} at {gpa:#x}..{end - 1:#x} overlaps slot {other.number} "
                    f"at {other.gpa:#x}..{other.end - 1:#x}"
                )
        self._last = None


def _check_length(gpa: int, length: int) -> None:
    if length > DMA_LIMIT:
        raise ValueError(f"DMA of {length:#x} bytes at {gpa:#x}: at most {DMA_LIMIT:#x} at once")
