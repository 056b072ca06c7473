"""A thread of a link's own, for calls that may wait for the host.

`trio.to_thread` hands each call to a pool by a lock, and takes its result through the event loop's
queue.  Here both sides sleep on an eventfd each: that is half the time, and half the CPU time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from time import monotonic_ns
from typing import Final

import trio
from attrs import define, field

from mmiod.core.spin import Spin

PATIENCE_NS: Final = 100_000
"""That the core waits at most for a call that usually takes less."""
NS_PER_S: Final = 1_000_000_000


@define(eq=False)
class OwnThread:
    """Does one call at a time, until it is closed."""

    _begun: int = field(factory=lambda: os.eventfd(0, os.EFD_CLOEXEC))
    """A lock here would wake the thread before it can have the interpreter: it would sleep twice."""
    _ended: threading.Lock = field(factory=threading.Lock)
    """Locked until a call has ended."""
    _late: int = field(factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    """Tells of that who waits in the event loop."""
    _awaited: bool = False
    """Somebody does; what it is told may be past."""
    patience: Spin = field(factory=lambda: Spin(PATIENCE_NS))
    """How long `soon` waits: what comes later makes that less."""
    _thread: threading.Thread = field(init=False)
    _call: Callable[[], bytes] | None = None
    """None: the thread is to end."""
    _result: bytes | Exception = b""
    busy: bool = False
    """Whether a call has begun whose result nobody has taken."""

    def __attrs_post_init__(self) -> None:
        """Begin; the interpreter does not wait for it."""
        self._ended.acquire()
        self._thread = threading.Thread(target=self._run, name="mmiod-link", daemon=True)
        self._thread.start()

    def begin(self, call: Callable[[], bytes]) -> None:
        """Let the thread do a call."""
        self._call, self.busy = call, True
        self.patience.since_ns = monotonic_ns()
        os.eventfd_write(self._begun, 1)

    def soon(self) -> bytes | None:
        """What the call returns, or raises, if it ends within a moment, in which nothing else is done."""
        ended = self._ended.acquire(timeout=self.patience.budget_ns / NS_PER_S)
        return self._taken() if ended else None

    async def end(self) -> bytes:
        """What the call returns, or raises; who is cancelled meanwhile waits for its end,
        as there is no way to end a call of the host's that hangs.
        """
        with trio.CancelScope(shield=True):  # what comes next will be told, too
            self._awaited = True
            while not self._ended.acquire(blocking=False):
                await trio.lowlevel.wait_readable(self._late)
                os.eventfd_read(self._late)
            self._awaited = False
        self.patience.woken(monotonic_ns())
        return self._taken()

    def _taken(self) -> bytes:
        result, self._result, self._call, self.busy = self._result, b"", None, False
        if isinstance(result, Exception):
            raise result
        return result

    def close(self) -> None:
        """End the thread, which does nothing now."""
        self._call = None
        os.eventfd_write(self._begun, 1)
        self._thread.join()
        os.close(self._begun)
        os.close(self._late)

    # --- in the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while os.eventfd_read(self._begun) and self._call is not None:
            try:
                self._result = self._call()
            except Exception as error:  # noqa: BLE001  # it is whose call it was
                self._result = error
            self._ended.release()
            if self._awaited:
                os.eventfd_write(self._late, 1)
