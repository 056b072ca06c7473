"""pvpanic as a PCI function: the guest reports its own crash.

Specification: QEMU docs/specs/pvpanic.rst, the PCI form: 1B36h:0011h, BAR 0 with two bytes of
memory, of which byte 0 is the register.

Not modelled: SHUTDOWN (bit 2).  Nothing grows; the log of events is rate-limited.
"""

from __future__ import annotations

import enum

from mmiod.device import Register
from mmiod.device.pci import Bar, Identity, PciFunction

API = 1


class Event(enum.IntFlag):
    """What the guest reports; a read says what it may report."""

    PANICKED = 1
    CRASH_LOADED = 2


class PciPvPanic(PciFunction):
    """1B36h is Red Hat's, 0011h its pvpanic."""

    identity = Identity(0x1B36, 0x0011, 0x088000, revision=1, subsystem_vendor=0x1AF4, subsystem=0x1100)

    # Two bytes are in use; no memory BAR has less than 16.
    main = Bar(16, number=0)

    events = Register(0, access="r", mask=3, reset=3, fields=Event, region=main)

    @events.on_write
    def _reported(self, value: int) -> None:
        self.context.notify("guest_panicked", events=value)
