"""The near ends of backends: what hooks hand over waits here, bounded, for the device task.

Nothing here waits itself.  What exceeds a bound is counted and, of requests, refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final

import trio
from attrs import define, evolve, field, frozen

from mmiod.machine.ports import BackendStatus, Keeping

MAX_QUEUED: Final = 1 << 20
"""Bytes of a stream that may wait for its backend."""
MAX_PIECES: Final = 4096
"""Of a framed stream."""
MAX_PIECE: Final = 1 << 16
"""Bytes of any other that go to its backend at once."""
MAX_REQUESTS: Final = 64
"""Requests of a service that may wait for its backend."""

NOBODY: Final = 0
"""Number of a request whose answer nobody waits for; a device's begin with 1."""


def no_hurry() -> None:
    """Nobody needs to be told that there is something for the device task."""


def not_at_once() -> bool:
    """Nobody but the device task does a request."""
    return False


@define(eq=False)
class Signal:
    """Something has changed: who waits looks again."""

    _event: trio.Event | None = None
    """None: nobody waits, as is the case for most of what changes."""

    def set(self) -> None:
        """Wake all who wait."""
        event, self._event = self._event, None
        if event is not None:
            event.set()

    async def wait(self) -> None:
        """Wait for the next `set`."""
        await self.upcoming.wait()

    @property
    def upcoming(self) -> trio.Event:
        """The next `set`, to be waited for behind a look at what may change meanwhile."""
        if self._event is None:
            self._event = trio.Event()
        return self._event


@define(eq=False)
class StreamQueue:
    """A stream's bytes between a hook and the device task."""

    status: BackendStatus
    framed: bool = False
    """Pieces are messages: they are not joined."""
    readied: Signal = field(factory=Signal)
    changed: Signal = field(factory=Signal)
    hurry: Callable[[], None] = field(default=no_hurry)
    """Called when there is something for the device task."""
    taken: bytes = b""
    """The piece that is being written."""
    _pieces: deque[bytearray] = field(factory=deque)
    _queued: int = 0

    @property
    def waiting(self) -> list[bytes]:
        """The pieces that are not being written yet."""
        return [bytes(piece) for piece in self._pieces]

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
        self.hurry()

    def ready(self) -> None:
        """Called by a hook: the device may have room."""
        self.readied.set()

    async def filled(self) -> None:
        """Wait until there is a piece to write."""
        while not (self.taken or self._pieces):
            await self.changed.wait()

    def take(self) -> bytes:
        """The next piece, the same one until `wrote` or `dropped` ends it."""
        if self.taken:
            return self.taken
        if self.framed or len(self._pieces[0]) <= MAX_PIECE:
            self.taken = bytes(self._pieces.popleft())
        else:
            self.taken = bytes(self._pieces[0][:MAX_PIECE])
            del self._pieces[0][:MAX_PIECE]
        return self.taken

    def wrote(self, count: int) -> None:
        """Bytes of the piece have reached the backend."""
        self._queued -= count
        self.taken = self.taken[count:]
        self.changed.set()

    def dropped(self) -> None:
        """The piece is lost with its backend."""
        self.status.lost += len(self.taken)
        self.wrote(len(self.taken))


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
    """There is a request for the device task."""
    ended: Signal = field(factory=Signal)
    """A request is over: no reason for the device task to wake up."""
    cancelled: Signal = field(factory=Signal)
    hurry: Callable[[], None] = field(default=no_hurry)
    """Called when there is something for the device task."""
    at_once: Callable[[], bool] = field(default=not_at_once)
    """Called when there is a request; whether the device task need not hear of it."""
    waiting: deque[Ask | Move] = field(factory=deque)
    """The first one may be under way."""
    refused: deque[Ask] = field(factory=lambda: deque(maxlen=MAX_REQUESTS))
    """What found the queue full."""
    overflown: Signal = field(factory=Signal)
    """Something is in `refused`."""
    _unwanted: int = NOBODY
    """Number of the request that is to end early."""

    @property
    def busy(self) -> bool:
        """Whether a request has no answer yet."""
        return bool(self.waiting or self.refused)

    def ask(self, number: int, kind: str, data: bytes) -> None:
        """Called by a hook: returns at once."""
        asked = Ask(number, kind, data)
        if len(self.waiting) < MAX_REQUESTS:
            self.waiting.append(asked)
            if not self.at_once():
                self.tell()
        else:
            self.refused.append(asked)
            self.overflown.set()

    def tell(self) -> None:
        """There is something for the device task."""
        self.changed.set()
        self.hurry()

    def cancel(self, number: int) -> None:
        """Called by a hook: returns at once; only a request under way can be ended early."""
        if self._is_first(number):
            self._unwanted = number
            self.cancelled.set()

    async def unwanted(self) -> None:
        """Wait until the first request is to end early, which one that has ended meanwhile is not."""
        while self._unwanted == NOBODY or not self._is_first(self._unwanted):
            await self.cancelled.wait()
        self._unwanted = NOBODY

    def _is_first(self, number: int) -> bool:
        first = self.waiting[0] if self.waiting else None
        return isinstance(first, Ask) and first.number == number

    def disown(self, last: int) -> None:
        """Called by a restart: who asked for more does not know it any more."""
        for queue in (self.waiting, self.refused):
            for place, found in enumerate(queue):
                if isinstance(found, Ask) and found.number > last:
                    queue[place] = evolve(found, number=NOBODY)

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
