"""The task that brings a machine's failed devices back, when their time has come."""

from __future__ import annotations

from functools import partial

import trio

from mmiod.core.gate import Inject
from mmiod.machine.machine import Machine
from mmiod.machine.restart import restart


async def keep_restarting(machine: Machine, inject: Inject) -> None:
    """Restart what is due, until cancelled; while the VM is off or paused that waits."""
    backoff = machine.backoff
    while True:
        changed = trio.Event()
        backoff.on_change = changed.set
        with trio.move_on_after(backoff.delay_s):
            await changed.wait()
        for device in backoff.ready():
            await inject(partial(restart, machine, device))
