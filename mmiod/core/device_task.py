"""The device task: awaits what a device's backends do, so that its hooks never wait.

    hook -> StreamQueue, RequestQueue -> lane -> backend        what a device sends
    backend -> lane -> `inject` -> hook                         what comes back, in order

A stream or service has a *lane*, which keeps its backend open.  A hook hands bytes or a
request to a queue and returns; a backend that does not keep up costs its stream bytes,
which are counted, and never the guest any time.  Inputs go to the device one at a time
through `inject`, which runs them in the core and waits while the VM is paused; of a
stream a lane reads only what the device has room for.

A stream's backend that fails is opened again after a pause.  A service's is opened when
the next request comes; what was under way is done again only if its effect is idempotent,
or if the backend can tell that it was not done.  (Timers have one queue per machine and
not one per device task: in virtual time their order across devices is part of the result.)
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import trio
from attrs import define, field

from mmiod.core.backends.faces import (
    BackendFailed,
    KeepingLink,
    Link,
    Place,
    RequestRefused,
    ServiceBackend,
    ServiceLink,
    StreamBackend,
)
from mmiod.core.ports import MAX_REQUESTS, Ask, Move, RequestQueue, StreamQueue
from mmiod.device import Effect
from mmiod.machine.host import InlineHost
from mmiod.machine.ports import BackendStatus

CHUNK: Final = 4096
"""Bytes that reach a device at once."""
DRAIN_S: Final = 1.0
"""For what is still on its way to backends when the daemon stops."""
FIRST_PAUSE_S: Final = 0.1
LAST_PAUSE_S: Final = 5.0
MAX_ATTEMPTS: Final = 3
"""To open a service's backend for one request, if it fails again and again."""

FAILURES: Final = (OSError, trio.BrokenResourceError, trio.ClosedResourceError, BackendFailed)

Inject = Callable[[Callable[[], None]], Awaitable[None]]
"""Runs an input of a device in the core and flushes what follows from it."""
Notify = Callable[..., None]


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
                self._failed(_reason(group))
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
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write, link)
                nursery.start_soon(self._read, link)

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
            data = await self.queue.take()
            try:
                await link.send_all(data)
            except FAILURES:
                self.queue.dropped(len(data))
                raise
            self.queue.wrote(len(data))

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
            await self.inject(lambda: found.append(self.host.room(self.place.name)))
            room = found.pop()
            if room is None or room > 0:
                return min(CHUNK, room or CHUNK)
            await self.queue.readied.wait()

    async def drain(self) -> None:
        """Wait until the backend has what the device sent, if somebody takes it."""
        while self.queue.queued and self.queue.status.failure is None and self.backend.attached:
            await self.queue.changed.wait()


@define(eq=False)
class ServiceLane:
    """One service and its backend."""

    place: Place
    spec: str
    backend: ServiceBackend
    host: InlineHost
    inject: Inject
    notify: Notify
    queue: RequestQueue = field(init=False)
    _opened: bool = False
    _begun: int = 0
    """How often the first request may have been done."""
    _failures: int = 0
    """How often the backend failed while it waited."""

    def __attrs_post_init__(self) -> None:
        """Make the queue."""
        self.queue = RequestQueue(BackendStatus(self.spec), self.backend.keeping)

    async def run(self) -> None:
        """Do what is asked, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._refuse)
            while True:
                await self.queue.first()
                self._opened = False
                try:
                    await self._serve()
                except* FAILURES as group:
                    await self._failed(_reason(group))

    async def _serve(self) -> None:
        async with self.backend.open() as link, trio.open_nursery() as nursery:
            self._opened, self.queue.status.failure = True, None
            self.notify(
                "backend_opened", device=self.place.device, service=self.place.name, backend=self.spec
            )
            nursery.start_soon(link.watch)
            nursery.start_soon(self._cancel, link)
            while True:
                first = await self.queue.first()
                if isinstance(first, Ask):
                    await self._perform(link, first)
                else:
                    await self._move(link, first)

    async def _move(self, link: ServiceLink, move: Move) -> None:
        """What the backend keeps comes or goes; in doubt that is done again."""
        assert isinstance(link, KeepingLink)
        parts = move.parts
        try:
            if parts is None:
                parts = await link.fetch()
            else:
                await link.put_back(parts)
        except RequestRefused as refusal:
            await self._fail(str(refusal))
        else:
            self._answered()
            await self.inject(partial(setattr, self.queue, "kept", parts))

    async def _perform(self, link: ServiceLink, ask: Ask) -> None:
        reply = None
        if self._begun and self._effect(ask) is Effect.QUERYABLE:
            reply = await link.query(ask.kind, ask.data)
        self._begun += 1
        try:
            if reply is None:
                reply = await link.perform(ask.kind, ask.data)
        except RequestRefused as refusal:
            await self._fail(str(refusal))
        else:
            self._answered()
            await self.inject(partial(self.host.reply, self.place.name, ask.number, reply))

    def _effect(self, ask: Ask) -> Effect:
        return self.host.device.services[self.place.name].effects[ask.kind]

    async def _cancel(self, link: ServiceLink) -> None:
        while True:
            await self.queue.cancelled.wait()
            with suppress(RequestRefused):  # the request then comes to its own end
                await link.cancel()

    async def _failed(self, reason: str) -> None:
        """The backend is gone: see what becomes of the first request, or of all."""
        self.queue.status.failure = reason
        self.notify(
            "backend_failed",
            device=self.place.device,
            service=self.place.name,
            backend=self.spec,
            reason=reason,
        )
        self._failures += 1
        if self.queue.waiting and self._begun and self._opened:
            await self._settle_doubt(self.queue.waiting[0], reason)
        if not self._opened or self._failures >= MAX_ATTEMPTS:
            while self.queue.waiting:
                await self._fail(reason)

    async def _settle_doubt(self, ask: Ask | Move, reason: str) -> None:
        if isinstance(ask, Ask) and self._effect(ask) is Effect.AT_MOST_ONCE:
            self.notify(
                "effect_unknown",
                device=self.place.device,
                service=self.place.name,
                number=ask.number,
                kind=ask.kind,
            )
            await self._fail(reason)

    async def _fail(self, reason: str) -> None:
        first = self.queue.waiting[0]
        self._answered()
        if isinstance(first, Ask):
            await self.inject(partial(self.host.fail, self.place.name, first.number, reason))
        else:
            await self.inject(partial(setattr, self.queue, "refusal", reason))

    def _answered(self) -> None:
        self.queue.waiting.popleft()
        self._begun = self._failures = 0

    async def _refuse(self) -> None:
        while True:
            while self.queue.refused:
                number = self.queue.refused.popleft().number
                reason = f"{MAX_REQUESTS} requests wait already"
                await self.inject(partial(self.host.fail, self.place.name, number, reason))
            await self.queue.changed.wait()


@define(eq=False)
class DeviceTask:
    """One device's lanes."""

    streams: Sequence[StreamLane] = ()
    services: Sequence[ServiceLane] = ()

    async def run(self) -> None:
        """Serve them, until cancelled."""
        async with trio.open_nursery() as nursery:
            for stream in self.streams:
                nursery.start_soon(stream.run)
            for service in self.services:
                nursery.start_soon(service.run)

    async def drain(self) -> None:
        """Wait until backends have what the device sent, for at most `DRAIN_S`."""
        with trio.move_on_after(DRAIN_S):
            for lane in self.streams:
                await lane.drain()


def _reason(group: BaseExceptionGroup[BaseException]) -> str:
    """The first of what went wrong, in words."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error) or type(error).__name__
