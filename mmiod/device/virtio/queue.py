"""What both layouts of a virtqueue have in common: its state, and chains of buffers.

Numbers in comments are sections of Virtual I/O Device (VIRTIO) 1.2.  Everything that a
guest wrote is checked; what no driver may do is a `BrokenQueue`.
"""

from __future__ import annotations

import struct
from collections.abc import Generator, Iterable, Sequence
from typing import Final, Protocol, TypeVar

from attrs import define, field

from mmiod.device.accesses import Access, MemoryGather, MemoryRead, MemoryScatter, MemoryWrite
from mmiod.device.work import Moves

T = TypeVar("T")
Steps = Generator[Access, bytes, T]
"""A part of a run that gives a T."""

NO_VECTOR: Final = 0xFFFF
"""No interrupt (4.1.5.1.2)."""
DESCRIPTOR: Final = struct.Struct("<QIHH")
"""Address, length, and two words (2.7.5, 2.8.13)."""
WORD: Final = struct.Struct("<H")
NEXT, WRITE, INDIRECT = 1, 2, 4
"""Flags of a descriptor (2.7.5, 2.8)."""
_SPACE: Final = 1 << 64


class BrokenQueue(Exception):  # it is the guest's mistake and never leaves the device
    """The driver did what no driver may; the message says what."""


@define
class Span:
    """`length` bytes of guest memory."""

    gpa: int
    length: int


@define
class Finished:
    """Buffers that the device is done with, before the driver is told."""

    id: int
    count: int
    written: int


@define
class Queue:
    """A virtqueue as the driver set it up, and how far the device is."""

    size: int = 0
    enabled: bool = False
    vector: int = NO_VECTOR
    descriptors: int = 0
    driver: int = 0
    device: int = 0
    """Addresses of the three areas (2.6)."""
    available: int = 0
    """What is taken next; of a packed queue with its wrap counter in bit 15 (2.8.1)."""
    used: int = 0
    """What is given back next, alike."""
    rung: bool = False
    """The driver has notified since the device last looked."""
    wanted: bool = False
    """There may be buffers that the device has not taken."""
    finished: list[Finished] = field(factory=list)
    publishing: int = 0
    """Of how many of them the driver may have been told."""

    def accept(self, chain: Chain) -> None:
        """The buffers are the device's now: it will not take them again."""
        self.available = chain.after

    def end(self, chain: Chain, written: int) -> None:
        """Buffers that were accepted can go back, with so many bytes in them."""
        self.finished.append(Finished(chain.id, chain.count, written))

    def finish(self, chain: Chain, written: int) -> None:
        """Accept and end."""
        self.accept(chain)
        self.end(chain, written)


@define
class Chain:
    """Buffers that the driver made available together: first what it wrote, then what it reads."""

    id: int = 0
    count: int = 1
    """Descriptors in a packed ring."""
    after: int = 0
    """The queue's `available` behind it."""
    readable: list[Span] = field(factory=list)
    writable: list[Span] = field(factory=list)

    def add(self, gpa: int, length: int, flags: int) -> None:
        """A descriptor's buffer; what lies behind the one before is one with it.

        Raises:
            BrokenQueue: it is empty, leaves the address space, or is out of order.
        """
        if not length or gpa + length > _SPACE:
            raise BrokenQueue(f"a buffer of {length:#x} bytes at {gpa:#x}")
        spans = self.writable if flags & WRITE else self.readable
        if self.writable and spans is self.readable:
            raise BrokenQueue(f"the buffer at {gpa:#x} is for reading, one before it for writing")
        if spans and (last := spans[-1]).gpa + last.length == gpa:
            last.length += length
        else:
            spans.append(Span(gpa, length))


class Ring(Protocol):
    """A queue's layout; `queue` changes only behind the accesses that belong to a step."""

    def take(self, most: int) -> Steps[list[Chain]]:
        """The next buffers, up to `most` chains, which `Queue.accept` or `finish` makes the device's.

        Raises:
            BrokenQueue: what the driver made available is not to be made sense of.
        """

    def put(self) -> Steps[bool]:
        """Give all finished ones back; whether the driver wants to be interrupted."""

    def arm(self) -> Steps[bool]:
        """Ask for a notification of what comes; whether something has come meanwhile."""


def check_table(table: Span, size: int) -> int:
    """The number of entries of an indirect table.

    Raises:
        BrokenQueue: it has none, or parts of some, or more than a queue of `size` allows (2.7.5.3.1).
    """
    entries, rest = divmod(table.length, DESCRIPTOR.size)
    if rest or not 1 <= entries <= size:
        raise BrokenQueue(f"an indirect table of {table.length:#x} bytes in a queue of {size}")
    return entries


def crossed(event: int, new: int, old: int) -> bool:
    """Whether an index went past `event` on its way from `old` to `new` (2.7.10.1)."""
    return (new - event - 1) & 0xFFFF < (new - old) & 0xFFFF


# --- the bytes of buffers ---------------------------------------------------------------------


def length_of(spans: Iterable[Span]) -> int:
    """Bytes of all of them."""
    return sum([span.length for span in spans])


def divide(spans: Sequence[Span], length: int) -> tuple[Sequence[Span], Sequence[Span]]:
    """The first `length` bytes, and the rest."""
    for number, span in enumerate(spans):
        if length < span.length:
            middle = [Span(span.gpa, length)] if length else []
            rest = Span(span.gpa + length, span.length - length)
            return [*spans[:number], *middle], [rest, *spans[number + 1 :]]
        length -= span.length
    return spans, []


def gather(spans: Sequence[Span]) -> Steps[bytes]:
    """Read all of them."""
    if len(spans) == 1:
        return (yield MemoryRead(spans[0].gpa, spans[0].length))
    return (yield MemoryGather([(span.gpa, span.length) for span in spans])) if spans else b""


def scatter(spans: Sequence[Span], data: bytes) -> Moves:
    """Write `data` to the first of them."""
    if data and len(spans) == 1:
        yield MemoryWrite(spans[0].gpa, data[: spans[0].length])
    elif data:
        yield MemoryScatter([(span.gpa, span.length) for span in spans], data)
