"""A thread of a link's own, for calls that may wait for the host.

`trio.to_thread` hands each call to a pool by a lock, and takes its result through the event loop's
queue.  Here both sides sleep on an eventfd each: that is half the time, and half the CPU time.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

import trio
from attrs import define, field


@define(eq=False)
class OwnThread:
    """Does one call at a time, until it is closed."""

    _begun: int = field(factory=lambda: os.eventfd(0, os.EFD_CLOEXEC))
    _ended: int = field(factory=lambda: os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
    _thread: threading.Thread = field(init=False)
    _call: Callable[[], bytes] | None = None
    """None: the thread is to end."""
    _result: bytes | Exception = b""

    def __attrs_post_init__(self) -> None:
        """Begin; the interpreter does not wait for it."""
        self._thread = threading.Thread(target=self._run, name="mmiod-link", daemon=True)
        self._thread.start()

    async def do(self, call: Callable[[], bytes]) -> bytes:
        """What a call returns, or raises; who is cancelled meanwhile waits for its end,
        as there is no way to end a call of the host's that hangs.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        self._call = call
        os.eventfd_write(self._begun, 1)
        try:
            await trio.lowlevel.wait_readable(self._ended)
        except trio.Cancelled:  # what comes next will be told, too
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(self._ended)
        os.eventfd_read(self._ended)
        result, self._result, self._call = self._result, b"", None
        if isinstance(result, Exception):
            raise result
        return result

    def close(self) -> None:
        """End the thread, which does nothing now."""
        self._call = None
        os.eventfd_write(self._begun, 1)
        self._thread.join()
        os.close(self._begun)
        os.close(self._ended)

    # --- in the thread ---------------------------------------------------------------------

    def _run(self) -> None:
        while os.eventfd_read(self._begun) and self._call is not None:
            try:
                self._result = self._call()
            except Exception as error:  # noqa: BLE001  # it is whose call it was
                self._result = error
            os.eventfd_write(self._ended, 1)
