"""Eventfds that would make their writer wait, rung from a thread of their own.

Whether an eventfd blocks belongs to its open file, which the client has as well: a client that waits in
`read` would find there what we set.  So it stays as it came.  A write waits only when the counter is
full, and then whoever filled it holds up nobody but this thread.
"""

from __future__ import annotations

import os
import queue
import threading
from contextlib import suppress
from typing import Final

from attrs import define, field

MAX_WAITING: Final = 256
"""A client that does not look needs no more."""
ONE: Final = b"\1\0\0\0\0\0\0\0"


@define(eq=False)
class Bell:
    """The thread of one function, begun when it is needed."""

    _waiting: queue.Queue[int | None] = field(factory=lambda: queue.Queue(MAX_WAITING))
    _thread: threading.Thread | None = None

    def ring(self, eventfd: int) -> None:
        """Add 1 to an eventfd, soon; it may be closed behind this."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="bell", daemon=True)
            self._thread.start()
        kept = os.dup(eventfd)
        try:
            self._waiting.put_nowait(kept)
        except queue.Full:
            os.close(kept)

    def close(self) -> None:
        """End the thread, behind what it has to do."""
        if self._thread is not None:
            with suppress(queue.Full):  # then it is stuck, and goes with the process
                self._waiting.put_nowait(None)
            self._thread = None
            self._waiting = queue.Queue(MAX_WAITING)

    def _work(self) -> None:
        waiting = self._waiting
        while (eventfd := waiting.get()) is not None:
            with suppress(OSError):  # whatever else came as an eventfd is the client's own loss
                os.write(eventfd, ONE)
            os.close(eventfd)
