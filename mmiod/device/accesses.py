"""What a run of a work asks of guest memory: one range, or several in a row."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, ClassVar

from attrs import define

if TYPE_CHECKING:
    from mmiod.device.faces import Memory, Ranges


@define
class MemoryRead:
    """DMA read of `length` bytes; what is not RAM reads as ones."""

    gpa: int
    length: int

    kind: ClassVar[str] = "read"
    sent: ClassVar[bytes] = b""

    def perform(self, memory: Memory) -> bytes | None:
        """Do it at once; None if only messages reach it."""
        return memory.fetch(self.gpa, self.length)

    @property
    def failed(self) -> bytes:
        """What it gives if nobody answers."""
        return b"\xff" * self.length

    def apart(self) -> Parts:
        """The ranges that it is of, one by one."""
        return (yield self)


@define
class MemoryWrite:
    """DMA write; what is not RAM, or read-only, drops the bytes."""

    gpa: int
    data: bytes

    kind: ClassVar[str] = "write"
    failed: ClassVar[bytes] = b""

    @property
    def length(self) -> int:
        """Bytes."""
        return len(self.data)

    @property
    def sent(self) -> bytes:
        """What goes with the message."""
        return self.data

    def perform(self, memory: Memory) -> bytes | None:
        """Do it at once; None if only messages reach it."""
        return b"" if memory.store(self.gpa, self.data) else None

    def apart(self) -> Parts:
        """The ranges that it is of, one by one."""
        return (yield self)


@define
class MemoryGather:
    """DMA reads of several ranges, each an address and a length; gives all their bytes in a row."""

    ranges: Ranges

    @property
    def length(self) -> int:
        """Bytes."""
        return sum([length for _, length in self.ranges])

    def perform(self, memory: Memory) -> bytes | None:
        """Do it at once; None if only messages reach a part of it."""
        return memory.gather(self.ranges)

    def apart(self) -> Parts:
        """One range by one."""
        found = []
        for gpa, length in self.ranges:
            found.append((yield MemoryRead(gpa, length)))  # it yields
        return b"".join(found)


@define
class MemoryScatter:
    """DMA writes to several ranges, of `data` as far as that goes; gives b""."""

    ranges: Ranges
    data: bytes

    @property
    def length(self) -> int:
        """Bytes."""
        return len(self.data)

    def perform(self, memory: Memory) -> bytes | None:
        """Do it at once; None if only messages reach a part of it."""
        return b"" if memory.scatter(self.ranges, self.data) else None

    def apart(self) -> Parts:
        """One range by one."""
        for gpa, part in parts(self.ranges, self.data):
            yield MemoryWrite(gpa, part)
        return b""


def parts(ranges: Ranges, data: bytes) -> Iterator[tuple[int, bytes]]:
    """What of `data` is for each range, and where that begins; ranges that get nothing are left out."""
    position = 0
    for gpa, length in ranges:
        part = data[position : position + length]
        if part:
            yield gpa, part
        position += length


Access = MemoryRead | MemoryWrite | MemoryGather | MemoryScatter
Parts = Generator[MemoryRead | MemoryWrite, bytes, bytes]
