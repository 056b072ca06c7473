"""Whatever clients send to a VM, in any order: each datagram gets one error at most, and what comes is whole.

After a fatal error the connection ends; an answered exit keeps its answer; another VM's session goes
on, and in the end no descriptor and no map is left.  Nothing but the peer's own connection breaks.
"""

from __future__ import annotations

import array
import fcntl
import os
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import structlog
from attrs import define, evolve, field

from mmiod.attach.connection import Connection
from mmiod.attach.vm import VmAttachment
from mmiod.core.pump import Pump
from mmiod.device import PENDING, Device, IrqOutput, Pending, Register, Request, Timer
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import DeviceDescription, MachineDescription, Placement
from mmiod.protocol.exit import (
    MAX_MESSAGE,
    NUMBERS,
    Client,
    Completed,
    Error,
    Offer,
    SourceExit,
    Welcome,
    encode_exit,
    encode_posted,
    encode_source,
    read,
)
from mmiod.protocol.exit.exits import PostedWrite
from mmiod.values import (
    READ,
    WRITE,
    Access,
    AcknowledgeExit,
    DecodedExit,
    Exit,
    HaltExit,
    Intent,
    RawExit,
    Space,
    TickExit,
    Values,
)
from tests.fuzz.datagrams import EVERYTHING, VCPUS, flat64, to_daemon
from tests.fuzz.reader import Reader, written

QUIET: Final = structlog.wrap_logger(None, wrapper_class=structlog.make_filtering_bound_logger(50))
"""A refusal is no news here."""
XEN: Final = NUMBERS["source"]["XEN"]
OPERATIONS: Final = 32
CONNECTIONS: Final = 3
TURNS: Final = 4
RAM: Final = 1 << 16
OFFER: Final = Offer(0, 1, 10**8, max_vcpus=64, max_slots=8, rep_bound=64)
CAPABILITIES: Final = (0, EVERYTHING, NUMBERS["capability"]["GUEST_TIME"] | NUMBERS["capability"]["INTR"])


class Panel(Device):
    """Counts, owes answers until its timer, raises an interrupt, fails."""

    length = 16
    count = Register(0, size=4, access="r")
    slow = Register(4, size=4)
    delay = Register(8, size=4, access="w")
    action = Register(12, access="w")
    late = Register(13, access="r")
    ring = Timer()
    intr = IrqOutput()

    @count.on_read
    def _count(self) -> int:
        self.values["count"] += 1
        return self.values["count"]

    @slow.on_read
    def _slow(self) -> Pending:
        self.values["late"] = 1
        return PENDING

    @slow.on_write
    def _slow_write(self, _value: int) -> Pending:
        self.values["late"] = 1
        return PENDING

    @delay.on_write
    def _set(self, value: int) -> None:
        self.ring.set(self.clock.now_ns + value)

    @ring.on_fire
    def _rung(self) -> None:
        self.intr.set_level(True)
        if self.values["late"]:
            self.values["late"] = 0
            self.complete(0xC0FFEE)

    @action.on_write
    def _act(self, value: int) -> None:
        if value == 1:
            self.context.request(Request.RESET)
        elif value == 2:
            raise RuntimeError("this device is broken")
        elif value == 3:
            self.memory.write(self.values["count"], self.memory.read(0x1000, 64))

    @intr.on_acknowledge
    def _vector(self) -> int:
        self.intr.set_level(False)
        return 0x30


DESCRIPTION: Final = MachineDescription(
    devices={
        "panel": DeviceDescription("fuzz/panel", at={"main": Placement(Space.PIO, 0x200)}),
        "other": DeviceDescription("fuzz/panel", at={"main": Placement(Space.MMIO, 0x5000)}),
    },
    wires={"panel.intr": "vcpu0.intr", "other.intr": "hypervisor.4"},
)


