"""Every request is answered once, to whoever made it, whatever happens to its lane meanwhile."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress

import pytest
import trio
import trio.testing
from attrs import Factory, define, field

from mmiod.core.backends.faces import BackendFailed, Place, RequestRefused, ServiceLink
from mmiod.core.device_task import DeviceTask
from mmiod.core.gate import ShortWay
from mmiod.core.ports import MAX_REQUESTS, Signal
from mmiod.core.wiring import Backends, connect
from mmiod.device import Device, Effect, Register, Requests
from mmiod.machine.backoff import FIRST_NS, MAX_ATTEMPTS
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.handover import prepare
from mmiod.machine.mark import HookDeadlineExceeded
from mmiod.machine.replay import Replay
from mmiod.machine.restart import restart
from mmiod.values import WRITE, Space
from tests.machine.machines import Rig

REQUESTS = 500
"""Of each seed."""
SEEDS = 12
PATIENCE_S = 60
KINDS = ("get", "query", "spend")


@define
class Asked:
    """What a device waits for, by number, and what it was answered."""

    waits: dict[int, str] = Factory(dict)
    wrong: list[int] = Factory(list)
    answered: int = 0
    failed: dict[str, int] = Factory(dict)


late: list[bool] = []
"""Whether the next hooks have no time."""


class Asker(Device):
    """Each request has its own content, which comes back."""

    length = 4
    state: Asked
    disk = Requests({"get": Effect.IDEMPOTENT, "query": Effect.QUERYABLE, "spend": Effect.AT_MOST_ONCE})
    ask = Register(0, size=4)

    @ask.on_write
    def _ask(self, value: int) -> None:
        content = f"{value}"
        self.state.waits[self.disk.send(KINDS[value % len(KINDS)], content.encode())] = content

    @disk.on_reply
    def _replied(self, number: int, data: bytes) -> None:
        if self.state.waits.pop(number, None) != data.decode():
            self.state.wrong.append(number)
        self.state.answered += 1
        if not isinstance(self.context, Replay) and late and late.pop():
            raise HookDeadlineExceeded

    @disk.on_failure
    def _failed(self, number: int, reason: str) -> None:
        if self.state.waits.pop(number, None) is None:
            self.state.wrong.append(number)
        self.state.failed[reason] = self.state.failed.get(reason, 0) + 1


@define(eq=False)
class Service:
    """Echoes after a while or at once, refuses, dies, or does not open."""

    chance: random.Random
    kinds = quick = frozenset(KINDS)
    keeping = None
    owns = ""
    done: list[str] = field(factory=list)
    """What may be done once only."""
    _dies: trio.Event = field(factory=trio.Event)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ServiceLink]:
        """Succeed, mostly."""
        await self._turns()
        if self.chance.random() < 0.02:
            raise OSError("not now")
        self._dies = trio.Event()
        yield self

    async def _turns(self) -> None:
        for _ in range(self.chance.randrange(4)):
            await trio.lowlevel.checkpoint()

    async def perform(self, kind: str, data: bytes) -> bytes:
        """Echo."""
        if kind == "spend":
            self.done.append(data.decode())
        await self._turns()
        match self.chance.randrange(100):
            case 0:
                raise RequestRefused("refused")
            case 1:
                raise BackendFailed("died")
            case 2 | 3 | 4:
                self._dies.set()
                await self._turns()
        return data

    def at_once(self, kind: str, data: bytes) -> bytes | None:
        """Echo, mostly."""
        match self.chance.randrange(10):
            case 0:
                raise RequestRefused("refused at once")
            case 1 | 2:
                return None
            case 3:
                self._dies.set()
        if kind == "spend":
            self.done.append(data.decode())
        return data

    async def query(self, kind: str, data: bytes) -> bytes | None:  # noqa: ARG002
        """Know, or not."""
        await self._turns()
        return data if self.chance.random() < 0.5 else None

    async def cancel(self) -> None:
        """Nothing ends early."""
        await self._turns()

    async def watch(self) -> None:
        """Die while something else is done."""
        await self._dies.wait()
        raise BackendFailed("died beside a request")


@define(eq=False)
class World:
    """A machine that is paused, reloaded, restarted and brought to rest while its device asks."""

    chance: random.Random
    rig: Rig = field(init=False)
    service: Service = field(init=False)
    task: DeviceTask = field(factory=DeviceTask)
    on: bool = True
    changed: Signal = field(factory=Signal)

    def __attrs_post_init__(self) -> None:
        """Build it."""
        described = DeviceDescription("asker", at={"main": Placement(Space.MMIO, 0)})
        self.rig = Rig({"dev": (Asker, described)})
        self.service = Service(self.chance)
        place = Place("vm", "dev", "disk")
        chosen = Backends(services=[(place, "test", self.service)])
        short = ShortWay(trio.lowlevel.current_trio_token().run_sync_soon, self.inject_now)
        self.task = connect(self.rig.machine, "dev", chosen, self.inject, short)

    @property
    def state(self) -> Asked:
        """The device's."""
        device = self.rig.machine.hosts["dev"].device
        assert isinstance(device, Asker)
        return device.state

    async def inject(self, action: Callable[[], None]) -> None:
        """As an attachment does."""
        while not self.inject_now(action):
            await self.changed.wait()

    def inject_now(self, action: Callable[[], None]) -> bool:
        """As an attachment does."""
        if not self.on:
            return False
        action()
        self.changed.set()
        return True

    def switch(self, *, on: bool) -> None:
        """Take inputs, or not."""
        self.on = on
        self.changed.set()

    async def ask(self) -> None:
        """The guest's part."""
        for number in range(REQUESTS):
            if self.rig.machine.hosts["dev"].serves:
                self.rig.access(Space.MMIO, 0, 4, WRITE, number)
            for _ in range(self.chance.randrange(12)):
                await trio.lowlevel.checkpoint()
            while len(self.state.waits) > MAX_REQUESTS + 10:
                await self.changed.wait()

    async def disturb(self) -> None:
        """Everybody else's."""
        machine, generation = self.rig.machine, 1
        while True:
            for _ in range(self.chance.randrange(40)):
                await trio.lowlevel.checkpoint()
            match self.chance.randrange(6):
                case 0:
                    self.switch(on=not self.on)
                case 1:
                    await self.task.rest()
                    self.task.go_on()
                case 2:
                    generation += 1
                    prepare(machine, Asker, {"dev": None}).commit(generation)
                    self.changed.set()
                case 3 if not self.chance.randrange(4):
                    late.append(True)
                case _:
                    self.rig.now += FIRST_NS << MAX_ATTEMPTS
                    for device in machine.backoff.ready():
                        restart(machine, device)
                        self.changed.set()
            if not self.on and self.chance.random() < 0.2:
                self.switch(on=True)


