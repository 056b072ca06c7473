"""Packed virtqueues: one ring of descriptors, which go back where they came from (VIRTIO 1.2, 2.8)."""

from __future__ import annotations

import struct
from typing import Final

from attrs import define

from mmiod.device.accesses import MemoryRead, MemoryWrite
from mmiod.device.virtio.queue import (
    DESCRIPTOR,
    INDIRECT,
    NEXT,
    WORD,
    WRITE,
    BrokenQueue,
    Chain,
    Queue,
    Span,
    Steps,
    check_table,
    crossed,
)

AVAILABLE, USED = 1 << 7, 1 << 15
"""Flags of a descriptor (2.8.1)."""
WRAP: Final = 1 << 15
"""Of an index: the wrap counter."""
ENABLE, DISABLE, AT_DESCRIPTOR = 0, 1, 2
"""Flags of event suppression (2.8.14)."""
LENGTH, FLAGS = 8, 14
"""Offsets in a descriptor."""
_USED: Final = struct.Struct("<IH")
_EVENT: Final = struct.Struct("<HH")


@define
class PackedRing:
    """A queue of this layout; with `event_index` VIRTIO_F_EVENT_IDX was negotiated."""

    queue: Queue
    event_index: bool

    def take(self, most: int) -> Steps[list[Chain]]:
        """The next buffers.

        The ring is read twice: what a head makes available was complete before it, which
        only a second look is sure to see.
        """
        queue = self.queue
        seen = yield from self._ring()
        if not _available(seen, queue.available):
            return []
        ring = yield from self._ring()
        chains: list[Chain] = []
        position, left = queue.available, queue.size
        while len(chains) < most and left > 0 and _available(seen, position):
            chain = yield from self._chain(ring, position)
            position, left = chain.after, left - chain.count
            chains.append(chain)
        return chains

    def put(self) -> Steps[bool]:
        """Give all finished ones back, the first one's flags last: the driver looks at it first."""
        queue = self.queue
        done = queue.finished[: queue.publishing or None]
        places = [queue.used]
        for one in done:
            places.append(self._behind(places[-1], one.count))
        if not (queue.publishing and (yield from self._told())):
            for place, one in reversed(list(zip(places[1:], done[1:], strict=False))):
                element = _USED.pack(one.written, one.id) + WORD.pack(_flags(place, one.written))
                yield MemoryWrite(self._at(place) + LENGTH, element)
            first = self._at(queue.used)
            yield MemoryWrite(first + LENGTH, _USED.pack(done[0].written, done[0].id))
            queue.publishing = len(done)
            yield MemoryWrite(first + FLAGS, WORD.pack(_flags(queue.used, done[0].written)))
        told = yield from self._tells(places[-1], sum(one.count for one in done))
        queue.used, queue.publishing = places[-1], 0
        del queue.finished[: len(done)]
        return told

    def arm(self) -> Steps[bool]:
        """With an event index the driver is told up to where it need not notify."""
        queue = self.queue
        if not self.event_index:
            return False
        yield MemoryWrite(queue.device, _EVENT.pack(queue.available, AT_DESCRIPTOR))
        flags = yield MemoryRead(self._at(queue.available) + FLAGS, WORD.size)
        return _available_by(WORD.unpack(flags)[0], queue.available)

    # --- available

    def _ring(self) -> Steps[bytes]:
        return (yield MemoryRead(self.queue.descriptors, DESCRIPTOR.size * self.queue.size))

    def _chain(self, ring: bytes, position: int) -> Steps[Chain]:
        size = self.queue.size
        chain = Chain()
        for count in range(1, size + 1):
            index = (position % WRAP + count - 1) % size
            gpa, length, chain.id, flags = DESCRIPTOR.unpack_from(ring, DESCRIPTOR.size * index)
            if flags & INDIRECT:
                if flags & NEXT:
                    raise BrokenQueue(f"descriptor {index} is indirect and has a next one")
                yield from self._indirect(Span(gpa, length), chain)
            else:
                chain.add(gpa, length, flags)
            if not flags & NEXT:
                chain.count, chain.after = count, self._behind(position, count)
                return chain
        raise BrokenQueue(f"a chain of more than {size} descriptors")

    def _indirect(self, table: Span, chain: Chain) -> Steps[None]:
        """All entries, in order (2.8.7)."""
        check_table(table, self.queue.size)
        inner = yield MemoryRead(table.gpa, table.length)
        for gpa, length, _, flags in DESCRIPTOR.iter_unpack(inner):
            if flags & INDIRECT:
                raise BrokenQueue(f"an indirect table within the one at {table.gpa:#x}")
            chain.add(gpa, length, flags)

    # --- used

    def _told(self) -> Steps[bool]:
        """Whether a run that was dropped has told the driver already: it may have gone on from there."""
        flags = yield MemoryRead(self._at(self.queue.used) + FLAGS, WORD.size)
        return not _available_by(WORD.unpack(flags)[0], self.queue.used)

    def _tells(self, new: int, count: int) -> Steps[bool]:
        event, flags = _EVENT.unpack((yield MemoryRead(self.queue.driver, _EVENT.size)))
        if flags != AT_DESCRIPTOR or not self.event_index:
            return bool(flags != DISABLE)
        index = new % WRAP
        at = event % WRAP - (0 if (event ^ new) < WRAP else self.queue.size)
        return crossed(at, index, index - count)

    def _at(self, place: int) -> int:
        return self.queue.descriptors + DESCRIPTOR.size * (place % WRAP)

    def _behind(self, place: int, count: int) -> int:
        index = place % WRAP + count
        if index < self.queue.size:
            return place + count
        return (place ^ WRAP) - place % WRAP + index - self.queue.size


def _flags(place: int, written: int) -> int:
    """A used descriptor's: both bits are the wrap counter (2.8.1)."""
    return (AVAILABLE | USED if place & WRAP else 0) | (WRITE if written else 0)


def _available(ring: bytes, place: int) -> bool:
    return _available_by(WORD.unpack_from(ring, DESCRIPTOR.size * (place % WRAP) + FLAGS)[0], place)


def _available_by(flags: int, place: int) -> bool:
    """The driver's bit is the wrap counter, the device's is not (2.8.1)."""
    return bool(flags & AVAILABLE) == bool(place & WRAP) != bool(flags & USED)
