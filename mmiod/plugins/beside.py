"""A class is made beside the core, which goes on answering exits."""

from __future__ import annotations

import sys
from typing import Final

import trio

from mmiod.device import Device
from mmiod.machine.plain import byte_form
from mmiod.plugins.loader import Source, make

SWITCH_S: Final = 0.00005
"""How long the core waits for the interpreter at most while a class is made."""


async def load(source: Source) -> type[Device]:
    """Make the class in a thread, which lets go of the interpreter often: some 10 ms of work."""

    def made() -> type[Device]:
        loaded = make(source)
        byte_form(loaded)  # compiles what the hand-over will use
        return loaded

    before = sys.getswitchinterval()
    sys.setswitchinterval(SWITCH_S)
    try:
        return await trio.to_thread.run_sync(made)
    finally:
        sys.setswitchinterval(before)
