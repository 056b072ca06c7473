"""Native entries for systemd's journal, so that `journalctl MMIOD_VM=vm7` finds them.

Format: systemd.io/JOURNAL_NATIVE_PROTOCOL.  Standard error would do for text, but the
journal does not look into JSON.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Mapping
from typing import Final, TextIO

from attrs import frozen
from structlog.typing import EventDict, WrappedLogger

SOCKET: Final = "/run/systemd/journal/socket"
PRIORITIES: Final = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""syslog(3)."""
_TOO_LARGE: Final = {errno.EMSGSIZE, errno.ENOBUFS}
_ALL_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether `stream` is connected to the journal (systemd.exec(5), JOURNAL_STREAM)."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # closed, or not a file
        return False
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def render_entry(logger: WrappedLogger, method: str, event: EventDict) -> bytes:  # noqa: ARG001
    """Make the entry: MESSAGE for people, MMIOD_* for searching."""
    event.pop("timestamp", None)  # the journal has its own
    level, name = event.pop("level"), event.pop("event")
    trace = event.pop("exception", None)
    message = " ".join((name, *(f"{key}={value}" for key, value in event.items())))
    fields = {
        "MESSAGE": message if trace is None else f"{message}\n{trace}",
        "PRIORITY": str(PRIORITIES[level]),
        "SYSLOG_IDENTIFIER": "mmiod",
        "MMIOD_EVENT": name,
    }
    fields |= {f"MMIOD_{key.upper()}": str(value) for key, value in event.items()}
    return b"".join(_field(key, value.encode()) for key, value in fields.items())


def _field(name: str, value: bytes) -> bytes:
    """NAME=value, or with its length where the value has line breaks."""
    if b"\n" not in value:
        return b"%s=%s\n" % (name.encode(), value)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(value)), value)


@frozen
class JournalLogger:
    """Sends entries to the journal's socket `path`; what it does not take goes to `stream`."""

    stream: TextIO
    path: str = SOCKET

    def msg(self, entry: bytes) -> None:
        """Send one entry; it never waits."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as channel:
                self._send(channel, entry)
        except OSError:
            self.stream.write(entry.decode(errors="replace"))
            self.stream.flush()

    debug = info = warning = error = critical = msg

    def _send(self, channel: socket.socket, entry: bytes) -> None:
        try:
            channel.sendto(entry, self.path)
        except OSError as refused:
            if refused.errno not in _TOO_LARGE:
                raise
            self._send_file(channel, entry)

    def _send_file(self, channel: socket.socket, entry: bytes) -> None:
        """An entry that no datagram holds travels as a sealed memfd."""
        file = os.memfd_create("entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.write(file, entry)
            fcntl.fcntl(file, fcntl.F_ADD_SEALS, _ALL_SEALS)
            channel.sendmsg(
                [], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("i", file))], 0, self.path
            )
        finally:
            os.close(file)
