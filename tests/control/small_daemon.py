"""A daemon that is all `mmiod.control` asks for: two machines, no hypervisor, no plugins."""

from __future__ import annotations

import enum
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field

from mmiod.attach.flights import Flights
from mmiod.attach.function import FunctionAttachment
from mmiod.control.commands import interface
from mmiod.control.server import Server
from mmiod.control.service import Service
from mmiod.core.pump import Pump
from mmiod.core.run import Platform
from mmiod.device import PENDING, Device, IrqOutput, Pending, Region, Register
from mmiod.errors import UpgradeRejected
from mmiod.machine.address_map import Policy
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import (
    DeviceDescription,
    MachineDescription,
    Placement,
    UnclaimedDescription,
)
from mmiod.machine.machine import Machine
from mmiod.plugins.registry import Registry
from mmiod.plugins.reload import Reloader
from mmiod.protocol.exit import Ledger
from mmiod.trace import Recorder
from mmiod.upgrade.upgrader import Upgrader
from mmiod.values import READ, WRITE, Direction, Space


class Lcr(enum.IntFlag):
    """Line control of a 16550A."""

    WLS = 3
    STB = 1 << 2
    DLAB = 1 << 7


class Serial(Device):
    """Something like a serial port; `broken` has a getter that fails."""

    length = 8
    irq = IrqOutput()
    rbr = Register(0, access="r", reset=0x41)
    lcr = Register(3, fields=Lcr, published=True)
    lsr = Register(5, access="rc", reset=0x61)
    broken = Register(7, access="r")

    @broken.value
    def _broken(self) -> int:
        raise RuntimeError("out of order")


class Slow(Device):
    """Owes every answer; `window` is placed by the guest, and is not."""

    main = Region(4)
    window = Region(0x1000)

    @main.on_read
    def _read(self, _offset: int, _size: int) -> Pending:
        return PENDING

    @main.on_write
    def _write(self, _offset: int, _size: int, _value: int) -> None:
        self.complete()


PLUGINS: dict[str, type[Device]] = {"serial": Serial, "slow": Slow}

DESCRIPTION = MachineDescription(
    devices={
        "uart0": DeviceDescription("serial", {"main": Placement(Space.PIO, 0x3F8)}),
        "slow": DeviceDescription("slow", {"main": Placement(Space.MMIO, 0xFED4_0000)}),
    },
    unclaimed=(UnclaimedDescription(Space.PIO, 0x80, 1, Policy.IGNORE),),
)


def machine(name: str, recorder: Recorder) -> Machine:
    """A machine with both devices, powered on; guest time goes 1 us with each look at it."""
    ticks = itertools.count(0, 1000)
    clock = MachineClock(lambda: next(ticks), lambda: 0.0)
    built = assemble(
        name,
        DESCRIPTION,
        {device: (PLUGINS[found.plugin], None) for device, found in DESCRIPTION.devices.items()},
        clock,
        lambda *_event, **_fields: None,
        recorder.add,
    )
    built.power_on(virtual=False)
    return built


@define(eq=False)
class StaysUpgrader(Upgrader):
    """A test's program has no successor."""

    async def upgrade(self) -> None:
        """Refuse."""
        raise UpgradeRejected("a test executes nothing")


@define(eq=False)
class SmallDaemon:
    """Two machines and what a session of the first one has in flight."""

    recorder: Recorder = field(factory=lambda: Recorder(1000))
    machines: dict[str, Machine] = field(init=False)
    sessions: dict[str, Flights] = field(factory=dict)
    works: int = 0
    reloader: Reloader = field(init=False)
    upgrader: Upgrader = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Build the machines."""
        self.machines = {name: machine(name, self.recorder) for name in ("vm0", "vm1")}
        self.reloader = Reloader(Registry([]), self.machines, {}, self.recorder, 1, self.work)
        self.upgrader = StaysUpgrader(self.machines, {}, {}, self.work)

    def flights(self, vm: str) -> Flights | None:
        """What the test has put there."""
        return self.sessions.get(vm)

    def functions(self, _vm: str) -> dict[str, FunctionAttachment]:
        """None: these machines have exits."""
        return {}

    async def withdrawn(self) -> None:
        """Nothing stands anywhere."""

    def settle(self, vm: str) -> None:
        """Hand on what was let go."""
        if vm in self.sessions:
            self.sessions[vm].drain()

    def work(self, action: Callable[[], None]) -> None:
        """Count and run."""
        self.works += 1
        action()

    def attach(self, vm: str, pump: Pump) -> Flights:
        """Begin a session."""
        flights = Flights(self.machines[vm], pump, Ledger(2), Platform(), 1, virtual=False)
        self.sessions[vm] = flights
        return flights

    def access(self, vm: str, address: int, value: int | None = None, size: int = 1) -> None:
        """One access of vCPU 0 to a port: a write of `value`, or a read."""
        direction: Direction = READ if value is None else WRITE
        cause = self.machines[vm].cause
        cause.vcpu, cause.sequence, cause.pc = 0, 7, 0xF1234
        found = self.machines[vm].find(Space.PIO, address)
        self.machines[vm].access(found, address, size, direction, value or 0)


@asynccontextmanager
async def served(daemon: SmallDaemon, path: Path) -> AsyncIterator[Server]:
    """Serve a daemon's control socket at `path`."""
    listener = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
    await listener.bind(str(path))
    listener.listen()
    server = Server(Service.of(interface(daemon)))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.run, [trio.SocketListener(listener)])
        yield server
        nursery.cancel_scope.cancel()
