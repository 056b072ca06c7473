"""Drivers of virtqueues, written from VIRTIO 1.2 chapter 2 and from nothing else.

A driver offers buffers, kicks when the device asked for it, sleeps until it is
interrupted, and then collects what came back.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, Protocol

from attrs import define, field

RESOURCES: Final = 0x10000
"""Where buffers and tables are."""


@define
class Offer:
    """What was made available: bytes, and where the device's go."""

    readable: bytes
    places: list[tuple[int, int]]


class Driver(Protocol):
    """One queue's."""

    offers: dict[int, Offer]

    def offer(self, readable: Sequence[bytes], writable: Sequence[int], *, indirect: bool) -> int | None: ...  # noqa: D102
    def kicks(self) -> bool: ...  # noqa: D102
    def collect(self) -> list[tuple[int, bytes]]: ...  # noqa: D102


@define
class _Base:
    ram: bytearray
    size: int
    event_index: bool
    descriptors: int = 0x1000
    driver: int = 0x3000
    device: int = 0x4000
    offers: dict[int, Offer] = field(factory=dict)
    next: int = RESOURCES
    _offered: int = 0

    def _store(self, form: str, at: int, *values: int) -> None:
        struct.pack_into("<" + form, self.ram, at, *values)

    def _load(self, form: str, at: int) -> int:
        found: int = struct.unpack_from("<" + form, self.ram, at)[0]
        return found

    def _allocate(self, data: bytes) -> int:
        at, self.next = self.next, self.next + len(data) + 1  # a gap, so that buffers do not meet
        self.ram[at : at + len(data)] = data
        return at

    def _buffers(self, readable: Sequence[bytes], writable: Sequence[int]) -> list[tuple[int, int, int]]:
        found = [(self._allocate(data), len(data), 0) for data in readable]
        return found + [(self._allocate(bytes(length)), length, 2) for length in writable]

    def _keep(self, number: int, readable: Sequence[bytes], buffers: list[tuple[int, int, int]]) -> int:
        places = [(at, length) for at, length, flags in buffers if flags]
        self.offers[number] = Offer(b"".join(readable), places)
        return number

    def _take(self, number: int, written: int) -> tuple[int, bytes]:
        offer = self.offers.pop(number)
        data = b"".join(bytes(self.ram[at : at + length]) for at, length in offer.places)
        return number, data[:written]


@define
class SplitDriver(_Base):
    """2.7.  Its numbers are heads."""

    free: list[int] = field(init=False)
    _available: int = 0
    _kicked: int = 0
    _used: int = 0
    _chains: dict[int, list[int]] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        """All descriptors are free."""
        self.free = list(range(self.size))

    def offer(self, readable: Sequence[bytes], writable: Sequence[int], *, indirect: bool) -> int | None:
        """Make a chain available; None if there are not enough descriptors."""
        needed = 1 if indirect else len(readable) + len(writable)
        if len(self.free) < needed:
            return None
        buffers = self._buffers(readable, writable)
        slots = [self.free.pop() for _ in range(needed)]
        if indirect:
            table = b"".join(
                struct.pack("<QIHH", at, length, flags | (1 if n < len(buffers) else 0), n % 0x10000)
                for n, (at, length, flags) in enumerate(buffers, 1)
            )
            self._store("QIHH", self.descriptors + 16 * slots[0], self._allocate(table), len(table), 4, 0)
        else:
            for (at, length, flags), slot, following in zip(buffers, slots, [*slots[1:], 0], strict=True):
                chained = flags | (1 if slot != slots[-1] else 0)
                self._store("QIHH", self.descriptors + 16 * slot, at, length, chained, following)
        self._chains[slots[0]] = slots
        self._store("H", self.driver + 4 + 2 * (self._available % self.size), slots[0])
        self._available = (self._available + 1) % 0x10000
        self._store("H", self.driver + 2, self._available)
        return self._keep(slots[0], readable, buffers)

    def kicks(self) -> bool:
        """2.7.10."""
        old, self._kicked = self._kicked, self._available
        if not self.event_index:
            return not self._load("H", self.device) & 1
        event = self._load("H", self.device + 4 + 8 * self.size)
        return any((old + n) % 0x10000 == event for n in range((self._available - old) % 0x10000))

    def collect(self) -> list[tuple[int, bytes]]:
        """What came back; interrupts are asked for of what comes from now on."""
        found = []
        while True:
            while self._used != self._load("H", self.device + 2):
                at = self.device + 4 + 8 * (self._used % self.size)
                number, written = self._load("I", at), self._load("I", at + 4)
                self._used = (self._used + 1) % 0x10000
                self.free += self._chains.pop(number)
                found.append(self._take(number, written))
            self._store("H", self.driver + 4 + 2 * self.size, self._used)
            if self._used == self._load("H", self.device + 2):
                return found


