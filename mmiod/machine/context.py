"""The machine's side of one device: what a hook's calls become."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from attrs import define, field

from mmiod.device import Effect, Region, Request
from mmiod.machine.journal import Journal, NotedBus, NotedClock, NotedMemory, NotedStorage
from mmiod.values import Space

if TYPE_CHECKING:
    from mmiod.machine.machine import Machine


@define(eq=False)
class DeviceContext:
    """The machine's side of one device."""

    machine: Machine
    device: str
    journal: Journal = field(factory=Journal)
    clock: NotedClock = field(init=False)
    memory: NotedMemory = field(init=False)
    bus: NotedBus = field(init=False)
    storage: NotedStorage = field(init=False)

    def __attrs_post_init__(self) -> None:
        """What the device asks is noted."""
        self.clock = NotedClock(self.machine.clock, self.journal)
        self.memory = NotedMemory(self.machine.memory_of(self.device), self.journal)
        self.bus = NotedBus(self.machine, self.journal)
        self.storage = NotedStorage(self.machine.storages, self.device, self.journal)

    def notify(self, event: str, **fields: object) -> None:  # noqa: D102
        self.machine.notify(event, device=self.device, **fields)

    def _announce(self) -> None:
        """Something leaves that may make the guest look: what it would see is not there yet."""
        if self.machine.page is not None:
            self.machine.page.withdraw(self.device)

    def request(self, kind: Request, value: int = 0) -> None:  # noqa: D102
        self._announce()
        self.machine.notify(
            "hypervisor_requested", device=self.device, request=kind.name.lower(), value=value
        )
        self.machine.outlet.request(kind, value)

    def place(self, region: Region, space: Space, base: int | None) -> None:  # noqa: D102
        self.machine.place(self.device, region, space, base)

    def set_level(self, line: str, level: bool) -> None:  # noqa: D102
        self._announce()
        self.machine.wires.drive(f"{self.device}.{line}", level)

    def msi(self, address: int, data: int) -> None:  # noqa: D102
        self._announce()
        self.machine.outlet.msi(self.device, address, data)

    def arm(self, timer: str, deadline_ns: int | None) -> None:  # noqa: D102
        fire = partial(self.machine.hosts[self.device].fire, timer)
        self.machine.clock.arm(self.device, timer, deadline_ns, fire)

    def send(self, backend: str, data: bytes) -> None:  # noqa: D102
        port = self.machine.backends.get((self.device, backend))
        if port is not None:
            self.journal.speak()
            port.put(data)

    def ready(self, backend: str) -> None:  # noqa: D102
        port = self.machine.backends.get((self.device, backend))
        if port is not None:
            port.ready()

    def ask(self, backend: str, number: int, kind: str, data: bytes) -> None:  # noqa: D102
        device = self.machine.hosts[self.device].device
        if backend in device.works:
            messenger = self.machine.memory_of(self.device).messenger
            if messenger is not None:
                messenger.ask(backend, kind, data)
            return
        port = self.machine.services.get((self.device, backend))
        if port is not None:
            if device.services[backend].effects.get(kind) is not Effect.IDEMPOTENT:
                self.journal.speak()
            port.ask(number, kind, data)

    def cancel(self, backend: str, number: int) -> None:  # noqa: D102
        port = self.machine.services.get((self.device, backend))
        if port is not None:
            port.cancel(number)

    def complete(self, value: int) -> None:  # noqa: D102
        self.machine.settle(self.machine.hosts[self.device], value)
