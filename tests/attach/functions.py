"""A machine of PCI functions behind vfio-user sockets, and clients that are as strict as the real ones."""

from __future__ import annotations

import array
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import trio
import trio.testing
from attrs import define, field

from mmiod.attach.functions import FunctionsAttachment
from mmiod.core.ports import Signal
from mmiod.core.pump import Pump
from mmiod.core.watchdog import Watchdog
from mmiod.device import (
    PENDING,
    Device,
    MemoryRead,
    MemoryWrite,
    Moves,
    Pending,
    Register,
    Stream,
    Work,
)
from mmiod.device.pci import Bar, Identity, PciFunction
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import DeviceDescription, MachineDescription
from mmiod.machine.machine import Machine

PATIENCE_S = 40
RAM = 1 << 20


class SlowFunction(PciFunction):
    """Answers a read of `slow` when bytes come; copies memory; fails."""

    identity = Identity(0x1234, 0x0001, 0x00FF00)
    interrupt_pin_number = 1
    main = Bar(64, number=0)
    answer = Stream()
    slow = Register(0, size=4, region=main)
    quick = Register(4, size=4, reset=0x12345678, region=main)
    source = Register(8, size=8, access="w", region=main)
    target = Register(16, size=8, access="w", region=main)
    broken = Register(24, size=4, access="w", region=main)
    size = Register(28, size=4, reset=16, region=main)
    move = Register(32, size=8, region=main)
    moved = Register(40, size=4, access="r", region=main)
    moving = Work()

    @slow.on_read
    def _slow(self) -> Pending:
        return PENDING

    @slow.on_write
    def _slow_write(self, _value: int) -> Pending:
        return PENDING

    @target.on_write
    def _copy(self, target: int) -> None:
        self.memory.write(target, self.memory.read(self.values["source"], 16))

    @source.on_write
    def _from(self, source: int) -> None:
        self.values["source"] = source

    @broken.on_write
    def _break(self, _value: int) -> None:
        raise RuntimeError("this device is broken")

    @move.on_write
    def _start_moving(self, target: int) -> None:
        self.values["move"] = target
        self.moving.start()

    @moving.on_run
    def _moving(self) -> Moves:
        data = yield MemoryRead(self.values["source"], self.size)
        yield MemoryWrite(self.move, data[::-1])
        self.moved += 1

    @answer.on_receive
    def _release(self, data: bytes) -> None:
        self.complete(int.from_bytes(data, "little"))


@define(eq=False)
class Functions:
    """One VM whose devices are PCI functions, each behind a socket in `directory`."""

    directory: Path
    parts: dict[str, type[Device]]
    deadline_s: float = 1000
    dma: str = "shared"
    """How works reach guest memory."""
    wall_s: Callable[[], float] = lambda: 1_700_000_000.0
    machine: Machine = field(init=False)
    attachment: FunctionsAttachment = field(init=False)
    events: list[tuple[str, dict[str, object]]] = field(factory=list)

    changed: Signal = field(factory=Signal)

    def notify(self, event: str, **fields: object) -> None:
        """Keep an event."""
        self.events.append((event, fields))
        self.changed.set()

    async def wait_for(self, name: str, count: int = 1) -> None:
        """Wait until there are so many events of a name."""
        with trio.fail_after(PATIENCE_S):
            while len(self.of(name)) < count:
                await self.changed.wait()

    def of(self, name: str) -> list[dict[str, object]]:
        """The events of a name."""
        return [fields for event, fields in self.events if event == name]

    def start(self, pump: Pump) -> None:
        """Assemble and listen."""
        self.attachment = FunctionsAttachment(self.machine, pump, self.deadline_s)
        for name in self.parts:
            listener = socket.socket(socket.AF_UNIX)
            listener.bind(str(self.directory / name))
            listener.listen()
            self.attachment.listen(name, listener)

    def assemble(self) -> None:
        """Make the machine."""
        clock = MachineClock(lambda: int(trio.current_time() * 1e9), self.wall_s)
        description = MachineDescription({name: DeviceDescription(name, dma=self.dma) for name in self.parts})
        parts = {name: (plugin, plugin.config_class()) for name, plugin in self.parts.items()}
        self.machine = assemble(
            "vm", description, parts, clock, self.notify, lambda _: None, own_memories=True
        )


@asynccontextmanager
async def serving(functions: Functions) -> AsyncIterator[Functions]:
    """Serve until the block ends; then nothing of it is left."""
    functions.assemble()
    watchdog = Watchdog([functions.machine.mark], 1_000_000_000)
    pump = Pump(watchdog.working)
    watchdog.start()
    async with trio.open_nursery() as nursery:
        functions.start(pump)
        nursery.start_soon(functions.attachment.run)
        nursery.start_soon(pump.run)
        try:
            await trio.testing.wait_all_tasks_blocked()
            yield functions
        finally:
            functions.attachment.stop()
            watchdog.stop()
            nursery.cancel_scope.cancel()


@define
class Reply:
    """A reply as it came."""

    id: int
    command: int
    flags: int
    error: int
    payload: bytes

    @property
    def failed(self) -> bool:
        """Whether the error bit is set."""
        return bool(self.flags & 0x20)


