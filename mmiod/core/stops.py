"""The task that ends accesses which stood for too long at a break."""

from __future__ import annotations

from collections.abc import Callable

import trio

from mmiod.machine.breaks import Breaks


async def keep_ending(breaks: Breaks, settle: Callable[[], None]) -> None:
    """End what is due, and call `settle`, until cancelled."""
    while True:
        changed = trio.Event()
        breaks.on_change = changed.set
        with trio.move_on_after(breaks.delay_s):
            await changed.wait()
        if breaks.expire():
            settle()