def _memfd(seals: int, mode: int = os.O_RDWR) -> int:
    descriptor = os.memfd_create("fuzz", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.ftruncate(descriptor, RAM)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    if mode == os.O_RDWR:
        return descriptor
    reopened = os.open(f"/proc/self/fd/{descriptor}", mode | os.O_CLOEXEC)
    os.close(descriptor)
    return reopened


SEALED: Final = _memfd(fcntl.F_SEAL_SHRINK)
DESCRIPTORS: Final = (SEALED, _memfd(0), _memfd(0, os.O_RDONLY), _memfd(0, os.O_WRONLY), os.eventfd(0))
RIGHTS: Final[tuple[tuple[int, ...], ...]] = (
    (),
    *((one,) for one in DESCRIPTORS),
    (SEALED, SEALED),
    (SEALED,) * 6,
)


@define(eq=False)
class Vm:
    """One VM without the task that waits: its time goes when the input says so."""

    pump: Pump
    name: str
    now_ns: int = 0
    attachment: VmAttachment = field(init=False)

    def __attrs_post_init__(self) -> None:
        clock = MachineClock(lambda: self.now_ns, lambda: 0.0)
        parts = {name: (Panel, Panel.config_class()) for name in DESCRIPTION.devices}
        machine = assemble(self.name, DESCRIPTION, parts, clock, lambda *_, **__: None, lambda _: None)
        self.attachment = VmAttachment(machine, self.pump, OFFER, 0)
        self.attachment.log = QUIET.bind()

    def connect(self) -> socket.socket:
        """The client's end of a new connection."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        attachment = self.attachment
        accepted = Connection.accept(
            theirs, self.pump, attachment.offer, attachment._receive, attachment._closed
        )
        attachment.connections.add(accepted)
        ours.setblocking(False)
        return ours


@define(eq=False)
class Peer:
    """The clients of one VM: a few connections, and what they know together."""

    vm: Vm
    client: Client
    sockets: list[socket.socket | None] = field(factory=lambda: [None] * CONNECTIONS)
    answers: dict[tuple[bytes, int, int], bytes] = field(factory=dict)
    last: bytes = b""

    def send(self, number: int, data: bytes, rights: tuple[int, ...] = ()) -> None:
        """One datagram, and all that it brings about."""
        sock = self.sockets[number] = self.sockets[number] or self.vm.connect()
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", rights))] if rights else []
        if data:
            sock.sendmsg([data], ancillary)
        _turn(self.vm.pump)
        errors = sum(self._drain(index) for index in range(CONNECTIONS))
        assert errors <= 1, "one datagram, more than one error"

    def next_sequence(self, vcpu: int) -> int:
        """The number behind the last exit of this session that was answered."""
        token = self.client.token
        return 1 + max((number for *of, number in self.answers if of == [token, vcpu]), default=0)

    def close(self, number: int) -> None:
        """End a connection."""
        sock, self.sockets[number] = self.sockets[number], None
        if sock is not None:
            sock.close()
            _turn(self.vm.pump)

    def _drain(self, number: int) -> int:
        """Read what has come on one connection; how many errors."""
        errors, fatal, sock = 0, False, self.sockets[number]
        for data in _received(sock):
            if data is None:
                self.close(number)
                return errors
            assert not fatal, "a message behind a fatal error"
            event = read(data)
            if isinstance(event, Error):
                errors, fatal = errors + 1, event.fatal
            else:
                self._learn(event, data)
        assert not fatal, "a connection that outlives a fatal error"
        return errors

    def _learn(self, event: object, data: bytes) -> None:
        if isinstance(event, Welcome):
            if event.token != self.client.token and not event.continued:
                self.client = evolve(self.client, token=event.token)
        elif isinstance(event, Completed):
            known = self.answers.setdefault((self.client.token, event.vcpu, event.sequence), data)
            assert known == data, "an exit was answered twice, and differently"


def _turn(pump: Pump) -> None:
    for _ in range(TURNS):
        if not pump.turn():
            break


def _received(sock: socket.socket | None) -> Iterator[bytes | None]:
    """The datagrams that wait; None at the end of the connection; descriptors are closed."""
    while sock is not None:
        try:
            data, ancillary, _, _ = sock.recvmsg(MAX_MESSAGE, 64)
        except BlockingIOError:
            return
        except ConnectionResetError:
            continue
        for _, _, rights in ancillary:
            for descriptor in array.array("i", rights):
                os.close(descriptor)
        yield data or None
        if not data:
            return


def run(data: bytes) -> None:
    """The first byte chooses what the clients can; then operations follow."""
    reader = Reader(data)
    before = _open()
    pump = Pump(threading.Event())
    vm, other = Vm(pump, "vm"), Vm(pump, "other")
    bystander = Peer(other, Client("other", 1))
    bystander.send(0, bystander.client.hello())
    peer = Peer(vm, Client("vm", VCPUS, optional=reader.pick(CAPABILITIES), source=XEN))
    for _ in reader.times(OPERATIONS):
        reader.pick(DOERS)(peer, reader)
    bystander.send(0, bystander.client.exit(DecodedExit(0, 0, Space.PIO, READ, 0x200, 4)))
    [answer] = [read(answer) for answer in bystander.answers.values()]
    assert isinstance(answer, Completed)
    assert Values(b"\1\0\0\0") == answer.completion
    for one in (vm, other):
        one.attachment.stop()
    for sock in (*peer.sockets, *bystander.sockets):
        if sock is not None:
            sock.close()
    pump._epoll.close()
    os.close(pump._wake)
    assert before == _open(), "descriptors or maps are left"


def _open() -> tuple[int, int]:
    """Descriptors of this process, and its maps of guest memory."""
    maps = Path("/proc/self/maps").read_bytes()
    return len(os.listdir("/proc/self/fd")), maps.count(b"/memfd:fuzz")  # noqa: PTH208  # a hundred times a second


# --- what clients do -------------------------------------------------------------------------


def _datagram(peer: Peer, reader: Reader) -> None:
    """Any bytes; their size field is made right, mostly, and so is a token of ones."""
    number, rights, keep = reader.number() % CONNECTIONS, reader.pick(RIGHTS), reader.number() == 0xFF
    data = reader.take(reader.number(2) % (MAX_MESSAGE + 8))
    if not keep and len(data) >= 4:
        data = len(data).to_bytes(4, "little") + data[4:]
    peer.send(number, data, rights)


def _hello(peer: Peer, reader: Reader) -> None:
    number, join = reader.number() % CONNECTIONS, reader.number() & 1
    peer.send(number, peer.client.hello(join=bool(join)))


def _close(peer: Peer, reader: Reader) -> None:
    peer.close(reader.number() % CONNECTIONS)


def _exit(peer: Peer, reader: Reader) -> None:
    """An exit with the next sequence, whatever has become of the one before."""
    number, vcpu = reader.number() % CONNECTIONS, reader.number() % VCPUS
    exit_ = reader.pick(EXITS)(vcpu, reader)
    exit_.sequence = peer.next_sequence(vcpu)
    peer.last = encode_exit(exit_, reader.number(3))
    peer.send(number, peer.last)


def _sourced(peer: Peer, reader: Reader) -> None:
    """An ioreq (Xen, public/hvm/ioreq.h) at one of the devices, or any bytes."""
    number, vcpu, odd = reader.number() % CONNECTIONS, reader.number() % VCPUS, reader.number()
    base, space = reader.pick(((0x200, 0), (0x5000, 1)))
    offset, count, bits, value = (
        reader.number() % 16,
        1 + reader.number() % 4,
        reader.number(),
        reader.number(2),
    )
    body = written((base + offset, 8), (value, 8), (count, 4), (4, 4), (0, 6), bits, space)
    exit_ = SourceExit(vcpu, peer.next_sequence(vcpu), reader.take(odd) if odd else body)
    peer.last = encode_source(exit_, reader.number(3))
    peer.send(number, peer.last)


def _posted(peer: Peer, reader: Reader) -> None:
    number, vcpu, sequence = reader.number() % CONNECTIONS, reader.number() % VCPUS, reader.number()
    access = Access(Space.PIO, WRITE, 0x200 + reader.number() % 16, 4, reader.number(2))
    peer.send(number, encode_posted(PostedWrite(vcpu, sequence, 0, access)))


def _again(peer: Peer, reader: Reader) -> None:
    peer.send(reader.number() % CONNECTIONS, peer.last)


def _map(peer: Peer, reader: Reader) -> None:
    number, slot, page, rights = (reader.number() for _ in range(4))
    length = 0x1000 * (reader.number() % 18)
    _, data = peer.client.map(
        slot % 10, 0x1000 * page, length, read_only=bool(number & 4), descriptor=rights != 0
    )
    peer.send(number % CONNECTIONS, data, RIGHTS[rights % len(RIGHTS)])


def _wait(peer: Peer, reader: Reader) -> None:
    peer.vm.now_ns += reader.number(2)
    peer.vm.attachment.machine.clock.fire_due()
    peer.vm.attachment._flush()
    peer.send(0, b"")


DOERS: Final = (_datagram, _hello, _close, _exit, _posted, _again, _map, _wait, _sourced)
DATAGRAM, HELLO, CLOSE, EXIT, POSTED, AGAIN, MAP, WAIT, SOURCED = range(9)


def _port(vcpu: int, reader: Reader) -> Exit:
    offset, size, write, value = (
        reader.number(),
        reader.pick((1, 2, 4, 8)),
        reader.number() & 1,
        reader.number(4),
    )
    data = (value % (1 << 8 * size)).to_bytes(size, "little") if write else b""
    return DecodedExit(vcpu, 0, Space.PIO, WRITE if write else READ, 0x200 + offset % 18, size, data=data)


def _raw(vcpu: int, reader: Reader) -> Exit:
    """An instruction whose page of memory is the other panel's."""
    gpr = (
        [reader.number() for _ in range(4)]
        + [0, 0, 0x5000 + reader.number(), 0x5000 + reader.number()]
        + [0] * 8
    )
    intent = reader.pick(tuple(Intent))
    state = flat64(gpr=gpr)
    return RawExit(
        vcpu, 0, state, reader.take(reader.number() % 16), gpa=reader.pick((None, 0x5000)), intent=intent
    )


EXITS: Final[tuple[Callable[[int, Reader], Exit], ...]] = (
    _port,
    _raw,
    lambda vcpu, _: HaltExit(vcpu, 0),
    lambda vcpu, _: TickExit(vcpu, 0),
    lambda vcpu, _: AcknowledgeExit(vcpu, 0),
)
PORT, RAW, HALT, TICK, INTA = range(5)


def seeds() -> list[bytes]:
    """Sessions: every message, exits of each kind, resets and resends around what is owed."""
    begun = [written(capabilities, HELLO, 0, 0) for capabilities in range(3)]
    messages = [
        written(DATAGRAM, 0, rights, 0, (len(data), 2), data) for data in to_daemon() for rights in (0, 1)
    ]
    count, slow, delay = (
        written(EXIT, 0, 0, PORT, offset, 2, offset == 8, (9, 4), (0, 3)) for offset in (0, 4, 8)
    )
    raw = [
        written(EXIT, 0, 1, RAW, 3, 0, 0, 0, 0, 0x10, 1, len(code), code, 1, (0, 3))
        for code in (bytes.fromhex(text) for text in ("8b06", "8907", "f3a5", "f00107", "f36f", "6c"))
    ]
    halt, tick, inta = (written(EXIT, 0, 0, kind, (99, 3)) for kind in (HALT, TICK, INTA))
    memory = written(MAP, 0, 0, 0, 1, 16)
    stories = [
        written(count, AGAIN, 0, count),
        written(memory, *raw),
        written(delay, slow, WAIT, (500, 2), count),
        written(slow, CLOSE, 0, HELLO, 1, 0, AGAIN, 1, delay),
        written(HELLO, 1, 1, EXIT, 1, 0, PORT, 0, 2, 0, (0, 4), (0, 3), AGAIN, 0),
        written(delay, halt, WAIT, (500, 2), inta, tick),
        written(POSTED, 0, 0, 1, 4, (1, 2), POSTED, 0, 0, 2, 0, (1, 2), count),
        written(
            SOURCED, 0, 0, 0, 0, 0, 0, 0x21, (0, 2), (0, 3), AGAIN, 0, SOURCED, 0, 0, 0, 1, 4, 3, 0x11, (5, 2)
        ),
    ]
    return [
        *(begun[1] + one for one in [*messages, *stories]),
        *(first + one for first in begun for one in stories),
    ]
