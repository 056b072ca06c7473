"""Whole machines of the bundled files, without a hypervisor: driven by accesses."""

from __future__ import annotations

from pathlib import Path

from attrs import define, field

from mmiod import config
from mmiod.device import Request
from mmiod.machine.address_map import Stretch
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import MachineDescription
from mmiod.machine.machine import Machine
from mmiod.plugins.loader import bundled_directories, load
from mmiod.values import READ, WRITE, Direction, Space, ones

MACHINES = Path(__file__).resolve().parents[2] / "config" / "machines"
CONFADD, CONFDATA = 0xCF8, 0xCFC
COMMAND, BAR0, BAR2, BAR4 = 0x04, 0x10, 0x18, 0x20
PIRQRCC = 0x62
I440FX, PIIX3, PM, TESTDEV = 0x0000, 0x0800, 0x0B00, 0x1800
"""Device and function, as bits 15:8 of CONFADD."""


def described(file: str) -> MachineDescription:
    """What a bundled machine file says."""
    return config.load_machine(MACHINES / file)


@define(eq=False)
class Pc:
    """A machine, by default that of pc.toml, with its time, its events and what it tells the hypervisor."""

    description: MachineDescription = field(factory=lambda: described("pc.toml"))
    machine: Machine = field(init=False)
    now_ns: int = 0
    events: list[str] = field(factory=list)
    requests: list[Request] = field(factory=list)
    messages: list[tuple[int, int]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        plugins = {
            name: load(device.plugin, bundled_directories())
            for name, device in self.description.devices.items()
        }
        parts = {
            name: (plugins[name], config.configure(plugins[name], device, MACHINES))
            for name, device in self.description.devices.items()
        }
        clock = MachineClock(lambda: self.now_ns, lambda: 1_700_000_000.0)
        self.machine = assemble("pc", self.description, parts, clock, self._notify, lambda _record: None)
        self.machine.outlet = self
        self.machine.power_on(virtual=False)

    def _notify(self, event: str, **_fields: object) -> None:
        self.events.append(event)

    # --- the machine's outlet ------------------------------------------------------------

    def intr(self, vcpu: int, level: bool) -> None:
        """`interrupted` tells."""

    def set_level(self, line: int, level: bool) -> None:
        """No wire leads there."""

    def msi(self, device: str, address: int, data: int) -> None:  # noqa: ARG002
        """Keep the message."""
        self.messages.append((address, data))

    def request(self, kind: Request, value: int) -> None:  # noqa: ARG002
        """Keep the request."""
        self.requests.append(kind)

    def map_changed(self, *_moved: Stretch) -> None:
        """`where` tells."""

    def unlearn(self) -> None:
        """Nobody has learnt anything."""

    # --- accesses --------------------------------------------------------------------------

    def access(self, space: Space, address: int, size: int, direction: Direction, value: int = 0) -> int:
        """One access of a vCPU."""
        total = 0
        for found, at, taken in self.machine.pieces(space, address, size):
            shift = 8 * (at - address)
            part = self.machine.access(found, at, taken, direction, value >> shift & ones(taken))
            assert isinstance(part, int)
            total |= part << shift
        return total

    def inp(self, port: int, size: int = 1) -> int:
        """IN."""
        return self.access(Space.PIO, port, size, READ)

    def out(self, port: int, value: int, size: int = 1) -> None:
        """OUT."""
        self.access(Space.PIO, port, size, WRITE, value)

    def interrupted(self) -> bool:
        """Whether vCPU 0 has an interrupt pending."""
        return self.machine.interrupts[0]

    def config(self, function: int, register: int, size: int = 4) -> int:
        """PCI configuration read."""
        self.out(CONFADD, 1 << 31 | function | register & 0xFC, 4)
        return self.inp(CONFDATA + (register & 3), size)

    def configure(self, function: int, register: int, value: int, size: int = 4) -> None:
        """PCI configuration write."""
        self.out(CONFADD, 1 << 31 | function | register & 0xFC, 4)
        self.out(CONFDATA + (register & 3), value, size)

    def where(self, space: Space, owner: str) -> list[int]:
        """Where the regions of a device begin."""
        claims = [found.claim for found in self.machine.table(space).ranges if found.claim is not None]
        return [claim.base for claim in claims if claim.host.name == owner]
