"""Split virtqueues: a descriptor table, an available and a used ring (VIRTIO 1.2, 2.7)."""

from __future__ import annotations

import struct
from typing import Final

from attrs import define

from mmiod.device.accesses import MemoryGather, MemoryRead, MemoryScatter, MemoryWrite
from mmiod.device.virtio.queue import (
    DESCRIPTOR,
    INDIRECT,
    NEXT,
    WORD,
    BrokenQueue,
    Chain,
    Queue,
    Span,
    Steps,
    check_table,
    crossed,
)

NO_INTERRUPT: Final = 1
"""Flag of the available ring (2.7.6)."""
INDEX, RING = 2, 4
"""Offsets of both rings' parts (2.7.6, 2.7.8)."""
_DESCRIPTOR_SIZE: Final = DESCRIPTOR.size
_WORD_SIZE: Final = WORD.size
_ELEMENT: Final = struct.Struct("<II")
_MODULUS: Final = 1 << 16


@define
class SplitRing:
    """A queue of this layout; with `event_index` VIRTIO_F_EVENT_IDX was negotiated."""

    queue: Queue
    event_index: bool

    def take(self, most: int) -> Steps[list[Chain]]:
        """The next buffers: an index, then the ring, then the table."""
        queue = self.queue
        count = yield from self._waiting()
        if count > queue.size:
            raise BrokenQueue(f"{count} chains are available in a queue of {queue.size}")
        if not count:
            return []
        table, ring = _DESCRIPTOR_SIZE * queue.size, _WORD_SIZE * queue.size
        both = yield MemoryGather([(queue.descriptors, table), (queue.driver + RING, ring)])
        chains = []
        for number in range(queue.available, queue.available + min(count, most)):
            (head,) = WORD.unpack_from(both, table + _WORD_SIZE * (number % queue.size))
            chain = Chain(head, after=(number + 1) % _MODULUS)
            indirect = _walk(both, queue.size, head, chain)
            if indirect is not None:
                entries = check_table(indirect, queue.size)
                inner = yield MemoryRead(indirect.gpa, indirect.length)
                if _walk(inner, entries, 0, chain) is not None:
                    raise BrokenQueue(f"an indirect table within the one at {indirect.gpa:#x}")
            chains.append(chain)
        return chains

    def put(self) -> Steps[bool]:
        """Give all finished ones back: elements, then the index, then look whether that is to be told."""
        queue = self.queue
        done = len(queue.finished)
        elements = b"".join(_ELEMENT.pack(one.id, one.written) for one in queue.finished)
        start = queue.used % queue.size
        here = min(done, queue.size - start)
        ring = queue.device + RING
        new = (queue.used + done) % _MODULUS
        ranges = [
            (ring + _ELEMENT.size * start, _ELEMENT.size * here),
            (ring, _ELEMENT.size * (done - here)),
            (queue.device + INDEX, _WORD_SIZE),
        ]
        yield MemoryScatter(ranges, elements + WORD.pack(new))  # in this order
        told = yield from self._tells(new, queue.used)
        queue.used = new
        del queue.finished[:done]
        return told

    def arm(self) -> Steps[bool]:
        """With an event index the driver is told up to where it need not notify."""
        queue = self.queue
        if not self.event_index:
            return False
        event = queue.device + RING + _ELEMENT.size * queue.size
        yield MemoryWrite(event, WORD.pack(queue.available))
        return bool((yield from self._waiting()))

    def _waiting(self) -> Steps[int]:
        found = yield MemoryRead(self.queue.driver + INDEX, WORD.size)
        return (int.from_bytes(found, "little") - self.queue.available) % _MODULUS

    def _tells(self, new: int, old: int) -> Steps[bool]:
        queue = self.queue
        if not self.event_index:
            flags = yield MemoryRead(queue.driver, WORD.size)
            return not WORD.unpack(flags)[0] & NO_INTERRUPT
        event = yield MemoryRead(queue.driver + RING + WORD.size * queue.size, WORD.size)
        return crossed(WORD.unpack(event)[0], new, old)


def _walk(table: bytes, size: int, index: int, chain: Chain) -> Span | None:
    """Add a chain's buffers, of a table of `size`; the indirect table that it ends with."""
    unpack, add = DESCRIPTOR.unpack_from, chain.add
    for _ in range(size):
        if index >= size:
            raise BrokenQueue(f"descriptor {index} of {size}")
        gpa, length, flags, following = unpack(table, _DESCRIPTOR_SIZE * index)
        if flags & INDIRECT:
            if flags & NEXT:
                raise BrokenQueue(f"descriptor {index} is indirect and has a next one")
            return Span(gpa, length)
        add(gpa, length, flags)
        if not flags & NEXT:
            return None
        index = following
    raise BrokenQueue(f"a chain of more than {size} descriptors")
