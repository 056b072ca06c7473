"""One stream of a device, and its backend."""

from __future__ import annotations

from functools import partial
from typing import Final

import trio
from attrs import define, field

from mmiod.core.backends.faces import BackendFailed, ExactLink, Lasting, Link, Place, StreamBackend
from mmiod.core.gate import FAILURES, Gate, Inject, Notify, reason_of
from mmiod.core.ports import StreamQueue
from mmiod.machine.host import InlineHost
from mmiod.machine.ports import BackendStatus

CHUNK: Final = 4096
"""Bytes that reach a device at once."""
REST_S: Final = 0.5
"""For what waits for a link that is not exact, when the daemon is to rest."""
FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 5.0


@define(eq=False)
class StreamLane:
    """One stream and its backend."""

    place: Place
    spec: str
    backend: StreamBackend
    host: InlineHost
    inject: Inject
    notify: Notify
    queue: StreamQueue = field(init=False)
    gate: Gate = field(factory=Gate)
    _opened: bool = False

    def __attrs_post_init__(self) -> None:
        """Make the queue."""
        self.queue = StreamQueue(BackendStatus(self.spec), self.backend.framed)

    async def run(self) -> None:
        """Keep the backend open, until cancelled."""
        pause = FIRST_PAUSE_S
        while True:
            self._opened = False
            try:
                await self._serve()
            except* FAILURES as group:
                self._failed(reason_of(group))
            pause = FIRST_PAUSE_S if self._opened else min(2 * pause, LAST_PAUSE_S)
            await trio.sleep(pause)

    async def _serve(self) -> None:
        async with self.backend.open() as link:
            self._opened = True
            self.queue.status.failure, self.queue.status.where = None, self.backend.where
            self.notify(
                "backend_opened",
                device=self.place.device,
                stream=self.place.name,
                backend=self.spec,
                where=self.backend.where,
            )
            await self.gate.repeat(partial(self._carry, link))

    async def _carry(self, link: Link) -> None:
        """Bytes both ways; a piece is lost that is cut off where nobody knows how much has gone."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, link)
                nursery.start_soon(self._read, link)
        finally:
            if self.backend.attached and not isinstance(link, ExactLink):
                self.queue.dropped()

    def _failed(self, reason: str) -> None:
        if self.queue.status.failure != reason:
            self.notify(
                "backend_failed",
                device=self.place.device,
                stream=self.place.name,
                backend=self.spec,
                reason=reason,
            )
        self.queue.status.failure = reason
        self.queue.changed.set()

    async def _write(self, link: Link) -> None:
        while True:
            await self.queue.filled()
            await self.gate.passed()
            data = self.queue.take()
            try:
                if isinstance(link, ExactLink):
                    self.queue.wrote(await link.send_some(data))
                else:
                    await link.send_all(data)
                    self.queue.wrote(len(data))
            except FAILURES:
                self.queue.dropped()
                raise

    async def _read(self, link: Link) -> None:
        while True:
            data = bytes(await link.receive_some(await self._room()))
            if not data:
                raise BackendFailed("the far side has ended")
            await self.inject(partial(self.host.receive, self.place.name, data))

    async def _room(self) -> int:
        """Wait until the device takes bytes; how many, at most `CHUNK`."""
        found: list[int | None] = []
        while True:
            upcoming = self.queue.readied.upcoming  # what follows from the look may make room already
            await self.inject(lambda: found.append(self.host.room(self.place.name)))
            room = found.pop()
            if room is None or room > 0:
                return min(CHUNK, room or CHUNK)
            await upcoming.wait()

    async def rest(self) -> None:
        """Begin nothing; what waits for an exact link stays, any other one gets it, if that does not last."""
        if not isinstance(self.backend, Lasting):
            with trio.move_on_after(REST_S):
                await self.drain()
        await self.gate.shut()

    async def drain(self) -> None:
        """Wait until the backend has what the device sent, if somebody takes it."""
        while self.queue.queued and self.queue.status.failure is None and self.backend.attached:
            await self.queue.changed.wait()
