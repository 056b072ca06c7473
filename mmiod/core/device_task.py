"""The device task: awaits what a device's backends do, so that its hooks never wait.

    hook -> StreamQueue, RequestQueue -> lane -> backend        what a device sends
    backend -> lane -> `inject` -> hook                         what comes back, in order

A stream or service has a *lane*, which keeps its backend open.  A hook hands bytes or a
request to a queue and returns; a backend that does not keep up costs its stream bytes,
which are counted, and never the guest any time.  Inputs go to the device one at a time
through `inject`, which runs them in the core and waits while the VM is paused; of a
stream a lane reads only what the device has room for.

A stream's backend that fails is opened again after a pause.  A service's is opened when
the next request comes; what was under way is done again only if its effect is idempotent,
or if the backend can tell that it was not done.  (Timers have one queue per machine and
not one per device task: in virtual time their order across devices is part of the result.)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio
from attrs import define

from mmiod.core.service_lane import ServiceLane
from mmiod.core.stream_lane import StreamLane

DRAIN_S: Final = 1.0
"""For what is still on its way to backends when the daemon stops."""


@define(eq=False)
class DeviceTask:
    """One device's lanes."""

    streams: Sequence[StreamLane] = ()
    services: Sequence[ServiceLane] = ()

    async def run(self) -> None:
        """Serve them, until cancelled."""
        async with trio.open_nursery() as nursery:
            for stream in self.streams:
                nursery.start_soon(stream.run)
            for service in self.services:
                nursery.start_soon(service.run)

    async def drain(self) -> None:
        """Wait until backends have what the device sent, for at most `DRAIN_S`."""
        with trio.move_on_after(DRAIN_S):
            for lane in self.streams:
                await lane.drain()

    async def rest(self) -> None:
        """Come to rest: what is open stays open, and nothing is half done."""
        async with trio.open_nursery() as nursery:
            for stream in self.streams:
                nursery.start_soon(stream.rest)
            for service in self.services:
                nursery.start_soon(service.rest)

    def go_on(self) -> None:
        """End the rest."""
        for gate in (*(lane.gate for lane in self.streams), *(lane.gate for lane in self.services)):
            gate.open()
