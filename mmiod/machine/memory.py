"""Guest memory as the hypervisor shares it, in slots.

A slot's descriptor is mapped only if it is a memfd sealed against shrinking, because a
mapping whose file shrinks kills the process that touches it; any other descriptor is
used by pread and pwrite.  A slot without descriptor is RAM that only messages reach, if a
messenger is there.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Final, Protocol

from attrs import define, evolve, field

from mmiod.errors import MachineError
from mmiod.machine.dirty_log import DirtyLog
from mmiod.machine.ports import Messenger

ADDRESS_LIMIT: Final = 1 << 52
"""Architectural limit of a physical address (SDM vol. 3, 4.1.4)."""
FOUR_GIB: Final = 1 << 32
DMA_LIMIT: Final = 16 << 20
"""Bytes that one call may move: what asks for more trusts a length the guest wrote."""


class Storage(Protocol):
    """How the bytes of a slot are reached; offsets are within the slot."""

    def read(self, offset: int, length: int) -> bytes: ...  # noqa: D102
    def write(self, offset: int, data: bytes) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


@define(eq=False)
class Mapped:
    """A sealed memfd, mapped from `offset` on; the descriptor stays open for who has to map it anew."""

    view: mmap.mmap
    descriptor: int
    offset: int

    def read(self, offset: int, length: int) -> bytes:  # noqa: D102
        return self.view[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:  # noqa: D102
        self.view[offset : offset + len(data)] = data

    def close(self) -> None:  # noqa: D102
        self.view.close()
        os.close(self.descriptor)


@define(eq=False)
class ByDescriptor:
    """Any other file: what cannot be read reads as ones; `lost` counts writes that failed."""

    descriptor: int
    offset: int
    lost: int = 0

    def read(self, offset: int, length: int) -> bytes:  # noqa: D102
        try:
            data = os.pread(self.descriptor, length, self.offset + offset)
        except OSError:
            data = b""
        return data + b"\xff" * (length - len(data))

    def write(self, offset: int, data: bytes) -> None:  # noqa: D102
        try:
            os.pwrite(self.descriptor, data, self.offset + offset)
        except OSError:
            self.lost += 1  # its owner shrank or sealed it: the bytes are the owner's loss

    def close(self) -> None:  # noqa: D102
        os.close(self.descriptor)


@define(eq=False)
class Gone:
    """What was a slot's storage, for an access that found the slot and then waited for a device."""

    def read(self, offset: int, length: int) -> bytes:  # noqa: ARG002, D102
        return b"\xff" * length

    def write(self, offset: int, data: bytes) -> None:  # noqa: D102
        pass

    def close(self) -> None:  # noqa: D102
        pass


@define(eq=False)
class Slot:
    """`length` bytes of guest-physical space from `gpa`; without storage only messages reach it."""

    number: int
    gpa: int
    length: int
    read_only: bool
    storage: Storage | None

    @property
    def end(self) -> int:
        """First address behind."""
        return self.gpa + self.length


def storage_of(descriptor: int, offset: int, length: int, *, read_only: bool) -> Storage:
    """Take over a descriptor (it is closed, or closed later by the storage).

    Raises:
        MachineError: there is no such part of the file, or it cannot be used.
    """
    try:
        size = os.fstat(descriptor).st_size
        if not 0 < length <= size - offset:
            raise MachineError(f"the descriptor has {size:#x} bytes, the slot is {length:#x} at {offset:#x}")
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        if mode == os.O_WRONLY:
            raise MachineError("the descriptor is write-only")
        if mode == os.O_RDONLY and not read_only:
            raise MachineError("the descriptor is read-only, the slot is not")
        if not _sealed(descriptor) or offset % mmap.ALLOCATIONGRANULARITY:
            return ByDescriptor(os.dup(descriptor), offset)
        access = mmap.ACCESS_READ if read_only else mmap.ACCESS_WRITE
        view = mmap.mmap(descriptor, length, access=access, offset=offset)
        return Mapped(view, os.dup(descriptor), offset)
    except OSError as error:
        raise MachineError(f"the descriptor cannot be used: {error}") from error
    finally:
        os.close(descriptor)


def _sealed(descriptor: int) -> bool:
    try:
        return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False  # not a memfd


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

    def holds(self, gpa: int, length: int) -> bool:
        """Whether all of it is reachable RAM."""
        return all(slot is not None and slot.storage is not None for slot, _, _ in self._pieces(gpa, length))

    def by_message(self, gpa: int, length: int) -> bool:
        """Whether messages reach some of it, and nothing else does."""
        if self.messenger is None or not length:
            return False
        slot = self._around(gpa, length)
        if slot is not None:
            return slot.storage is None or self.prefers_messages
        return any(
            slot is not None and (slot.storage is None or self.prefers_messages)
            for slot, _, _ in self._pieces(gpa, length)
        )

    def _around(self, gpa: int, length: int) -> Slot | None:
        """The slot used last, if all of it is there: the usual case."""
        slot = self._last
        inside = slot is not None and slot.gpa <= gpa and gpa + length <= slot.end
        return slot if inside and length <= DMA_LIMIT else None

    def _pieces(self, gpa: int, length: int) -> list[tuple[Slot | None, int, int]]:
        if length > DMA_LIMIT:
            raise ValueError(f"DMA of {length:#x} bytes at {gpa:#x}: at most {DMA_LIMIT:#x} at once")
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
