"""A machine with small test devices behind its real socket, and a client of the protocol."""

from __future__ import annotations

import array
import fcntl
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TypeVar

import trio
from attrs import define, evolve, field

from mmiod.attach.vm import VmAttachment
from mmiod.core.pump import Pump
from mmiod.core.watchdog import Watchdog
from mmiod.device import PENDING, Device, IrqInput, IrqOutput, Pending, Register, Request, Requests, Timer
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import DeviceDescription, MachineDescription, Placement
from mmiod.machine.machine import Machine, Record
from mmiod.protocol.exit import MAX_MESSAGE, Ack, Client, Completed, Offer, SourceExit, ToClient, Welcome
from mmiod.values import READ, WRITE, DecodedExit, Exit, Space

Event = TypeVar("Event")

PATIENCE_S = 60
RAM = 1 << 20
OFFER = Offer(
    capabilities=0, generation=1, hook_deadline_ns=100_000_000, max_vcpus=64, max_slots=8, rep_bound=1024
)


class Counter(Device):
    """Counts its accesses, so that one that ran twice shows."""

    length = 16
    count = Register(0, size=4, access="r")
    add = Register(4, size=4, access="w")
    slow = Register(8, size=4)
    total = Register(12, size=4, access="r")
    release = IrqInput()
    disk = Requests({})

    @count.on_read
    def _count(self) -> int:
        self.values["count"] += 1
        return self.values["count"]

    @add.on_write
    def _add(self, value: int) -> None:
        self.values["total"] += value

    @slow.on_read
    def _slow(self) -> Pending:
        return PENDING

    @slow.on_write
    def _slow_write(self, _value: int) -> Pending:
        return PENDING

    @release.on_change
    def _release(self, level: bool) -> None:
        if level:
            self.complete(0xC0FFEE)


class Bell(Device):
    """Rings after the written number of ns; asks for a reset; fails; hangs; signals a message."""

    length = 8
    delay = Register(0, size=4, access="w")
    stop = Register(4, access="w")
    action = Register(5, access="w")
    ring = Timer()
    intr = IrqOutput()

    @delay.on_write
    def _set(self, value: int) -> None:
        self.ring.set(self.clock.now_ns + value)

    @ring.on_fire
    def _rung(self) -> None:
        self.intr.set_level(True)

    @stop.on_write
    def _stop(self, _value: int) -> None:
        self.intr.set_level(False)

    @action.on_write
    def _act(self, value: int) -> None:
        if value == 1:
            self.context.request(Request.RESET)
        if value == 2:
            raise RuntimeError("this device is broken")
        if value == 4:
            self.context.msi(0xFEE0_1000, 0x4030)
        while value == 3:
            pass

    @intr.on_acknowledge
    def _vector(self) -> int:
        self.intr.set_level(False)
        return 0x30


DESCRIPTION = MachineDescription(
    devices={
        "counter": DeviceDescription("test/counter", at={"main": Placement(Space.PIO, 0x100)}),
        "bell": DeviceDescription("test/bell", at={"main": Placement(Space.PIO, 0x200)}),
    },
)


@define(eq=False)
class Rig:
    """One VM behind a socket."""

    path: Path
    name: str = "vm"
    pump: Pump = field(init=False)
    watchdog: Watchdog = field(init=False)
    machine: Machine = field(init=False)
    attachment: VmAttachment = field(init=False)
    wires: dict[str, str] = field(factory=lambda: {"bell.intr": "vcpu0.intr"})
    records: list[Record] = field(factory=list)
    clients: list[trio.socket.SocketType] = field(factory=list)
    events: list[tuple[str, dict[str, object]]] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        clock = MachineClock(lambda: int(trio.current_time() * 1e9), lambda: 1_700_000_000.0)
        parts = {"counter": (Counter, Counter.config_class()), "bell": (Bell, Bell.config_class())}
        description = evolve(DESCRIPTION, wires=self.wires)
        self.machine = assemble(self.name, description, parts, clock, self.notify, self.records.append)

    def notify(self, event: str, **fields: object) -> None:
        """Keep an event."""
        self.events.append((event, fields))

    def start(self, pump: Pump, grace_s: float = 30) -> None:
        """Listen on the path."""
        self.pump = pump
        self.attachment = VmAttachment(self.machine, pump, OFFER, grace_s)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        listener.bind(str(self.path))
        listener.listen(128)
        self.attachment.listen(listener)


