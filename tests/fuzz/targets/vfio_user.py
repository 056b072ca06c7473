"""Whatever clients send to PCI functions, cut anywhere: whole replies come back, one a message at most.

The slow function moves memory that is shared, and by messages what is not, which clients answer.
Both are migrated: states are set, read, and written again, and pages that are written are logged.

In the end no descriptor and no map is left, the slow function has answered or was given up, and a
client of another function has not noticed anything.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from attrs import define, field

from devices.pci.testdev_express import ExpressTestFunction
from mmiod.attach.function import FunctionAttachment
from mmiod.attach.functions import FunctionsAttachment
from mmiod.core.pump import Pump
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import DeviceDescription, MachineDescription
from mmiod.machine.migration import pack
from mmiod.protocol.vfio_user import Outgoing
from tests.attach.functions import QEMU_CAPABILITIES, SlowFunction
from tests.fuzz.reader import Reader, written

RAM: Final = 1 << 16
OPERATIONS: Final = 24
CONNECTIONS: Final = 3
TURNS: Final = 8
PARTS: Final = {"express": ExpressTestFunction, "slow": SlowFunction, "other": ExpressTestFunction}
VERSION, MAP, UNMAP, INFO, REGION_INFO, IO_FDS, IRQ_INFO, SET_IRQS, READ, WRITE = range(1, 11)
READ_MEMORY, WRITE_MEMORY, RESET, MULTI, FEATURE, MIG_READ, MIG_WRITE = 11, 12, 13, *range(15, 19)
HELLO: Final = struct.pack("<HH", 0, 1) + QEMU_CAPABILITIES

ORDERLY: Final = (
    (VERSION, HELLO),
    (MAP, struct.pack("<IIQQQ", 32, 3, 0, 0, RAM)),
    (MAP, struct.pack("<IIQQQ", 32, 1, 0x1000, 1 << 20, 0x1000)),
    (UNMAP, struct.pack("<IIQQ", 24, 0, 0, RAM)),
    (UNMAP, struct.pack("<IIQQ", 24, 2, 0, 0)),
    (INFO, struct.pack("<IIII", 16, 0, 0, 0)),
    (REGION_INFO, struct.pack("<IIIIQQ", 32, 0, 0, 0, 0, 0)),
    (IO_FDS, struct.pack("<IIII", 16, 0, 0, 0)),
    (IRQ_INFO, struct.pack("<IIII", 16, 0, 2, 0)),
    (SET_IRQS, struct.pack("<IIIII", 20, 0x24, 0, 0, 1)),
    (SET_IRQS, struct.pack("<IIIII", 20, 0x24, 2, 0, 4)),
    (SET_IRQS, struct.pack("<IIIIIii", 28, 0x24, 2, 1, 2, -1, 0)),
    (SET_IRQS, struct.pack("<IIIII", 20, 0x14, 0, 0, 1)),
    (SET_IRQS, struct.pack("<IIIII", 20, 0x11, 0, 0, 1)),
    (SET_IRQS, struct.pack("<IIIII", 20, 0x21, 2, 0, 0)),
    (READ, struct.pack("<QII", 0, 7, 256)),
    (READ, struct.pack("<QII", 0, 0, 4)),
    (WRITE, struct.pack("<QIII", 4, 7, 4, 7)),
    (WRITE, struct.pack("<QIII", 0xA0, 7, 4, 0x8003_0011)),
    (WRITE, struct.pack("<QIII", 0, 0, 4, 1)),
    (WRITE, struct.pack("<QIII", 24, 0, 4, 0)),
    (MULTI, struct.pack("<QQIIQQIIQ", 2, 0, 0, 4, 1, 8, 0, 8, 0x1000)),
    (RESET, b""),
    (FEATURE, struct.pack("<II", 16, 0x1_0001)),
    (FEATURE, struct.pack("<II", 16, 0x7_0002)),
    (FEATURE, struct.pack("<II", 16, 0x1_0002)),
    *((FEATURE, struct.pack("<IIIi", 16, 0x2_0002, state, -1)) for state in (1, 2, 3, 4, 6)),
    (FEATURE, struct.pack("<IIQII", 24, 0x2_0006, 4096, 0, 0)),
    (FEATURE, struct.pack("<IIQIIQQ", 40, 0x2_0006, 4096, 1, 0, 0, RAM)),
    (FEATURE, struct.pack("<II", 8, 0x2_0007)),
    (FEATURE, struct.pack("<IIQQQ", 1 << 16, 0x1_0008, 0, RAM, 4096)),
    (FEATURE, struct.pack("<IIQQQ", 1 << 20, 0x1_0008, 0, 1 << 36, 1 << 20)),
    (MIG_READ, struct.pack("<II", 108, 100)),
    (MIG_READ, struct.pack("<II", 1 << 16, (1 << 16) - 8)),
    (MAP, struct.pack("<IIQQQ", 32, 3, 0, 2 * RAM, RAM)),
    (WRITE, struct.pack("<QIIQ", 8, 0, 8, 2 * RAM)),
    (WRITE, struct.pack("<QIII", 28, 0, 4, 1 << 14)),
    (WRITE, struct.pack("<QIIQ", 32, 0, 8, 2 * RAM + 0x100)),
    (WRITE, struct.pack("<QIIQ", 32, 0, 8, 0)),
)
"""Commands that make sense, and reach far."""


def seeds() -> list[bytes]:
    """Both functions, a VERSION, and one orderly command each; some with what devices do later."""
    hello = (0, 0, 0, 0, 0, 0)
    return [
        written(function, *hello, 0, 0, command, 0, 0, *descriptors, 2, 0, 1, 2, 3, 4, 2, 1)
        for function in (0, 1)
        for command in range(len(ORDERLY))
        for descriptors in ((0,), (1, 0), (1, 1), (4, 0, 0, 0, 0))
    ] + [written(1, *hello, *_steps(*range(-5, -1)), *(5, 0, 0, 0) * 4)]


def _steps(*commands: int) -> list[int]:
    """Orderly commands of the first connection, unchanged and without descriptors."""
    return [part for command in commands for part in (0, 0, command % len(ORDERLY), 0, 0, 0)]


# --- what a client sends along ----------------------------------------------------------------


def _memory() -> int:
    descriptor = os.memfd_create("fuzz", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(descriptor, RAM)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    return descriptor


KINDS: Final[tuple[Callable[[], int], ...]] = (
    lambda: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC),
    _memory,
    lambda: os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC),
    lambda: os.open("/dev/zero", os.O_RDONLY | os.O_CLOEXEC),
    lambda: os.eventfd(1, os.O_CLOEXEC),
)
COUNTS: Final = (0, 1, 1, 2, 4, 70)


# --- a machine and its clients ----------------------------------------------------------------


@define(eq=False)
class Peer:
    """Connections to one function."""

    pump: Pump
    function: FunctionAttachment
    sockets: list[socket.socket | None] = field(factory=lambda: [None] * CONNECTIONS)
    sent: list[int] = field(factory=lambda: [0] * CONNECTIONS)
    """Whole messages' worth of headers that may have an answer, by connection."""
    got: list[bytes] = field(factory=lambda: [b""] * CONNECTIONS)

    def send(self, number: int, data: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Some bytes, and all that they bring about."""
        sock = self.sockets[number] = self.sockets[number] or self._connect(number)
        self.sent[number] += 1 + len(data) // 16
        rights = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        )
        try:
            sock.sendmsg([data], rights)
        except (BrokenPipeError, BlockingIOError):
            return
        self.turn()

    def _connect(self, number: int) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX)
        ours.setblocking(False)
        self.sent[number], self.got[number] = 0, b""
        self.function.accept(theirs)
        return ours

    def turn(self) -> None:
        """Let the pump work, and read what it sends."""
        for _ in range(TURNS):
            self.pump.turn()
        for number, sock in enumerate(self.sockets):
            if sock is not None:
                self._drain(number, sock)

    def _drain(self, number: int, sock: socket.socket) -> None:
        try:
            while data := sock.recv(1 << 16):
                self.got[number] += data
        except BlockingIOError:
            return
        except ConnectionResetError:
            pass
        self.close(number)

    def close(self, number: int) -> None:
        """End a connection; what came was whole replies, and no more than there were messages."""
        sock, self.sockets[number] = self.sockets[number], None
        if sock is None:
            return
        sock.close()
        for _ in range(TURNS):
            self.pump.turn()
        replies = sum(_is_reply(*header) for header, _ in _messages(self.got[number]))
        assert replies <= self.sent[number], "more replies than messages"

    def asked(self, number: int) -> list[tuple[int, int, bytes]]:
        """Id, command and payload of what this side was asked about its memory, on one connection."""
        return [
            (id_, command, data)
            for (id_, command, _, flags, _), data in _messages(self.got[number])
            if not flags
        ]


def run(data: bytes) -> None:
    """The first byte chooses the function; then operations follow."""
    reader = Reader(data)
    before = _open()
    pump = Pump(threading.Event())
    clock = MachineClock(lambda: 0, lambda: 0.0)
    description = MachineDescription({name: DeviceDescription(name) for name in PARTS})
    parts = {name: (plugin, plugin.config_class()) for name, plugin in PARTS.items()}
    ignore = _ignore
    machine = assemble("vm", description, parts, clock, ignore, ignore, own_memories=True)
    attachment = FunctionsAttachment(machine, pump, 1.0)
    other = Peer(pump, attachment.functions["other"])
    other.send(0, _message(VERSION, HELLO))
    peer = Peer(pump, attachment.functions[reader.pick(("express", "slow"))])
    for _ in reader.times(OPERATIONS):
        reader.pick(DOERS)(peer, reader)
    other.got[0] = b""
    other.send(0, _message(READ, struct.pack("<QII", 0, 7, 4)))
    assert struct.pack("<I", 0x6D6E_1234) == other.got[0][32:]
    attachment.stop()
    for one in (peer, other):
        for number in range(CONNECTIONS):
            one.close(number)
    pump._epoll.close()
    os.close(pump._wake)
    assert before == _open(), "descriptors or maps are left"


Header = tuple[int, int, int, int, int]


def _messages(data: bytes) -> Iterator[tuple[Header, bytes]]:
    """Headers and payloads of whole messages."""
    while len(data) >= 16:
        header = struct.unpack_from("<HHIII", data)
        assert header[2] >= 16, "a message that is shorter than its header"
        yield header, data[16 : header[2]]
        data = data[header[2] :]


def _is_reply(_id: int, command: int, size: int, flags: int, error: int) -> bool:
    """Whether it is one, else it asks for memory."""
    if not flags:
        assert command in {READ_MEMORY, WRITE_MEMORY}, "no command of a server"
        assert (size == 32) == (command == READ_MEMORY), "a message of another length"
        return False
    assert flags in {1, 0x21}, "no reply"
    assert (flags == 0x21) == bool(error), "an error without a number"
    return True


def _ignore(*_parts: object, **_fields: object) -> None:
    """What happened, and each access."""


def _open() -> tuple[int, int]:
    """Descriptors of this process, and its maps of guest memory."""
    maps = Path("/proc/self/maps").read_bytes()
    return len(os.listdir("/proc/self/fd")), maps.count(b"/memfd:fuzz")  # noqa: PTH208  # a hundred times a second


def _message(command: int, payload: bytes, flags: int = 0, size: int | None = None) -> bytes:
    length = 16 + len(payload) if size is None else size
    return struct.pack("<HHIII", 7, command, length, flags, 0) + payload


# --- operations -------------------------------------------------------------------------------


def _command(peer: Peer, reader: Reader) -> None:
    """An orderly command, perhaps with other bytes somewhere, and with descriptors."""
    number = reader.number() % CONNECTIONS
    command, payload = reader.pick(ORDERLY)
    changed = bytearray(payload)
    for _ in range(reader.number() % 4):
        at = reader.number() % max(len(changed), 1)
        changed[at : at + 1] = reader.take(1)
    flags = reader.pick((0, 0, 0, 0x10, 1))
    _send(peer, reader, number, _message(command, bytes(changed), flags))


def _bytes(peer: Peer, reader: Reader) -> None:
    """Any bytes, without a size that is right."""
    number = reader.number() % CONNECTIONS
    _send(peer, reader, number, reader.take(reader.number() % 80))


def _part(peer: Peer, reader: Reader) -> None:
    """An orderly command in two parts, with descriptors in the second one."""
    number = reader.number() % CONNECTIONS
    data = _message(*reader.pick(ORDERLY))
    at = reader.number() % len(data)
    if at:
        peer.send(number, data[:at])
    _send(peer, reader, number, data[at:])


def _send(peer: Peer, reader: Reader, number: int, data: bytes) -> None:
    if not data:
        return
    given = [reader.pick(KINDS)() for _ in range(reader.pick(COUNTS))]
    try:
        peer.send(number, data, tuple(given))
    finally:
        for descriptor in given:
            os.close(descriptor)


def _later(peer: Peer, reader: Reader) -> None:
    """What happens by itself: a device answers, a deadline passes, a client goes, others have their turn."""
    host, visit = peer.function.host, peer.function.client
    what = reader.number() % 5
    if what == 0 and host.owes is not None and host.name == "slow":
        host.receive("answer", reader.take(4))
        peer.function.settle()
    elif what == 1 and visit is not None and visit.flight is not None and visit.flight.waits:
        peer.function.waits.give_up(visit)
    elif what == 2:
        peer.close(reader.number() % CONNECTIONS)
    elif what == 3:
        peer.function.machine.clock.fire_due()
        peer.function.settle()
    peer.turn()


def _answer(peer: Peer, reader: Reader) -> None:
    """Answer what was asked of this side's memory, perhaps wrongly, twice, or in another order."""
    number = reader.number() % CONNECTIONS
    asked = peer.asked(number)
    if not asked:
        return
    id_, command, payload = asked[-1 - reader.number() % len(asked)]
    count = struct.unpack_from("<Q", payload, 8)[0]
    wrong = reader.number() % 8
    data = (
        payload[:16] + bytes(count + (wrong == 1)) if command == READ_MEMORY else payload[: 16 * (wrong & 1)]
    )
    flags, id_ = (0x21 if wrong == 2 else 1), id_ ^ (wrong == 3)
    peer.send(number, struct.pack("<HHIII", id_, command, 16 + len(data), flags, 0) + data)


def _carry(peer: Peer, reader: Reader) -> None:
    """Stop the function and give it its own state again, perhaps changed, in part, or early."""
    number, size = reader.number() % CONNECTIONS, 200 + 8 * reader.number()
    machine, name = peer.function.machine, peer.function.host.name
    outgoing = Outgoing(reader.number(), pack(machine, name))
    if reader.number() % 4:
        peer.send(number, _message(FEATURE, struct.pack("<IIIi", 16, 0x2_0002, 4, -1)))
    while part := bytearray(outgoing.take(size)):
        what = reader.number() % 32
        if what == 1:
            break
        if what == 2:
            part[reader.number() % len(part)] ^= 1 + reader.number() % 255
        peer.send(number, _message(MIG_WRITE, struct.pack("<II", len(part) + 8, len(part)) + part))
    peer.send(number, _message(FEATURE, struct.pack("<IIIi", 16, 0x2_0002, 1 + reader.number() % 4, -1)))


DOERS: Final[tuple[Callable[[Peer, Reader], None], ...]] = (
    _command,
    _command,
    _later,
    _part,
    _bytes,
    _answer,
    _carry,
)