@define
class PackedDriver(_Base):
    """2.8.  Its numbers are buffer IDs, which come back in any order."""

    free: int = field(init=False)
    _position: int = 0
    _wrap: bool = True
    _used: int = 0
    _used_wrap: bool = True
    _counts: dict[int, int] = field(factory=dict)
    _since: list[tuple[int, bool]] = field(factory=list)
    """Slots that were made available since the last look whether to kick."""

    def __attrs_post_init__(self) -> None:
        """All slots are free."""
        self.free = self.size

    def offer(self, readable: Sequence[bytes], writable: Sequence[int], *, indirect: bool) -> int | None:
        """Make a list available; None if there are not enough slots."""
        needed = 1 if indirect else len(readable) + len(writable)
        if self.free < needed:
            return None
        self._offered = (self._offered + 7) % 0x10000
        while self._offered in self.offers:
            self._offered = (self._offered + 1) % 0x10000
        buffers = placed = self._buffers(readable, writable)
        if indirect:
            table = b"".join(struct.pack("<QIHH", at, length, 0x55, flags) for at, length, flags in buffers)
            placed = [(self._allocate(table), len(table), 4)]
        head = 0, 0
        for number, (at, length, flags) in enumerate(placed, 1):
            bits = flags | (1 if number < len(placed) else 0)
            bits |= 1 << 7 if self._wrap else 1 << 15
            slot = self.descriptors + 16 * self._position
            self._store("QIH", slot, at, length, self._offered)
            if number == 1:
                head = slot, bits
            else:
                self._store("H", slot + 14, bits)
            self._since.append((self._position, self._wrap))
            self._position += 1
            if self._position == self.size:
                self._position, self._wrap = 0, not self._wrap
        self._store("H", head[0] + 14, head[1])
        self.free -= needed
        self._counts[self._offered] = needed
        return self._keep(self._offered, readable, buffers)

    def kicks(self) -> bool:
        """2.8.14: the device's area."""
        since, self._since = self._since, []
        place, flags = self._load("H", self.device), self._load("H", self.device + 2)
        if flags == 2:
            return (place & 0x7FFF, bool(place >> 15)) in since
        return not flags

    def collect(self) -> list[tuple[int, bytes]]:
        """What came back; interrupts are asked for of what comes from now on."""
        found = []
        while True:
            while self._is_used():
                at = self.descriptors + 16 * self._used
                number, written = self._load("H", at + 12), self._load("I", at + 8)
                count = self._counts.pop(number)
                self._used += count
                if self._used >= self.size:
                    self._used, self._used_wrap = self._used - self.size, not self._used_wrap
                self.free += count
                found.append(self._take(number, written))
            if self.event_index:
                self._store("HH", self.driver, self._used | self._used_wrap << 15, 2)
            if not self._is_used():
                return found

    def _is_used(self) -> bool:
        flags = self._load("H", self.descriptors + 16 * self._used + 14)
        return bool(flags >> 7 & 1) == bool(flags >> 15 & 1) == self._used_wrap
