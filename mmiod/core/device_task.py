"""The device task: awaits what a device's backends do, so that its hooks never wait.

A hook hands bytes to a queue and returns; the device's one task writes them out in
order.  A backend that does not keep up costs its stream bytes, which are counted, and
never the guest any time.  (Timers have one queue per machine and not one per device
task: in virtual time their order across devices is part of the result.)
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, Protocol

import structlog
import trio
from attrs import define, field

MAX_QUEUED: Final = 1 << 20
"""Bytes of a stream that may wait for its backend."""
MAX_LINE: Final = 1024
"""Bytes after which a line without an end is logged."""


class Backend(Protocol):
    """The host's side of a stream."""

    async def write(self, data: bytes) -> None:
        """Take bytes that the device sent: all, or, where it is cancelled, none.

        Raises:
            OSError: they cannot be taken.
        """


@define(eq=False)
class LogBackend:
    """Writes a stream to the daemon's log, one event per line of text."""

    vm: str
    device: str
    stream: str
    _line: bytearray = field(factory=bytearray)

    async def write(self, data: bytes) -> None:
        """Log the lines that end in `data`."""
        await trio.lowlevel.checkpoint()
        log = structlog.get_logger()
        self._line += data.replace(b"\r", b"")
        while b"\n" in self._line or len(self._line) > MAX_LINE:
            line, _, rest = self._line.partition(b"\n")
            if len(line) > MAX_LINE:
                line, rest = self._line[:MAX_LINE], self._line[MAX_LINE:]
            self._line = bytearray(rest)
            text = bytes(line).decode("utf-8", "replace")
            log.info("stream_line", vm=self.vm, device=self.device, stream=self.stream, text=text)


@define(eq=False)
class FileBackend:
    """Appends a stream to a file, or to a pipe that somebody reads."""

    path: Path

    async def write(self, data: bytes) -> None:
        """Append."""
        await trio.to_thread.run_sync(self._append, data)  # one step: whole or, cancelled, not begun

    def _append(self, data: bytes) -> None:
        # Without the wait for a pipe's reader, which would hold the daemon's end up.
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC
        with open(os.open(self.path, flags, 0o640), "ab") as file:  # noqa: PTH123  # of a descriptor
            file.write(data)


@define(eq=False)
class Queue:
    """A stream's bytes between a hook and the device task."""

    wake: trio.Event
    data: bytearray = field(factory=bytearray)
    lost: int = 0
    """Bytes that found the queue full, or its backend gone."""
    dropped: bool = False

    def drop(self) -> None:
        """Its backend failed: from now on all bytes are lost."""
        self.dropped = True
        self.lost += len(self.data)
        self.data.clear()

    def put(self, data: bytes) -> None:
        """Called by a hook: returns at once."""
        room = 0 if self.dropped else MAX_QUEUED - len(self.data)
        self.data += data[:room]
        self.lost += max(0, len(data) - room)
        self.wake.set()


@define(eq=False)
class DeviceTask:
    """One device's streams and their backends."""

    vm: str
    device: str
    backends: Mapping[str, Backend]
    queues: dict[str, Queue] = field(init=False)
    _wake: trio.Event = field(factory=trio.Event)

    def __attrs_post_init__(self) -> None:
        """Make a queue for each stream."""
        self.queues = {stream: Queue(self._wake) for stream in self.backends}

    async def run(self) -> None:
        """Write out what hooks send, until cancelled; then what is left."""
        try:
            while True:
                await self._wake.wait()
                self._wake = trio.Event()
                for queue in self.queues.values():
                    queue.wake = self._wake
                await self._write()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await self._write()

    async def _write(self) -> None:
        for stream, queue in self.queues.items():
            if queue.data:
                await self._write_one(stream, queue)

    async def _write_one(self, stream: str, queue: Queue) -> None:
        data = bytes(queue.data)
        try:
            await self.backends[stream].write(data)
        except OSError as error:
            queue.drop()
            log = structlog.get_logger()
            log.warning("stream_dropped", vm=self.vm, device=self.device, stream=stream, reason=str(error))
        else:
            del queue.data[: len(data)]  # not before: a cancelled write is done again at the end


def make_backend(spec: str, directory: Path, vm: str, device: str, stream: str) -> Backend | None:
    """The backend that a machine file in `directory` names; None for `null`.

    Raises:
        ValueError: no backend is called so.
    """
    kind, _, rest = spec.partition(":")
    if kind == "null" and not rest:
        return None
    if kind == "log" and not rest:
        return LogBackend(vm, device, stream)
    if kind == "file" and rest:
        return FileBackend(directory / rest)
    raise ValueError(f"stream {stream} = {spec!r}: a backend is null, log or file:PATH")
