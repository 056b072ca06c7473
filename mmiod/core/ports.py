"""The near ends of backends: what hooks hand over waits here, bounded, for the device task.

Nothing here waits itself.  What exceeds a bound is counted and, of requests, refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import trio
from attrs import define, field, frozen

from mmiod.machine.ports import BackendStatus, Keeping

MAX_QUEUED: Final = 1 << 20
"""Bytes of a stream that may wait for its backend."""
MAX_PIECES: Final = 4096
"""Of a framed stream."""
MAX_REQUESTS: Final = 64
"""Requests of a service that may wait for its backend."""


@define(eq=False)
class Signal:
    """Something has changed: who waits looks again."""

    _event: trio.Event = field(factory=trio.Event)

    def set(self) -> None:
        """Wake all who wait."""
        self._event.set()
        self._event = trio.Event()

    async def wait(self) -> None:
        """Wait for the next `set`."""
        await self._event.wait()


@define(eq=False)
class StreamQueue:
    """A stream's bytes between a hook and the device task."""

    status: BackendStatus
    framed: bool = False
    """Pieces are messages: they are not joined."""
    readied: Signal = field(factory=Signal)
    changed: Signal = field(factory=Signal)
    _pieces: deque[bytearray] = field(factory=deque)
    _queued: int = 0

    @property
    def queued(self) -> int:
        """Bytes that wait, those that are being written included."""
        return self._queued

    def put(self, data: bytes) -> None:
        """Called by a hook: returns at once."""
        taken = data[: MAX_QUEUED - self._queued]
        if self.framed and (len(taken) < len(data) or len(self._pieces) >= MAX_PIECES):
            taken = b""
        self.status.lost += len(data) - len(taken)
        if not taken:
            return
        self._queued += len(taken)
        if self.framed or not self._pieces:
            self._pieces.append(bytearray(taken))
        else:
            self._pieces[-1] += taken
        self.changed.set()

    def ready(self) -> None:
        """Called by a hook: the device may have room."""
        self.readied.set()

    async def take(self) -> bytes:
        """The next piece; `wrote` or `dropped` ends it."""
        while not self._pieces:
            await self.changed.wait()
        return bytes(self._pieces.popleft())

    def wrote(self, count: int) -> None:
        """Bytes have reached the backend."""
        self._queued -= count
        self.changed.set()

    def dropped(self, count: int) -> None:
        """Bytes are lost with their backend."""
        self.status.lost += count
        self.wrote(count)


@frozen
class Ask:
    """One request."""

    number: int
    kind: str
    data: bytes


@frozen
class Move:
    """What a backend keeps goes with its VM: `parts` are for it, or (None) it is asked for them."""

    parts: Mapping[str, bytes] | None


@define(eq=False)
class RequestQueue:
    """A service's requests between a hook and the device task."""

    status: BackendStatus
    keeping: Keeping | None = None
    kept: Mapping[str, bytes] | None = None
    refusal: str | None = None
    changed: Signal = field(factory=Signal)
    cancelled: Signal = field(factory=Signal)
    waiting: deque[Ask | Move] = field(factory=deque)
    """The first one may be under way."""
    refused: deque[Ask] = field(factory=lambda: deque(maxlen=MAX_REQUESTS))
    """What found the queue full."""

    @property
    def busy(self) -> bool:
        """Whether a request has no answer yet."""
        return bool(self.waiting or self.refused)

    def ask(self, number: int, kind: str, data: bytes) -> None:
        """Called by a hook: returns at once."""
        queue = self.waiting if len(self.waiting) < MAX_REQUESTS else self.refused
        queue.append(Ask(number, kind, data))
        self.changed.set()

    def cancel(self, number: int) -> None:
        """Called by a hook: returns at once; only a request under way can be ended early."""
        first = self.waiting[0] if self.waiting else None
        if isinstance(first, Ask) and first.number == number:
            self.cancelled.set()

    def fetch(self) -> None:
        """Ask what the backend keeps, behind the requests that wait."""
        self._move(Move(None))

    def put_back(self, parts: Mapping[str, bytes]) -> None:
        """Hand it what it kept, behind the requests that wait."""
        self._move(Move(parts))

    def _move(self, move: Move) -> None:
        self.kept = self.refusal = None
        self.waiting.append(move)
        self.changed.set()

    async def first(self) -> Ask | Move:
        """The request that is to be done; it stays until it is answered."""
        while not self.waiting:
            await self.changed.wait()
        return self.waiting[0]
