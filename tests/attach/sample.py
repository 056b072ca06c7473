"""What libvfio-user's sample server makes up, as a function: BAR 0 is a time at which INTx rises.

It exists to be met by libvfio-user's own sample client (samples/client.c), which has it write to guest
memory then: one page by messages and one directly, so that the log of written pages has the second.
"""

from __future__ import annotations

from hashlib import shake_128
from typing import Final

from attrs import define

from mmiod.device import MemoryRead, MemoryWrite, Moves, Register, Storage, Timer, Work
from mmiod.device.pci import Bar, Identity, PciFunction

NS_PER_S: Final = 1_000_000_000
PAGE: Final = 4096
PART: Final = 1024
"""Bytes of one message of that client's."""
LATER: Final = 16 * PAGE
"""Where its memory begins when it has unmapped the first half."""


@define
class SampleState:
    """What is in no register."""

    at_s: int = 0
    """The time that was written."""
    faults: int = 0
    """Bytes that came back otherwise than they went."""


class SampleFunction(PciFunction):
    """BAR 0, 8 bytes: a write of seconds since 1970 sets an alarm, a read gives its age; BAR 1 is RAM.

    At the alarm INTx rises, a page is written and read by a `Work`, and the next page is written.

    The client counts the messages in which a state comes: the early one has 12 at least, whether it
    has written to BAR 1 by then or not, the last one 13.  So what is in there at first is noise.
    """

    identity = Identity(0xDEAD, 0xBEEF, 0x00FF00, subsystem_vendor=0xCAFE, subsystem=0xBABE)
    interrupt_pin_number = 1
    times = Bar(16, number=0)
    window = Bar(4 * PAGE, number=1)
    content = Storage(0, 4 * PAGE, region=window)
    alarm = Timer()
    moving = Work()
    state: SampleState
    time = Register(0, size=8, whole=True, region=times)

    def on_reset(self) -> None:
        """Fill what the client fills."""
        self.content.write(0, shake_128(b"noise").digest(3 * PAGE))

    @time.on_write
    def _set(self, seconds: int) -> None:
        self.set_intx(False)
        self.state.at_s = seconds
        self.alarm.set(self.clock.now_ns + max(seconds - self.clock.wall_s, 0) * NS_PER_S)

    @time.value
    def _age(self) -> int:
        return (self.clock.wall_s - self.state.at_s) % (1 << 64)

    @alarm.on_fire
    def _rung(self) -> None:
        self.set_intx(True)
        self.moving.start()

    @moving.on_run
    def _move(self) -> Moves:
        start = 0 if self.memory.holds(0, PAGE) else LATER
        for place in range(0, PAGE, PART):
            yield MemoryWrite(start + place, _letters(place))
        for place in range(0, PAGE, PART):
            data = yield MemoryRead(start + place, PART)
            self.state.faults += data != _letters(place)
        self.memory.write(start + PAGE, _letters(0))


def _letters(place: int) -> bytes:
    return bytes([ord("A") + place // PART]) * PART
