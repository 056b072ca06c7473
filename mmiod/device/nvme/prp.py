"""Physical region pages: where in guest memory a command's data are (NVM Express 1.4, 4.3).

A page has 4 KiB (CC.MPS is 0).  The first entry may begin within a page; the second one is
the rest, or where a list of entries is.  The last entry of a list's page leads to its next
page if there is more.  Entries that follow each other in memory are moved at once.
"""

from __future__ import annotations

import struct
from collections.abc import Generator
from typing import Final

from mmiod.device.accesses import Access, MemoryGather, MemoryRead, MemoryScatter
from mmiod.device.nvme.entries import Refused, Status
from mmiod.device.work import Moves

PAGE: Final = 4096
_ENTRY: Final = 8

Segment = tuple[int, int]
"""Address and length."""
Walk = Generator[Access, bytes, list[Segment]]


def segments(prp1: int, prp2: int, length: int) -> Walk:
    """Where `length` bytes are; addresses and lengths, in order.

    Raises:
        Refused: an entry that has to begin a page does not.
    """
    first = min(length, PAGE - prp1 % PAGE)
    found = [(prp1, first)]
    left = length - first
    if left > PAGE:
        entries = yield from _entries(prp2, -(-left // PAGE))
    else:
        entries = [prp2] if left else []
    for entry in entries:
        size = min(left, PAGE)
        _append(found, _page(entry), size)
        left -= size
    return found


def gather(prp1: int, prp2: int, length: int) -> Generator[Access, bytes, bytes]:
    """Read a command's data.

    Raises:
        Refused: as `segments`.
    """
    return (yield MemoryGather((yield from segments(prp1, prp2, length))))


def scatter(prp1: int, prp2: int, data: bytes) -> Moves:
    """Write a command's data.

    Raises:
        Refused: as `segments`.
    """
    yield MemoryScatter((yield from segments(prp1, prp2, len(data))), data)


def _entries(at: int, count: int) -> Generator[Access, bytes, list[int]]:
    """`count` entries of the list that begins at `at`."""
    if at % _ENTRY:
        raise Refused(Status.INVALID_PRP_OFFSET)
    found: list[int] = []
    while len(found) < count:
        room = (PAGE - at % PAGE) // _ENTRY
        left = count - len(found)
        taken = min(room, left)
        read = struct.unpack(f"<{taken}Q", (yield MemoryRead(at, taken * _ENTRY)))
        if left > room:
            *pages, at = read
            found += pages
            _page(at)
        else:
            found += read
    return found


def _page(entry: int) -> int:
    if entry % PAGE:
        raise Refused(Status.INVALID_PRP_OFFSET)
    return entry


def _append(found: list[Segment], gpa: int, size: int) -> None:
    last, length = found[-1]
    if last + length == gpa:
        found[-1] = last, length + size
    else:
        found.append((gpa, size))
