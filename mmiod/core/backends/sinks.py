"""Backends that only take: the daemon's log, a file."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import structlog
import trio
from attrs import define, field

from mmiod.core.backends.faces import Link, Place

MAX_LINE: Final = 1024
"""Bytes after which a line without an end is logged."""


class Sink:
    """A link that nothing comes from."""

    where = ""
    owns = ""
    framed = False
    attached = True

    async def receive_some(self, max_bytes: int) -> bytes:  # noqa: ARG002
        """Wait for ever."""
        await trio.sleep_forever()


@define(eq=False)
class LogBackend(Sink):
    """Writes a stream to the daemon's log, one event per line of text."""

    place: Place
    _line: bytearray = field(factory=bytearray)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Link]:
        """There is nothing to open."""
        yield self

    async def send_all(self, data: bytes) -> None:
        """Log the lines that end in `data`."""
        await trio.lowlevel.checkpoint()
        log = structlog.get_logger()
        place = self.place
        self._line += data.replace(b"\r", b"")
        while b"\n" in self._line or len(self._line) > MAX_LINE:
            line, _, rest = self._line.partition(b"\n")
            if len(line) > MAX_LINE:
                line, rest = self._line[:MAX_LINE], self._line[MAX_LINE:]
            self._line = bytearray(rest)
            text = bytes(line).decode("utf-8", "replace")
            log.info("stream_line", vm=place.vm, device=place.device, stream=place.name, text=text)


@define(eq=False)
class FileBackend(Sink):
    """Appends a stream to a file, or to a pipe that somebody reads.

    It is opened for each write: a file that was moved away is made anew.
    """

    path: Path

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Link]:
        """See whether it can be written."""
        await trio.to_thread.run_sync(self._append, b"")
        yield self

    async def send_all(self, data: bytes) -> None:
        """Append."""
        await trio.to_thread.run_sync(self._append, data)

    def _append(self, data: bytes) -> None:
        # Without the wait for a pipe's reader, which would hold the daemon's end up.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(self.path, flags, 0o640), "ab") as file:  # noqa: PTH123  # of a descriptor
            file.write(data)
