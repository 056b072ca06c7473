"""A TCG event log by hand, as the PC Client Platform Firmware Profile lays it out, and what is none."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given, strategies as st

from mmiod.ctl.event_log import EV_NO_ACTION, Event, LogError, find, parse

BANKS = {0x4: 20, 0xB: 32}


def header(banks: dict[int, int], signature: bytes = b"Spec ID Event03\0") -> bytes:
    """The first event: a TCG_EfiSpecIdEvent."""
    data = signature + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks))
    data += b"".join(struct.pack("<HH", *bank) for bank in banks.items()) + b"\0"
    return struct.pack("<II20sI", 0, EV_NO_ACTION, b"", len(data)) + data


def entry(pcr: int, kind: int, data: bytes) -> bytes:
    """An event whose digests are of its data."""
    digests = [(alg, hashlib.new(name, data).digest()) for alg, name in ((0x4, "sha1"), (0xB, "sha256"))]
    packed = b"".join(struct.pack("<H", alg) + digest for alg, digest in digests)
    return struct.pack("<III", pcr, kind, len(digests)) + packed + struct.pack("<I", len(data)) + data


LOG = header(BANKS) + entry(4, 5, b"Calling INT 19h") + entry(0, EV_NO_ACTION, b"") + entry(4, 4, b"\xff" * 4)


def test_events_and_pcrs() -> None:
    """Data, digests and PCRs; what is no action extends nothing; zeros end the log."""
    log = parse(LOG + bytes(100))
    assert BANKS == log.algorithms
    assert [(4, 5, b"Calling INT 19h"), (0, 3, b""), (4, 4, b"\xff" * 4)] == [
        (event.pcr, event.kind, event.data) for event in log.events
    ]
    value = bytes(32)
    for data in (b"Calling INT 19h", b"\xff" * 4):
        value = hashlib.sha256(value + hashlib.sha256(data).digest()).digest()
    assert {4: value} == log.replay(0xB)


@pytest.mark.parametrize(
    "area",
    [
        b"",
        bytes(1000),
        header(BANKS, b"Spec ID Event00\0"),
        header(BANKS)[:50],
        header({0xB: 32}) + entry(0, 4, b""),
        LOG[:-1],
        header(dict.fromkeys(range(17), 1)),
    ],
)
def test_what_is_no_log_is_refused(area: bytes) -> None:
    """No header, another one, a bank that the header does not name, too many, an event cut off."""
    with pytest.raises(LogError):
        parse(area)


@given(st.integers(0, len(LOG) - 1), st.integers(0, 255))
def test_any_bytes_are_a_log_or_none(at: int, byte: int) -> None:
    """A guest may have written anything."""
    try:
        log = parse(LOG[:at] + bytes((byte,)) + LOG[at + 1 :])
    except LogError:
        return
    assert all(isinstance(event, Event) for event in log.events)


def memory(length: int, base: int) -> bytes:
    """1 MiB with an RSDP, an RSDT, a TPM2 table and a log."""
    ram = bytearray(1 << 20)
    ram[0xF0010:0xF0028] = b"RSD PTR " + bytes(8) + struct.pack("<I", 0x1000) + bytes(4)
    ram[0x1000:0x102C] = b"RSDT" + struct.pack("<I", 44) + bytes(28) + struct.pack("<II", 0x2000, 0x3000)
    ram[0x2000:0x2004] = b"FACP"
    ram[0x3000:0x304C] = b"TPM2" + bytes(60) + struct.pack("<IQ", length, base)
    ram[0x4000 : 0x4000 + len(LOG)] = LOG
    return bytes(ram)


def test_the_table_leads_to_the_log() -> None:
    """RSDP, RSDT, TPM2, LASA and LAML."""
    ram = memory(0x1000, 0x4000)
    assert LOG.ljust(0x1000, b"\0") == find(lambda gpa, length: ram[gpa : gpa + length])


@pytest.mark.parametrize(
    ("ram", "reason"),
    [
        (bytes(1 << 20), "no TPM2 table"),
        (memory(1 << 21, 0x4000), "a log area of 2097152"),
        (memory(0x1000, 0x4000).replace(b"RSDT" + struct.pack("<I", 44), b"RSDT" + bytes(4)), "cut off"),
        (memory(0x1000, 0x4000).replace(struct.pack("<II", 0x2000, 0x3000), b"\xff" * 8), "no TPM2 table"),
    ],
)
def test_no_table_no_log(ram: bytes, reason: str) -> None:
    """The reason is told."""
    with pytest.raises(LogError, match=reason):
        find(lambda gpa, length: ram[gpa : gpa + length])
