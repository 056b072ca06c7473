"""pvpanic, ISA form: the guest reports its own crash."""

from __future__ import annotations

import enum

from mmiod.device import Device, Register

API = 1


class Event(enum.IntFlag):  # noqa: D101
    PANICKED = 1
    CRASH_LOADED = 2


class PvPanic(Device):
    """One port.  Spec: QEMU docs/specs/pvpanic.rst.  Not modelled: SHUTDOWN (bit 2).  Nothing grows."""

    length = 1
    events = Register(0, access="r", mask=3, reset=3, fields=Event)

    @events.on_write
    def _reported(self, value: int) -> None:
        self.context.notify("guest_panicked", events=value)