VERSION, MAP, UNMAP, INFO, REGION_INFO, IO_FDS, IRQ_INFO, SET_IRQS = range(1, 9)
READ, WRITE, RESET, MULTI, FEATURE = 9, 10, 13, 15, 16
NO_REPLY = 0x10
EVENTFD_TRIGGER, NONE_TRIGGER, NONE_MASK, NONE_UNMASK, BOOL_TRIGGER = 0x24, 0x21, 0x09, 0x11, 0x22
EVENTFD_UNMASK = 0x14


@define(eq=False)
class Client:
    """A client that sends what it is told, and takes what the protocol says."""

    sock: trio.socket.SocketType
    number: int = 0

    async def send(
        self, command: int, payload: bytes = b"", descriptors: tuple[int, ...] = (), flags: int = 0
    ) -> None:
        """One command in one `sendmsg`."""
        self.number = self.number + 1 & 0xFFFF
        header = struct.pack("<HHIII", self.number, command, 16 + len(payload), flags, 0)
        await self.send_raw(header + payload, descriptors)

    async def send_raw(self, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Bytes, with descriptors."""
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        )
        with trio.fail_after(PATIENCE_S):
            sent = await self.sock.sendmsg([data], rights)
            while sent < len(data):
                sent += await self.sock.send(data[sent:])

    async def exactly(self, count: int) -> bytes:
        """So many bytes."""
        data = b""
        with trio.fail_after(PATIENCE_S):
            while len(data) < count:
                more = await self.sock.recv(count - len(data))
                if not more:
                    raise EOFError
                data += more
        return data

    async def receive(self) -> Reply:
        """The next reply, which is one to a command of ours."""
        id_, command, size, flags, error = struct.unpack("<HHIII", await self.exactly(16))
        assert flags & 0xF == 1, "a reply says so"
        return Reply(id_, command, flags, error, await self.exactly(size - 16))

    async def call(
        self, command: int, payload: bytes = b"", descriptors: tuple[int, ...] = (), flags: int = 0
    ) -> Reply:
        """A command and its reply."""
        await self.send(command, payload, descriptors, flags)
        reply = await self.receive()
        assert (reply.id, reply.command) == (self.number, command)
        return reply

    async def closed(self) -> None:
        """Wait for the end, which comes without another byte."""
        with trio.fail_after(PATIENCE_S):
            with suppress(ConnectionResetError):
                assert not await self.sock.recv(1)

    async def ended(self) -> None:
        """Wait for the end; error replies at most come before it."""
        with suppress(EOFError, ConnectionResetError):
            while True:
                reply = await self.receive()
                assert reply.failed

    # --- the commands, as QEMU sends them ------------------------------------------------

    async def hello(self) -> Reply:
        """VERSION with QEMU's capabilities."""
        return await self.call(VERSION, struct.pack("<HH", 0, 0) + QEMU_CAPABILITIES)

    async def map(
        self, address: int, length: int, *descriptors: int, offset: int = 0, flags: int = 3
    ) -> Reply:
        """DMA_MAP."""
        return await self.call(MAP, struct.pack("<IIQQQ", 32, flags, offset, address, length), descriptors)

    async def unmap(self, address: int, length: int, flags: int = 0) -> Reply:
        """DMA_UNMAP."""
        return await self.call(UNMAP, struct.pack("<IIQQ", 24, flags, address, length))

    async def set_irqs(
        self,
        index: int,
        flags: int,
        start: int = 0,
        count: int = 1,
        *descriptors: int,
        data: bytes = b"",
    ) -> Reply:
        """SET_IRQS."""
        payload = struct.pack("<IIIII", 20 + len(data), flags, index, start, count) + data
        return await self.call(SET_IRQS, payload, descriptors)

    async def read(self, region: int, offset: int, size: int) -> bytes:
        """REGION_READ that is answered."""
        reply = await self.call(READ, struct.pack("<QII", offset, region, size))
        assert not reply.failed
        assert reply.payload[:16] == struct.pack("<QII", offset, region, size)
        return reply.payload[16:]

    async def write(self, region: int, offset: int, data: bytes) -> None:
        """REGION_WRITE that is answered."""
        head = struct.pack("<QII", offset, region, len(data))
        reply = await self.call(WRITE, head + data)
        assert not reply.failed
        assert reply.payload == head

    async def post(self, region: int, offset: int, data: bytes) -> None:
        """REGION_WRITE that nobody waits for."""
        await self.send(WRITE, struct.pack("<QII", offset, region, len(data)) + data, flags=NO_REPLY)


QEMU_CAPABILITIES = (
    b'{"capabilities": {"pgsizes": 4096, "max_msg_fds": 16, "max_dma_maps": 65535, '
    b'"max_data_xfer_size": 1048576, "migration": {"max_bitmap_size": 268435456, "pgsize": 4096}, '
    b'"write_multiple": true}}\0'
)


@asynccontextmanager
async def dialled(functions: Functions, name: str) -> AsyncIterator[Client]:
    """A connection, without VERSION."""
    with trio.socket.socket(socket.AF_UNIX) as sock:
        await sock.connect(str(functions.directory / name))
        yield Client(sock)


@asynccontextmanager
async def attached(functions: Functions, name: str) -> AsyncIterator[Client]:
    """A client that has agreed on a version."""
    async with dialled(functions, name) as client:
        assert not (await client.hello()).failed
        yield client


@contextmanager
def eventfd() -> Iterator[int]:
    """An eventfd that does not block."""
    descriptor = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def told(descriptor: int) -> int:
    """How often an eventfd was signalled since the last look."""
    try:
        return os.eventfd_read(descriptor)
    except BlockingIOError:
        return 0
