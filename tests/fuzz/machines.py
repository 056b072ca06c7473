"""The machines of config/machines, built anew for each input."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final, NoReturn

from attrs import define, evolve, field, frozen

from mmiod import config
from mmiod.device import Device
from mmiod.machine.assembly import Part, assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import MachineDescription
from mmiod.machine.machine import Machine
from mmiod.machine.slot import Slot
from mmiod.plugins.loader import bundled_directories, load

FOLDER: Final = Path(__file__).parents[2] / "config" / "machines"
RAM: Final = 1 << 16


@define(eq=False)
class Ram:
    """Memory of a slot, kept in this process."""

    data: bytearray = field(factory=lambda: bytearray(RAM))

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at an offset."""
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes at an offset."""
        self.data[offset : offset + len(data)] = data

    def close(self) -> None:
        """Nothing to close."""


@cache
def plugin(name: str) -> type[Device]:
    """A bundled plugin; all machines share it."""
    return load(name, bundled_directories())


@frozen
class Kit:
    """What a machine is built of."""

    description: MachineDescription
    parts: dict[str, Part]

    @classmethod
    def of(cls, file: str) -> Kit:
        """A machine file's."""
        description = config.load_machine(FOLDER / file)
        plugins = {name: plugin(device.plugin) for name, device in description.devices.items()}
        parts: dict[str, Part] = {
            name: (plugins[name], config.configure(plugins[name], device, FOLDER))
            for name, device in description.devices.items()
        }
        return cls(description, parts)

    def without(self, device: str) -> Kit:
        """The same, but for one device and its wires."""
        description = evolve(
            self.description,
            devices={name: one for name, one in self.description.devices.items() if name != device},
            wires={
                source: sink
                for source, sink in self.description.wires.items()
                if not source.startswith(device)
            },
        )
        return Kit(description, {name: part for name, part in self.parts.items() if name != device})

    def build(self) -> Machine:
        """A machine that was switched on, in virtual time, with 64 KiB."""
        clock = MachineClock(lambda: 0, lambda: 0.0)
        machine = assemble("vm", self.description, self.parts, clock, _ignore, _ignore)
        machine.memory.add(Slot(0, 0, RAM, False, Ram()))
        machine.power_on(virtual=True)
        return machine


def _ignore(*_event: object, **_fields: object) -> None:
    """Events and records are for people."""


def failed(machine: Machine) -> dict[str, str]:
    """The devices in quarantine, with the reason."""
    return {name: host.failure for name, host in machine.hosts.items() if host.failure is not None}


def never(what: str) -> NoReturn:
    """The invariant is broken."""
    raise AssertionError(what)
