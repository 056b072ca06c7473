"""Fires the timers of a machine whose clock runs by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from mmiod.machine.clock import MachineClock

LONGEST_S: Final = 3600.0


async def keep_time(clock: MachineClock, fire: Callable[[], None]) -> None:
    """Call `fire` whenever a timer is due, until cancelled."""
    while True:
        changed = trio.Event()
        clock.on_change = changed.set
        clock.awaited_ns = deadline_ns = clock.deadline_ns  # a later one need not wake us
        delay_s = max(0.0, (deadline_ns - clock.now_ns) / 1e9) if clock.runs else LONGEST_S
        with trio.move_on_after(min(delay_s, LONGEST_S)):
            await changed.wait()
        if clock.runs:
            fire()
