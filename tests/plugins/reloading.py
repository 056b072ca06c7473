"""Machines of plugins that tests edit, and what reloads them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from attrs import define, field

from mmiod import config
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import DeviceDescription, MachineDescription, Placement, Sinks
from mmiod.machine.machine import Machine
from mmiod.plugins.process.host import process_host
from mmiod.plugins.question import Rejected, Verdict
from mmiod.plugins.registry import Registry
from mmiod.plugins.reload import Reloader
from mmiod.trace import Recorder
from mmiod.values import READ, WRITE, Direction, Space

DEADLINE_NS = 100_000_000

CELL = '''\
"""A cell with a counter, a timer, a line and answers that it owes."""

from __future__ import annotations

from attrs import define

from mmiod.device import PENDING, Device, IrqInput, IrqOutput, Pending, Region, Register, Timer


@define
class CellState:
    """What it counts."""

    writes: int = 0
    waiting: bool = False


class Cell(Device):
    """A cell."""

    ports = Region(4)
    state: CellState
    irq = IrqOutput()
    ack = IrqInput()
    tick = Timer()

    value = Register(0)
    written = Register(1, access="r")
    late = Register(2)
    raised = Register(3)

    @written.value
    def _written(self) -> int:
        return self.state.writes & 0xFF

    @value.on_write
    def _set(self, value: int) -> None:
        self.state.writes += 1
        self.tick.set(self.clock.now_ns + 1000 * (value + 1))

    @late.on_read
    def _later(self) -> Pending:
        self.state.waiting = True
        self.tick.set(self.clock.now_ns + 500)
        return PENDING

    @raised.on_write
    def _raise(self, value: int) -> None:
        self.irq.set_level(bool(value & 1))

    @ack.on_change
    def _acked(self, level: bool) -> None:
        self.state.writes += level

    @tick.on_fire
    def _tick(self) -> None:
        if self.state.waiting:
            self.state.waiting = False
            self.complete(0x5A)
        else:
            self.irq.set_level(not self.irq.level)
'''


@define(eq=False)
class Reloading:
    """Machines with cells named a and b at ports 0x100 and 0x200; a's line is b's input."""

    directory: Path
    text: str = CELL
    vms: tuple[str, ...] = ("vm",)
    at: Mapping[str, int] = field(factory=lambda: {"a": 0x100, "b": 0x200})
    wires: Mapping[str, Sinks] = field(factory=lambda: {"a.irq": "b.ack"})
    isolated: frozenset[tuple[str, str]] = frozenset()
    """VMs and names of devices in processes of their own."""
    machines: dict[str, Machine] = field(factory=dict)
    recorder: Recorder = field(factory=Recorder)
    events: list[str] = field(factory=list)
    reloader: Reloader = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Write the plugin, build the machines."""
        self.edit(self.text)
        registry = Registry([self.directory])
        devices = {
            name: DeviceDescription("cell", {"ports": Placement(Space.PIO, base)})
            for name, base in self.at.items()
        }
        description = MachineDescription(devices, self.wires)
        plugin = registry.get("cell")
        configs = {
            name: (plugin, config.configure(plugin, found, self.directory)) for name, found in devices.items()
        }
        for vm in self.vms:
            clock = MachineClock(lambda: 0, lambda: 0.0)
            hosts = {
                name: partial(
                    process_host, registry.current["cell"].source, found, self.directory, DEADLINE_NS
                )
                for name, found in devices.items()
                if (vm, name) in self.isolated
            }
            machine = assemble(
                vm, description, configs, clock, self._notify, self.recorder.add, isolated=hosts
            )
            machine.power_on(virtual=True)
            self.machines[vm] = machine
        described = {
            (vm, name): (found, self.directory) for vm in self.vms for name, found in devices.items()
        }
        self.reloader = Reloader(
            registry, self.machines, described, self.recorder, DEADLINE_NS, lambda action: action()
        )

    @property
    def machine(self) -> Machine:
        """The first one."""
        return next(iter(self.machines.values()))

    def close(self) -> None:
        """End all processes."""
        for machine in self.machines.values():
            for host in machine.hosts.values():
                host.close()

    def edit(self, text: str) -> None:
        """Save the plugin's file."""
        (self.directory / "cell.py").write_text(text)

    def change(self, old: str, new: str) -> None:
        """Edit it in one place."""
        text = (self.directory / "cell.py").read_text()
        assert 1 == text.count(old), old
        self.edit(text.replace(old, new))

    def access(self, port: int, value: int | None = None, vm: str = "vm") -> object:
        """One access of a byte: a write of `value`, or a read."""
        machine = self.machines[vm]
        direction: Direction = READ if value is None else WRITE
        return machine.access(machine.find(Space.PIO, port), port, 1, direction, value or 0)

    async def refused(self) -> Verdict:
        """Why a reload is rejected; nothing else happened."""
        before = [(host.device, host.generation) for host in self.machine.hosts.values()]
        try:
            await self.reloader.reload("cell")
        except Rejected as error:
            assert before == [(host.device, host.generation) for host in self.machine.hosts.values()]
            return error.verdict
        raise AssertionError("it was reloaded")

    def _notify(self, event: str, **fields: object) -> None:
        self.events.append(f"{event} {fields}")
