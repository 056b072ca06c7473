"""What firmware measured: the TCG event log in guest memory, and the PCRs that follow from it.

Specification: TCG PC Client Platform Firmware Profile 1.05, "Event Logging" (a header event
of the old form, TCG_EfiSpecIdEvent, then events with a digest for each bank); TCG ACPI
Specification, "TPM2 Table" (where the log is: LASA and LAML); ACPI 6.5, 5.2.5 (RSDP).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterator
from typing import Final

from attrs import frozen

EV_NO_ACTION: Final = 3
SIGNATURE: Final = b"Spec ID Event03\0"
HASHES: Final = {0x4: "sha1", 0xB: "sha256", 0xC: "sha384", 0xD: "sha512"}
"""Algorithms by TPM_ALG_ID (TCG Algorithm Registry)."""
RSDP_AREA: Final = 0xE0000
RSDP_AREA_LENGTH: Final = 0x20000
MAX_TABLES: Final = 64
MAX_ALGORITHMS: Final = 16
MAX_LOG: Final = 1 << 20

Read = Callable[[int, int], bytes]
"""Guest memory: bytes at a GPA."""


class LogError(Exception):
    """There is no event log, or it is none."""


@frozen
class Event:
    """One measurement; `digests` by TPM_ALG_ID."""

    pcr: int
    kind: int
    digests: dict[int, bytes]
    data: bytes


@frozen
class EventLog:
    """A log: its banks, with the size of a digest for each, and its events in order."""

    algorithms: dict[int, int]
    events: list[Event]

    def replay(self, algorithm: int) -> dict[int, bytes]:
        """The PCRs of a bank that these events extended, from zeros on."""
        pcrs: dict[int, bytes] = {}
        for event in self.events:
            if event.kind != EV_NO_ACTION:
                before = pcrs.get(event.pcr, bytes(self.algorithms[algorithm]))
                digest = hashlib.new(HASHES[algorithm], before + event.digests[algorithm])
                pcrs[event.pcr] = digest.digest()
        return pcrs


def find(read: Read) -> bytes:
    """The area of the log, as the TPM2 table in guest memory says.

    Raises:
        LogError: there is no such table, or its area is too large, or tables are cut off.
    """
    try:
        for address in _tables(read):
            if read(address, 4) == b"TPM2":
                return read(*_area(read(address + 64, 12)))
    except struct.error as error:
        raise LogError(f"tables that are cut off: {error}") from error
    raise LogError("no TPM2 table in guest memory")


def _area(fields: bytes) -> tuple[int, int]:
    """LASA and LAML."""
    length, base = struct.unpack("<IQ", fields)
    if length > MAX_LOG:
        raise LogError(f"a log area of {length} bytes")
    return base, length


def _tables(read: Read) -> Iterator[int]:
    area = read(RSDP_AREA, RSDP_AREA_LENGTH)
    for at in range(0, len(area), 16):
        if area.startswith(b"RSD PTR ", at):
            (rsdt,) = struct.unpack_from("<I", area, at + 16)
            (length,) = struct.unpack("<I", read(rsdt + 4, 4))
            count = min((length - 36) // 4, MAX_TABLES)
            yield from struct.unpack(f"<{count}I", read(rsdt + 36, 4 * count))


def parse(area: bytes) -> EventLog:
    """A log from its area, which is zero behind it.

    Raises:
        LogError: it does not begin with a Spec ID event, or an event is cut off.
    """
    try:
        algorithms, at = _header(area)
        events = []
        while at + 12 <= len(area) and any(area[at : at + 12]):
            event, at = _event(area, at, algorithms)
            events.append(event)
    except (struct.error, KeyError) as error:
        raise LogError(f"an event that is cut off or has a bank of its own: {error}") from error
    return EventLog(algorithms, events)


def _header(area: bytes) -> tuple[dict[int, int], int]:
    pcr, kind, _, length = struct.unpack_from("<II20sI", area)
    data = area[32 : 32 + length]
    if (pcr, kind) != (0, EV_NO_ACTION) or not data.startswith(SIGNATURE):
        raise LogError(f"the log begins with {area[:48].hex(' ')}")
    (count,) = struct.unpack_from("<I", data, 24)
    if count > MAX_ALGORITHMS:
        raise LogError(f"{count} banks")
    return dict(struct.unpack_from("<HH", data, 28 + 4 * n) for n in range(count)), 32 + length


def _event(area: bytes, at: int, algorithms: dict[int, int]) -> tuple[Event, int]:
    pcr, kind, count = struct.unpack_from("<III", area, at)
    at += 12
    digests = {}
    for _ in range(min(count, MAX_ALGORITHMS)):
        (algorithm,) = struct.unpack_from("<H", area, at)
        (digests[algorithm],) = struct.unpack_from(f"{algorithms[algorithm]}s", area, at + 2)
        at += 2 + algorithms[algorithm]
    (length,) = struct.unpack_from("<I", area, at)
    (data,) = struct.unpack_from(f"{length}s", area, at + 4)
    return Event(pcr, kind, digests, data), at + 4 + length