@pytest.mark.parametrize("seed", range(SEEDS))
async def test_every_request_is_answered_once(
    seed: int, monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    """Backends refuse and die, the VM is paused, the device reloaded, late and restarted, lanes rest.

    What may be done at most once is.
    """
    monkeypatch.setattr("trio._core._run._r", random.Random(seed))
    world = World(random.Random(seed))
    late.clear()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(world.task.run)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as others:
                others.start_soon(world.disturb)
                await world.ask()
                scope.cancel()
        late.clear()
        world.switch(on=True)
        world.task.go_on()
        with suppress(trio.TooSlowError), trio.fail_after(PATIENCE_S):
            while world.state.waits or not world.rig.machine.hosts["dev"].serves:
                world.rig.now += FIRST_NS << MAX_ATTEMPTS
                for device in world.rig.machine.backoff.ready():
                    restart(world.rig.machine, device)
                await trio.sleep(0.01)
        assert ({}, []) == (world.state.waits, world.state.wrong)
        nursery.cancel_scope.cancel()
    assert len(set(world.service.done)) == len(world.service.done)
    state, client = world.state, world.rig.machine.hosts["dev"].device.clients["disk"]
    assert client.number == state.answered + sum(state.failed.values())
    assert client.number > REQUESTS / 2
    assert "refused at once" in state.failed
    assert autojump_clock is not None
