"""One service of a device, and its backend."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

import trio
from attrs import define, field

from mmiod.core.backends.faces import (
    KeepingLink,
    Place,
    QuickLink,
    RequestRefused,
    ServiceBackend,
    ServiceLink,
)
from mmiod.core.gate import FAILURES, Gate, Inject, Notify, ShortWay, reason_of
from mmiod.core.ports import MAX_REQUESTS, NOBODY, Ask, Move, RequestQueue
from mmiod.device import Effect
from mmiod.machine.host import InlineHost
from mmiod.machine.ports import BackendStatus

DRAIN_S: Final = 1.0
"""For a request that is being done when the daemon is to rest."""
MAX_ATTEMPTS: Final = 3
"""To open a service's backend for one request, if it fails again and again."""


@define(eq=False)
class ServiceLane:
    """One service and its backend."""

    place: Place
    spec: str
    backend: ServiceBackend
    host: InlineHost
    inject: Inject
    notify: Notify
    short: ShortWay
    queue: RequestQueue = field(init=False)
    gate: Gate = field(factory=Gate)
    _quick: QuickLink | None = None
    """The link, while its task waits for a request."""
    _scheduled: bool = False
    """The core is about to try the first request."""
    _opened: bool = False
    _begun: int = 0
    """How often the first request may have been done."""
    _failures: int = 0
    """How often the backend failed while it waited."""
    _reply: bytes | None = None
    """To the first request, while its device takes no inputs."""

    def __attrs_post_init__(self) -> None:
        """Make the queue."""
        self.queue = RequestQueue(BackendStatus(self.spec), self.backend.keeping)
        self.queue.at_once = self._at_once

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
                    await self._failed(reason_of(group))

    async def _serve(self) -> None:
        async with self.backend.open() as link, trio.open_nursery() as nursery:
            self._opened, self.queue.status.failure = True, None
            self.notify(
                "backend_opened", device=self.place.device, service=self.place.name, backend=self.spec
            )
            nursery.start_soon(link.watch)
            nursery.start_soon(self._cancel, link)
            quick = link if isinstance(link, QuickLink) else None
            while True:
                self._quick = quick
                try:
                    first = await self.queue.first()
                finally:
                    self._quick = None
                await self.gate.passed()
                if isinstance(first, Ask):
                    await self._perform(link, first)
                else:
                    await self._move(link, first)

    def _at_once(self) -> bool:
        """Called by a hook that asked: whether the core does that, behind what it does now."""
        if not self._scheduled and self._quick_ask() is not None:
            self._scheduled = True
            self.short.soon(self._try)
        return self._scheduled

    def _quick_ask(self) -> Ask | None:
        """The first request, if nobody is at it and it may be done in next to no time."""
        link, waiting = self._quick, self.queue.waiting
        if link is None or self._begun or not waiting or not self.gate.is_open:
            return None
        first = waiting[0]
        return first if isinstance(first, Ask) and first.kind in link.quick else None

    def _try(self) -> None:
        """Do one, so that others have their turn; the task hears of what is left."""
        self._scheduled = False
        link, ask = self._quick, self._quick_ask()
        if link is not None and ask is not None:
            self._begun += 1
            try:
                self._reply = link.at_once(ask.kind, ask.data)
            except RequestRefused as refusal:
                self.short.inject(partial(self._refused, str(refusal)))
            else:
                if self._reply is not None:
                    self.short.inject(partial(self._replied, self._reply))
        if self.queue.waiting and not self._at_once():
            self.queue.tell()

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
            await self.inject(partial(self._moved, parts))

    def _moved(self, parts: Mapping[str, bytes]) -> None:
        self._end()
        self.queue.kept = parts

    async def _perform(self, link: ServiceLink, ask: Ask) -> None:
        """Do a request and hand the reply over, which may take longer than the link lasts."""
        if self._reply is None:
            try:
                self._reply = await self._result(link, ask)
            except RequestRefused as refusal:
                await self._fail(str(refusal))
                return
        await self.inject(partial(self._replied, self._reply))

    async def _result(self, link: ServiceLink, ask: Ask) -> bytes:
        reply = None
        if self._begun and self._effect(ask) is Effect.QUERYABLE:
            reply = await link.query(ask.kind, ask.data)
        self._begun += 1
        return await link.perform(ask.kind, ask.data) if reply is None else reply

    def _replied(self, reply: bytes) -> None:
        request = self._end()
        if isinstance(request, Ask) and request.number != NOBODY:
            self.host.reply(self.place.name, request.number, reply)

    async def rest(self) -> None:
        """Begin no request, and wait a while for the one that is being done."""
        await self.gate.shut()
        with trio.move_on_after(DRAIN_S):
            while self._begun and self._reply is None:
                await self.queue.ended.wait()

    @property
    def doubtful(self) -> bool:
        """Whether the first request has begun: it may have been done."""
        return self._begun > 0

    @property
    def unrepeatable(self) -> bool:
        """Whether that must not be done again."""
        first = self.queue.waiting[0] if self.queue.waiting and self._begun else None
        return isinstance(first, Move) or (
            isinstance(first, Ask) and self._effect(first) is Effect.AT_MOST_ONCE
        )

    def go_on(self, asks: Iterable[Ask], *, doubtful: bool) -> None:
        """Do what another lane of this service was asked; it may have done the first."""
        self.queue.waiting.extend(asks)
        self._begun = int(doubtful)

    def _effect(self, ask: Ask) -> Effect:
        return self.host.device.services[self.place.name].effects[ask.kind]

    async def _cancel(self, link: ServiceLink) -> None:
        while True:
            await self.queue.unwanted()
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
        if self.queue.waiting and self._begun and self._opened and self._reply is None:
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
        await self.inject(partial(self._refused, reason))

    def _refused(self, reason: str) -> None:
        request = self._end()
        if isinstance(request, Move):
            self.queue.refusal = reason
        elif request.number != NOBODY:
            self.host.fail(self.place.name, request.number, reason)

    def _end(self) -> Ask | Move:
        """The first request is over: it leaves the queue in the same moment in which its device is told."""
        self._begun = self._failures = 0
        self._reply = None
        self.queue.ended.set()
        return self.queue.waiting.popleft()

    async def _refuse(self) -> None:
        while True:
            while self.queue.refused:
                await self.inject(self._full)
            await self.queue.overflown.wait()

    def _full(self) -> None:
        number = self.queue.refused.popleft().number
        if number != NOBODY:
            self.host.fail(self.place.name, number, f"{MAX_REQUESTS} requests wait already")
