"""Log pages (NVM Express 1.4, 5.14) and what they count."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Final

from attrs import define

from mmiod.device.nvme.entries import ALL_NAMESPACES, Refused, Status, Submission
from mmiod.device.nvme.identify import FIRMWARE, MAX_LENGTH
from mmiod.device.nvme.queues import Step

ERRORS: Final = 0x01
_UNIT: Final = 1000
"""SMART counts data in thousands of 512 bytes, rounded up."""
_TEMPERATURE_K: Final = 300
_ERROR: Final = struct.Struct("<QHHHHQI36x")
_SMART: Final = struct.Struct("<BHBBB26x" + 10 * "Q8x" + "320x")
_RETAIN: Final = 1 << 15
"""RAE of dword 10: the event stays."""


@define
class Counters:
    """What was done since the machine was switched on."""

    blocks_read: int = 0
    blocks_written: int = 0
    reads: int = 0
    writes: int = 0
    media_errors: int = 0
    error: bytes = b""
    """The entry of the last one (5.14.1.1)."""

    def add(self, step: Step) -> None:
        """The image has done it."""
        if step.kind == "read":
            self.reads += 1
            self.blocks_read += step.count
        elif step.kind == "write":
            self.writes += 1
            self.blocks_written += step.count

    def failed(self, submissions: int, identifier: int, status: int) -> None:
        """The image refused a command's request."""
        self.media_errors += 1
        # Parameter error location FFFFh: none of the command's fields is to blame.
        head = (self.media_errors, submissions, identifier, status << 1, 0xFFFF)
        self.error = _ERROR.pack(*head, 0, 0)


def page(counters: Counters, entry: Submission) -> bytes:
    """What a Get Log Page command asks for, or as much of it as there is.

    Raises:
        Refused: there is no such page, it is of no single namespace, or there is nothing at
            the offset.
    """
    maker = _PAGES.get(entry.dwords[0] & 0xFF)
    if maker is None:
        raise Refused(Status.INVALID_LOG_PAGE)
    length = 4 * ((entry.high | (entry.dwords[1] & 0xFFFF) << 16) + 1)
    offset = entry.dwords[2] | entry.dwords[3] << 32
    found = maker(counters)
    bad_place = offset % 4 or offset >= len(found) or length > MAX_LENGTH
    if bad_place or entry.namespace not in {0, ALL_NAMESPACES}:
        raise Refused(Status.INVALID_FIELD)
    return found[offset : offset + length]


def clears_event(entry: Submission) -> bool:
    """Whether the command acknowledges an error event (5.2)."""
    return entry.dwords[0] & 0xFF == ERRORS and not entry.dwords[0] & _RETAIN


def _errors(counters: Counters) -> bytes:
    """01h (5.14.1.1), one entry."""
    return counters.error.ljust(_ERROR.size, b"\0")


def _health(counters: Counters) -> bytes:
    """02h (5.14.1.2): nothing wears out here."""
    return _SMART.pack(
        0,
        _TEMPERATURE_K,
        100,  # percent of spare blocks
        10,  # below which they would be too few
        0,
        -(-counters.blocks_read // _UNIT),
        -(-counters.blocks_written // _UNIT),
        counters.reads,
        counters.writes,
        *(0, 0, 0, 0),  # minutes busy, power cycles, hours, unsafe shutdowns
        counters.media_errors,
        counters.media_errors,  # entries of the error log
    )


def _firmware(_counters: Counters) -> bytes:
    """03h (5.14.1.3): slot 1 is active."""
    return struct.pack("<B7x8s496x", 1, FIRMWARE.ljust(8).encode())


_PAGES: Final[Mapping[int, Callable[[Counters], bytes]]] = {
    ERRORS: _errors,
    0x02: _health,
    0x03: _firmware,
}
