"""Where events go."""

from __future__ import annotations

import fcntl
import io
import json
import os
import pty
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest
import structlog

from mmiod.service import log
from mmiod.service.journal import JournalLogger, is_journal, render_entry
from mmiod.service.limiter import BURST

EVENT = {"event": "access_unclaimed", "level": "warning", "vm": "vm7", "address": "0xfed40000", "size": 4}


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    """Each test begins and ends without a configuration."""
    yield
    structlog.reset_defaults()


def written(stream: TextIO) -> str:
    """What is in a file so far."""
    stream.flush()
    stream.seek(0)
    return stream.read()


def test_a_file_gets_json_lines(tmp_path: Path) -> None:
    """Elsewhere than on a terminal each event is a JSON object with typed values."""
    with (tmp_path / "log").open("w+") as stream:
        log.configure("info", stream, {})
        structlog.get_logger().warning("access_unclaimed", vm="vm7", address=0xFED40000, size=4)
        structlog.get_logger().debug("exit_completed")
        events = [json.loads(line) for line in written(stream).splitlines()]

    assert ["20"] == [event.pop("timestamp")[:2] for event in events]
    assert [EVENT | {"address": 0xFED40000}] == events


def test_exceptions_are_in_the_line(tmp_path: Path) -> None:
    """A traceback does not break the one-event-one-line rule."""
    with (tmp_path / "log").open("w+") as stream:
        log.configure("info", stream, {})
        try:
            raise RuntimeError("out of luck")  # noqa: TRY301
        except RuntimeError:
            structlog.get_logger().exception("daemon_failed")
        (line,) = written(stream).splitlines()

    assert json.loads(line)["exception"][0]["exc_value"] == "out of luck"


def test_a_terminal_gets_people_form() -> None:
    """On a terminal addresses are hex and nothing is JSON."""
    ours, theirs = pty.openpty()
    with os.fdopen(theirs, "w") as terminal:
        log.configure("info", terminal, {})
        structlog.get_logger().warning("access_unclaimed", vm="vm7", address=0xFED40000)
        terminal.flush()
        text = os.read(ours, 4096).decode()
    os.close(ours)

    assert "access_unclaimed" in text
    assert "0xfed40000" in text
    assert "{" not in text


def test_limiter_is_in_the_chain(tmp_path: Path) -> None:
    """A flood leaves `BURST` lines and, at the end, its count."""
    with (tmp_path / "log").open("w+") as stream:
        limiter = log.configure("info", stream, {})
        for _ in range(100):
            structlog.get_logger().warning("access_unclaimed", vm="vm7")
        limiter.report(final=True)
        events = [json.loads(line) for line in written(stream).splitlines()]

    assert ["access_unclaimed"] * BURST + ["events_suppressed"] == [event["event"] for event in events]
    assert 100 - BURST == events[-1]["suppressed"]


def test_unknown_level_is_refused() -> None:
    """A wrong level lists those that there are."""
    with pytest.raises(ValueError, match="log level 'loud': there are debug, info, warning, error, critical"):
        log.configure("loud")


# --- the journal ---------------------------------------------------------------------


def parsed(entry: bytes) -> dict[str, str]:
    """An entry's fields, read by the rules of the journal's native protocol."""
    fields = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, text, value = line.partition(b"=")
        if not text:
            length = int.from_bytes(entry[:8], "little")
            value, end, entry = entry[8 : 8 + length], entry[8 + length : 9 + length], entry[9 + length :]
            assert b"\n" == end
        fields[name.decode()] = value.decode()
    return fields


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    """A stand-in for the journal's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "journal"))
        listener.settimeout(60)
        yield listener


def test_journal_stream_is_recognised(tmp_path: Path) -> None:
    """JOURNAL_STREAM names device and inode of the journal's end of standard error."""
    with (tmp_path / "stderr").open("w") as stream:
        status = os.fstat(stream.fileno())

        assert is_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        assert not is_journal(stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino + 1}"})
        assert not is_journal(stream, {})
    assert not is_journal(io.StringIO(), {"JOURNAL_STREAM": "1:1"})


def test_journal_gets_native_entries(tmp_path: Path, journal: socket.socket) -> None:
    """In a service events become entries with upper-case MMIOD_ fields and a syslog priority."""
    with (tmp_path / "stderr").open("w+") as stream:
        status = os.fstat(stream.fileno())
        log.configure(
            "info", stream, {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}, journal.getsockname()
        )
        structlog.get_logger().warning("access_unclaimed", vm="vm7", address=0xFED40000, size=4)
        rest = written(stream)

    expected = {
        "MESSAGE": "access_unclaimed vm=vm7 address=0xfed40000 size=4",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "mmiod",
        "MMIOD_EVENT": "access_unclaimed",
        "MMIOD_VM": "vm7",
        "MMIOD_ADDRESS": "0xfed40000",
        "MMIOD_SIZE": "4",
    }
    assert expected == parsed(journal.recv(65536))
    assert "" == rest


def test_line_breaks_travel_with_a_length() -> None:
    """A traceback is one field, not several."""
    entry = render_entry(
        None, "error", EVENT | {"exception": "Traceback:\nValueError", "note": "a\nMMIOD_VM=b"}
    )

    fields = parsed(entry)
    assert fields["MESSAGE"].endswith("\nTraceback:\nValueError")
    assert ("vm7", "a\nMMIOD_VM=b") == (fields["MMIOD_VM"], fields["MMIOD_NOTE"])


def test_large_entry_travels_as_a_sealed_file(tmp_path: Path, journal: socket.socket) -> None:
    """What no datagram holds arrives whole, by descriptor."""
    entry = render_entry(None, "error", EVENT | {"note": "x" * 2_000_000})
    with (tmp_path / "stderr").open("w+") as stream:
        JournalLogger(stream, journal.getsockname()).msg(entry)
        assert "" == written(stream)

    data, descriptors, _, _ = socket.recv_fds(journal, 16, 1)
    with os.fdopen(descriptors[0], "rb") as file:
        assert fcntl.fcntl(file, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
        file.seek(0)  # the journal maps it, so the position does not matter to it
        assert (b"", entry) == (data, file.read())


def test_lost_journal_leaves_standard_error(tmp_path: Path) -> None:
    """An entry that the journal does not take is not lost."""
    with (tmp_path / "stderr").open("w+") as stream:
        JournalLogger(stream, str(tmp_path / "gone")).msg(render_entry(None, "warning", dict(EVENT)))

        assert "MESSAGE=access_unclaimed vm=vm7 address=0xfed40000 size=4" in written(stream).splitlines()
