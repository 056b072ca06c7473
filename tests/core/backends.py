"""A device with streams and a service, and its lanes under way, without a VM around them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field

from mmiod.core.backends.faces import Place, ServiceBackend, StreamBackend
from mmiod.core.device_task import DeviceTask
from mmiod.core.gate import ShortWay
from mmiod.core.ports import Signal
from mmiod.core.wiring import Backends, choose, connect
from mmiod.device import Device, Effect, Requests, Stream
from mmiod.device.block import Blocks
from mmiod.machine.description import BackendDescription, DeviceDescription
from tests.machine.machines import Rig

PATIENCE_S = 60


class Peripheral(Device):
    """Keeps what comes, takes at most `space` bytes."""

    length = 1
    serial = Stream()
    debug = Stream()
    disk = Requests(
        {
            "initialize": Effect.IDEMPOTENT,
            "execute": Effect.AT_MOST_ONCE,
            "ask": Effect.QUERYABLE,
        }
    )
    image = Blocks()
    received: bytearray
    answers: list[tuple[int, bytes | str]]
    space: int

    def on_reset(self) -> None:
        """Nothing has come yet."""
        self.received, self.answers, self.space = bytearray(), [], 1 << 20

    @serial.room
    def _room(self) -> int:
        return self.space - len(self.received)

    @serial.on_receive
    def _arrived(self, data: bytes) -> None:
        self.received += data

    @image.on_reply
    @disk.on_reply
    def _replied(self, number: int, data: bytes) -> None:
        self.answers.append((number, data))

    @image.on_failure
    @disk.on_failure
    def _failed(self, number: int, reason: str) -> None:
        self.answers.append((number, reason))


@define(eq=False)
class Bench:
    """One device whose backends are served; `until` waits for what they do."""

    rig: Rig = field(init=False)
    task: DeviceTask = field(factory=DeviceTask)
    changed: Signal = field(factory=Signal)

    def __attrs_post_init__(self) -> None:
        """Build the machine."""
        self.rig = Rig({"dev": (Peripheral, DeviceDescription("test/peripheral"))})
        self.rig.machine.reset()

    @property
    def device(self) -> Peripheral:
        """The device."""
        device = self.rig.machine.hosts["dev"].device
        assert isinstance(device, Peripheral)
        return device

    @property
    def events(self) -> list[str]:
        """Names of what was reported."""
        return [name for name, _ in self.rig.events]

    def facts(self, name: str) -> dict[str, object]:
        """Of the last event of this name."""
        return next(facts for event, facts in reversed(self.rig.events) if event == name)

    @property
    def where(self) -> str:
        """Of stream `serial`."""
        return self.rig.machine.backends["dev", "serial"].status.where

    async def inject(self, action: Callable[[], None]) -> None:
        """What an attachment does for a VM that runs."""
        self.inject_now(action)

    def inject_now(self, action: Callable[[], None]) -> bool:
        """That, at once."""
        action()
        self.changed.set()
        return True

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait for something to be true that inputs and events bring about."""
        with trio.fail_after(PATIENCE_S):
            while not holds():
                await self.changed.wait()


@asynccontextmanager
async def serving(
    directory: Path = Path(),
    *,
    streams: dict[str, StreamBackend] | None = None,
    service: ServiceBackend | None = None,
    **specs: BackendDescription,
) -> AsyncIterator[Bench]:
    """Lanes under way, of backends by spec or as they are; drained and cancelled as by the daemon."""
    bench = Bench()
    place = Place("vm", "dev", "", directory)
    chosen = choose(Peripheral, place, specs) if specs else Backends()
    for name, backend in (streams or {}).items():
        chosen.streams.append((Place("vm", "dev", name, directory), "test", backend))
    if service is not None:
        chosen.services[:] = [(Place("vm", "dev", "disk", directory), "test", service)]
    bench.rig.machine.notify = _telling(bench, bench.rig.machine.notify)
    short = ShortWay(trio.lowlevel.current_trio_token().run_sync_soon, bench.inject_now)
    bench.task = connect(bench.rig.machine, "dev", chosen, bench.inject, short)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.task.run)
        yield bench
        await bench.task.drain()
        nursery.cancel_scope.cancel()


def _telling(bench: Bench, notify: Callable[..., None]) -> Callable[..., None]:
    def tell(event: str, **facts: object) -> None:
        notify(event, **facts)
        bench.changed.set()

    return tell