@asynccontextmanager
async def serving(*rigs: Rig, grace_s: float = 30, deadline_ns: int = 100_000_000) -> AsyncIterator[Pump]:
    """All rigs on one pump, until the block ends."""
    watchdog = Watchdog([rig.machine.mark for rig in rigs], deadline_ns)
    pump = Pump(watchdog.working)
    watchdog.start()
    async with trio.open_nursery() as nursery:
        for rig in rigs:
            rig.watchdog = watchdog
            rig.start(pump, grace_s)
            nursery.start_soon(rig.attachment.run)
        nursery.start_soon(pump.run)
        try:
            yield pump
        finally:
            for rig in rigs:
                rig.attachment.stop()
                for client in rig.clients:
                    client.close()
            watchdog.stop()
            nursery.cancel_scope.cancel()


@define(eq=False)
class Guest:
    """A hypervisor that sends one message at a time."""

    client: Client
    socket: trio.socket.SocketType

    async def send(self, data: bytes, *descriptors: int) -> None:
        """One datagram, with descriptors."""
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        )
        await self.socket.sendmsg([data], rights)

    async def receive(self) -> ToClient | None:
        """The next event; None at the end of the connection."""
        data = await self.receive_raw()
        return self.client.receive(data) if data else None

    async def receive_raw(self) -> bytes:
        """The next datagram; empty at the end of the connection."""
        with trio.fail_after(PATIENCE_S):
            try:
                return await self.socket.recv(MAX_MESSAGE)
            except ConnectionResetError:
                return await self.socket.recv(MAX_MESSAGE)

    async def expect(self, kind: type[Event]) -> Event:
        """The next event, which must be of this kind."""
        event = await self.receive()
        assert isinstance(event, kind), event
        return event

    async def expect_descriptor(self) -> tuple[int, int]:
        """The next event, an ACK that carries a descriptor: that, and its value."""
        with trio.fail_after(PATIENCE_S):
            data, ancillary, _, _ = await self.socket.recvmsg(MAX_MESSAGE, socket.CMSG_SPACE(4))
        acked = self.client.receive(data)
        assert isinstance(acked, Ack), acked
        [descriptor] = array.array("i", ancillary[0][2][:4])
        return descriptor, acked.value

    async def hello(self, *, join: bool = False) -> Welcome:
        """Open a session, go on with it, or join it."""
        await self.send(self.client.hello(join=join))
        return await self.expect(Welcome)

    async def map_ram(self, slot: int = 0, gpa: int = 0, length: int = RAM) -> None:
        """Share sealed memory."""
        with sealed(length) as descriptor:
            await self.send(self.client.map(slot, gpa, length)[1], descriptor)
        await self.receive()

    async def exit(self, exit_: Exit, guest_ns: int = 0) -> Completed:
        """An exit and its completion."""
        await self.send(self.client.exit(exit_, guest_ns))
        return await self.expect(Completed)

    async def exit_of_source(self, exit_: SourceExit) -> Completed:
        """An exit in its source's own structure, and its completion."""
        await self.send(self.client.exit(exit_))
        return await self.expect(Completed)

    async def inp(self, port: int, size: int = 4, vcpu: int = 0, guest_ns: int = 0) -> int:
        """IN, as a decoded exit."""
        done = await self.exit(DecodedExit(vcpu, 0, Space.PIO, READ, port, size), guest_ns)
        return int.from_bytes(done.completion.data, "little")  # type: ignore[union-attr]

    async def out(self, port: int, value: int, size: int = 4, vcpu: int = 0, guest_ns: int = 0) -> Completed:
        """OUT, as a decoded exit."""
        data = value.to_bytes(size, "little")
        return await self.exit(DecodedExit(vcpu, 0, Space.PIO, WRITE, port, size, data=data), guest_ns)


async def dial(rig: Rig, vcpus: int = 2, required: int = 0) -> Guest:
    """Connect, without a HELLO."""
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    rig.clients.append(sock)
    await sock.connect(str(rig.path))
    return Guest(Client(rig.name, vcpus, required, vendor="test"), sock)


async def attach(rig: Rig, vcpus: int = 2, required: int = 0) -> Guest:
    """Connect and open a session."""
    guest = await dial(rig, vcpus, required)
    await guest.hello()
    return guest


@contextmanager
def sealed(length: int, seals: int = 0x2 | 0x4) -> Iterator[int]:
    """A memfd; seals default to F_SEAL_SHRINK and F_SEAL_GROW."""
    descriptor = os.memfd_create("guest", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, length)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        yield descriptor
    finally:
        os.close(descriptor)
