"""DEVICE_FEATURE and MIG_DATA_*: which events they become, what is answered at once, what is refused."""

from __future__ import annotations

import errno
import struct

import pytest

from mmiod.protocol.vfio_user import (
    Event,
    GetState,
    ReadState,
    ReportLog,
    Session,
    SetState,
    StartLog,
    State,
    StopLog,
    WriteState,
)
from tests.protocol.vfio_user.test_session import SHAPE, VERSION, answers, message, refused

FEATURE, MIG_READ, MIG_WRITE = 16, 17, 18
GET, SET, PROBE = 0x1_0000, 0x2_0000, 0x4_0000
MIGRATION, DEVICE_STATE, LOG_START, LOG_STOP, LOG_REPORT = 1, 2, 6, 7, 8
PAGE = 4096


def migrating() -> Session:
    """A session with a function that can be migrated, behind VERSION."""
    session = Session(SHAPE, migrates=True)
    session.receive(message(VERSION, struct.pack("<HH", 0, 1)), [])
    assert session.take() is None
    session.outgoing.clear()
    return session


def asked(flags: int, data: bytes = b"", argsz: int = 1 << 16) -> bytes:
    """A DEVICE_FEATURE's payload."""
    return struct.pack("<II", argsz, flags) + data


def event(command: int, payload: bytes) -> Event:
    """What a message becomes; it is not answered yet."""
    session = migrating()
    session.receive(message(command, payload), [])
    found = session.take()
    assert found is not None
    assert not session.outgoing
    return found


def answer(payload: bytes) -> bytes:
    """The payload of what a DEVICE_FEATURE is answered without asking anybody."""
    session = migrating()
    session.receive(message(FEATURE, payload), [])
    assert session.take() is None
    (only,) = answers(session)
    assert not only.error
    return only.payload


def report(iova: int, length: int, page: int) -> bytes:
    """A report's range."""
    return struct.pack("<QQQ", iova, length, page)


def test_what_migration_can_do() -> None:
    """An early copy and one of the stopped function, and no peer-to-peer DMA."""
    assert struct.pack("<IIQ", 16, GET | MIGRATION, 1 | 4) == answer(asked(GET | MIGRATION))


@pytest.mark.parametrize(
    ("number", "wanted"),
    [(MIGRATION, GET), (DEVICE_STATE, GET | SET), (DEVICE_STATE, 0), (LOG_START, SET), (LOG_REPORT, GET)],
)
def test_probing_a_feature(number: int, wanted: int) -> None:
    """A feature that is there, and allows this, is answered by the question."""
    payload = asked(PROBE | wanted | number, argsz=8)
    assert payload == answer(payload)


def test_the_state() -> None:
    """It is asked and set; a set is answered by its own bytes."""
    got = event(FEATURE, asked(GET | DEVICE_STATE))
    assert isinstance(got, GetState)
    head = struct.pack("<II", 16, GET | DEVICE_STATE)
    assert head + struct.pack("<II", 3, 0xFFFF_FFFF) == got.reply(State.STOP_COPY)
    payload = asked(SET | DEVICE_STATE, struct.pack("<Ii", 4, -1), argsz=16)
    put = event(FEATURE, payload)
    assert isinstance(put, SetState)
    assert (4, payload) == (put.state, put.echo)


def test_the_log() -> None:
    """It is started with ranges or without, stopped with any data or none, reported a range at a time."""
    for ranges in (0, 2):
        data = struct.pack("<QII", PAGE, ranges, 0) + report(0, PAGE, 0)[:16] * ranges
        assert isinstance(event(FEATURE, asked(SET | LOG_START, data)), StartLog)
    for data in (b"", bytes(16)):
        assert isinstance(event(FEATURE, asked(SET | LOG_STOP, data)), StopLog)
    found = event(FEATURE, asked(GET | LOG_REPORT, report(PAGE, 65 * PAGE, PAGE), argsz=48))
    assert isinstance(found, ReportLog)
    assert (PAGE, 65 * PAGE, PAGE) == (found.iova, found.length, found.page_size)
    head = struct.pack("<II", 48, GET | LOG_REPORT) + report(PAGE, 65 * PAGE, PAGE)
    assert head + bytes(16) == found.reply(bytes(16))


def test_a_read_of_the_state_is_answered_at_the_length_that_was_asked() -> None:
    """`size` says how much of that is data: libvfio-user's client reads no less than it asked."""
    found = event(MIG_READ, struct.pack("<II", 8 + 6, 6))
    assert isinstance(found, ReadState)
    assert struct.pack("<II", 8 + 4, 4) + b"data\0\0" == found.reply(b"data")


