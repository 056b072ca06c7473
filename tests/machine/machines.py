"""Machines of small devices, with everything that leaves them kept."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import define, field

from mmiod.device import Device, Request
from mmiod.machine.address_map import Stretch
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import (
    DeviceDescription,
    MachineDescription,
    Sinks,
    UnclaimedDescription,
)
from mmiod.machine.machine import Machine, Record
from mmiod.values import Direction, Space


@define(eq=False)
class Outlet:
    """A hypervisor that listens."""

    signals: list[tuple[object, ...]] = field(factory=list)

    def intr(self, vcpu: int, level: bool) -> None:
        """Keep it."""
        self.signals.append(("intr", vcpu, level))

    def set_level(self, line: int, level: bool) -> None:
        """Keep it."""
        self.signals.append(("level", line, level))

    def msi(self, device: str, address: int, data: int) -> None:
        """Keep it."""
        self.signals.append(("msi", device, address, data))

    def request(self, kind: Request, value: int) -> None:
        """Keep it."""
        self.signals.append(("request", kind, value))

    def map_changed(self, *_moved: Stretch) -> None:
        """Keep it."""
        self.signals.append(("map",))

    def unlearn(self) -> None:
        """Nobody has learnt anything."""


@define(eq=False)
class Rig:
    """One machine; `now` is the host's monotonic time in ns."""

    devices: Mapping[str, tuple[type[Device], DeviceDescription]]
    wires: Mapping[str, Sinks] = field(factory=dict)
    unclaimed: tuple[UnclaimedDescription, ...] = ()
    now: int = 0
    machine: Machine = field(init=False)
    outlet: Outlet = field(factory=Outlet)
    records: list[Record] = field(factory=list)
    events: list[tuple[str, dict[str, object]]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        described = {name: description for name, (_, description) in self.devices.items()}
        parts = {name: (plugin, plugin.config_class()) for name, (plugin, _) in self.devices.items()}
        description = MachineDescription(described, self.wires, self.unclaimed)
        clock = MachineClock(lambda: self.now, lambda: 1_700_000_000.5)
        self.machine = assemble("vm", description, parts, clock, self._notify, self.records.append)
        self.machine.outlet = self.outlet
        self.machine.power_on(virtual=True)

    def access(self, space: Space, address: int, size: int, direction: Direction, value: int = 0) -> object:
        """One access that lies within one range."""
        found = self.machine.find(space, address)
        return self.machine.access(found, address, size, direction, value)

    def _notify(self, event: str, **fields: object) -> None:
        self.events.append((event, fields))