def test_a_write_of_the_state() -> None:
    """The data comes as it is."""
    found = event(MIG_WRITE, struct.pack("<II", 12, 4) + b"data")
    assert isinstance(found, WriteState)
    assert b"data" == found.data


@pytest.mark.parametrize(
    ("payload", "field"),
    [
        (asked(GET | SET | DEVICE_STATE), "feature.flags"),
        (asked(DEVICE_STATE), "feature.flags"),
        (asked(SET | MIGRATION, bytes(8)), "feature.flags"),
        (asked(PROBE | SET | LOG_REPORT), "feature.flags"),
        (asked(GET | 0x8_0000 | MIGRATION), "feature.flags"),
        (asked(GET | MIGRATION, argsz=15), "feature.argsz"),
        (asked(PROBE | MIGRATION, argsz=7), "feature.argsz"),
        (asked(SET | DEVICE_STATE, bytes(4)), "header.size"),
        (asked(SET | DEVICE_STATE, bytes(12)), "header.size"),
        (asked(SET | DEVICE_STATE, bytes(8), argsz=15), "feature.argsz"),
        (asked(SET | LOG_START, struct.pack("<QII", 1024, 0, 0)), "page_size"),
        (asked(SET | LOG_START, struct.pack("<QII", 3 * PAGE, 0, 0)), "page_size"),
        (asked(SET | LOG_START, struct.pack("<QII", PAGE, 1, 0)), "log_control.ranges"),
        (asked(SET | LOG_STOP, bytes(16), argsz=23), "feature.argsz"),
        (asked(GET | LOG_REPORT), "header.size"),
        (asked(GET | LOG_REPORT, report(0, PAGE, 0)), "page_size"),
        (asked(GET | LOG_REPORT, report(0, PAGE, 1 << 31)), "page_size"),
        (asked(GET | LOG_REPORT, report(PAGE, PAGE, 2 * PAGE)), "log_report.iova"),
        (asked(GET | LOG_REPORT, report(0, 0, PAGE)), "log_report.length"),
        (asked(GET | LOG_REPORT, report(1 << 63, (1 << 63) + 1, PAGE)), "log_report.length"),
        (asked(GET | LOG_REPORT, report(0, (1 << 36) + 1, 1 << 30)), "log_report.length"),
        (asked(GET | LOG_REPORT, report(0, (1 << 35) + PAGE, PAGE)), "log_report.length"),
        (asked(GET | LOG_REPORT, report(0, PAGE, PAGE), argsz=39), "feature.argsz"),
    ],
)
def test_a_feature_that_is_asked_wrongly(payload: bytes, field: str) -> None:
    """EINVAL, and the field that is wrong."""
    assert (errno.EINVAL, field) == refused(migrating(), FEATURE, payload)


@pytest.mark.parametrize(
    ("command", "payload", "field"),
    [
        (MIG_READ, struct.pack("<II", 1 << 30, (1 << 20) + 1), "mig_data.size"),
        (MIG_READ, struct.pack("<II", 15, 8), "mig_data.argsz"),
        (MIG_READ, struct.pack("<II", 16, 8) + b"1", "header.size"),
        (MIG_WRITE, struct.pack("<II", 16, 8) + bytes(7), "mig_data.size"),
        (MIG_WRITE, struct.pack("<II", 15, 8) + bytes(8), "mig_data.argsz"),
    ],
)
def test_data_that_is_moved_wrongly(command: int, payload: bytes, field: str) -> None:
    """EINVAL, and the field that is wrong."""
    assert (errno.EINVAL, field) == refused(migrating(), command, payload)


@pytest.mark.parametrize("number", [0, 3, 5, 9, 0xFFFF])
def test_features_that_are_not_here(number: int) -> None:
    """ENOTSUP: what a client may do without."""
    assert (errno.ENOTSUP, "feature.flags") == refused(migrating(), FEATURE, asked(PROBE | number))


def test_a_function_without_migration_has_a_log_all_the_same() -> None:
    """Its state and its data are not there."""
    still = Session(SHAPE, migrates=False)
    still.receive(message(VERSION, struct.pack("<HH", 0, 1)), [])
    assert still.take() is None
    still.outgoing.clear()
    assert (errno.ENOTSUP, "feature.flags") == refused(still, FEATURE, asked(GET | MIGRATION))
    still.receive(message(FEATURE, asked(SET | LOG_STOP)), [])
    assert isinstance(still.take(), StopLog)
