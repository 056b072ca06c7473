"""The flat lane of vfio-user against the general way: the same bytes to both, everything compared."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
from attrs import define, field
from hypothesis import given, settings, strategies as st

from mmiod.attach.descriptors import close
from mmiod.attach.functions import FunctionsAttachment
from mmiod.attach.waits import Visit
from mmiod.core.pump import Pump
from mmiod.device import PENDING, IrqInput, IrqOutput, Pending, Register, Storage, Stream
from mmiod.device.pci import Bar, Identity, PciFunction
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import DeviceDescription, MachineDescription
from mmiod.machine.machine import Machine, Record
from mmiod.protocol.vfio_user import State
from tests.attach.functions import (
    FEATURE,
    MAP,
    MULTI,
    NO_REPLY,
    QEMU_CAPABILITIES,
    READ,
    RESET,
    SET_IRQS,
    VERSION,
    WRITE,
)
from tests.attach.journals import changing

NAME, OTHER, LATENCY = "zoo", "other", 13
REPLY = 1
CONFIG = 7
SET, DEVICE_STATE = 1 << 17, 2


class Zoo(PciFunction):
    """What is hard to take short: banks, parts, wide ones, hooks that fail, wait or answer oddly."""

    identity = Identity(0x1234, 0x0003, 0x00FF00)
    interrupt_pin_number = 1
    main = Bar(64, number=0, valid=(1, 8), implemented=(1, 8))
    loose = Bar(64, number=2, unaligned=True, valid=(1, 64), implemented=(1, 64))
    frames = Bar(0x1000, number=3)
    ports = Bar(16, number=4, io=True, implemented=(1, 4))
    stored = Storage(0, 0x1000, region=frames)
    line = IrqOutput()
    release = IrqInput()
    answer = Stream()
    plain = Register(0, size=4, reset=0x1234_5678, region=main)
    narrow = Register(4, size=2, access="w1c", reset=0xFFFF, region=main)
    select = Register(6, region=main)
    first = Register(7, when=lambda zoo: not zoo.values["select"] & 1, region=main)
    second = Register(7, when=lambda zoo: bool(zoo.values["select"] & 1), access="r", reset=0x5A, region=main)
    wide = Register(8, size=8, region=main)
    cleared = Register(16, size=4, access="rc", reset=0xFF, region=main)
    odd = Register(20, size=4, region=main)
    slow = Register(24, size=4, region=main)
    broken = Register(28, when=lambda zoo: bool(1 // (zoo.values["select"] ^ 2)), region=main)
    port = Register(0, size=4, region=ports)

    @select.on_write
    def _selected(self, value: int) -> None:
        self.set_intx(bool(value & 0x80))

    @odd.on_read
    def _odd(self) -> int:
        return {5: 1 << 32, 6: -1}.get(self.values["odd"], self.values["odd"])

    @odd.on_write
    def _odd_write(self, value: int) -> None:
        if value == 0xDEAD:
            raise RuntimeError("dead")

    @slow.on_read
    def _slow(self) -> Pending:
        return PENDING

    @slow.on_write
    def _slow_write(self, value: int) -> Pending | None:
        return PENDING if value & 1 else None

    @loose.on_read
    def _loose(self, offset: int, size: int) -> int:
        return offset | size << 4

    @loose.on_write
    def _loose_write(self, offset: int, size: int, value: int) -> None:
        self.values["plain"] = offset ^ size ^ value & 0xFFFF_FFFF

    @port.on_write
    def _port_write(self, value: int) -> None:
        self.line.set_level(bool(value & 1))

    @answer.on_receive
    def _answer(self, data: bytes) -> None:
        self.complete(int.from_bytes(data, "little"))

    @release.on_change
    def _release(self, level: bool) -> None:
        if level:
            self.complete(0xC0FFEE)


@define(eq=False)
class Side:
    """One function and its client."""

    flatly: bool
    machine: Machine = field(init=False)
    attachment: FunctionsAttachment = field(init=False)
    pump: Pump = field(factory=lambda: Pump(threading.Event()))
    visit: Visit = field(init=False)
    client: socket.socket = field(init=False)
    records: list[Record] = field(factory=list)
    events: list[tuple[str, object]] = field(factory=list)
    replies: bytes = b""

    def __attrs_post_init__(self) -> None:
        devices = {name: DeviceDescription("test/zoo") for name in (NAME, OTHER)}
        description = MachineDescription(devices=devices, wires={f"{NAME}.line": f"{OTHER}.release"})
        parts = {name: (Zoo, Zoo.config_class()) for name in (NAME, OTHER)}
        clock = MachineClock(lambda: 5, lambda: 0.0)
        self.machine = assemble(
            "vm", description, parts, clock, self.notify, self.records.append, own_memories=True
        )
        self.attachment = FunctionsAttachment(self.machine, self.pump, 1.0)
        self.client, self.visit = self.dial(NAME)
        self.send([HELLO])
        self.replies = b""

    def dial(self, name: str) -> tuple[socket.socket, Visit]:
        """A connection, without VERSION."""
        client, ours = socket.socketpair()
        client.setblocking(False)
        return client, self.attachment.functions[name].visit(ours)

    def close(self) -> None:
        """Nothing runs the pump."""
        self.attachment.stop()
        self.client.close()
        self.pump._epoll.close()
        os.close(self.pump._wake)

    def notify(self, event: str, **fields: object) -> None:
        """Keep an event; a client's pid is its own."""
        self.events.append((event, fields))

    def send(self, chunks: list[bytes], descriptors: int = 0) -> None:
        """Bytes, each part taken before the next one comes; descriptors with the first."""
        for chunk in chunks:
            given = [os.eventfd(0) for _ in range(descriptors)]
            socket.send_fds(self.client, [chunk], given) if given else self.client.send(chunk)
            close(given)
            descriptors = 0
            self.turn()

    def turn(self) -> None:
        """Do what has come, and take the answers."""
        self.work()
        with suppress(BlockingIOError, ConnectionResetError):
            while data := self.client.recv(1 << 16):
                self.replies += data
                self.work()

    def work(self) -> None:
        """Do what has come."""
        if not self.flatly:
            for function in self.attachment.functions.values():
                function.flat = None
                for visit in function.visits:
                    visit.stream.plain = None
        while self.pump.turn():
            pass

    def release(self) -> None:
        """The slow register answers."""
        host = self.machine.hosts[NAME]
        if host.owes is not None:
            host.receive("answer", b"\xee\xff\xc0")
        self.attachment.settle()
        self.turn()

    def seen(self) -> dict[str, object]:
        """All that has come of it; times apart."""
        host = self.machine.hosts[NAME]
        counted, cause, stream = host.statistics, self.machine.cause, self.visit.stream
        return {
            "replies": self.replies,
            "records": [record[1:LATENCY] + record[LATENCY + 1 :] for record in self.records],
            "events": self.events,
            "journal": changing(host),
            "values": host.device.values,
            "failure": host.failure,
            "owed": host.owes and (host.owes.register, host.owes.direction, host.owes.value),
            "counts": (counted.reads, counted.writes, counted.refused, counted.faults, sum(counted.latency)),
            "mark": (self.machine.mark.since_ns, list(self.machine.mark.running)),
            "cause": (cause.vcpu, cause.sequence, cause.pc),
            "claims": {key: (space, claim.base) for key, (space, claim) in self.machine.claims.items()},
            "connection": (stream.open, stream.unsent, stream._held, self.visit.flight is not None),
            "received": [bytes(message.data) for message in self.visit.session.received],
        }


def message(command: int, payload: bytes = b"", flags: int = 0, number: int = 1, size: int = 0) -> bytes:
    """One message of a client."""
    return struct.pack("<HHIII", number, command, size or 16 + len(payload), flags, 0) + payload


def read(region: int, offset: int, size: int, flags: int = 0, number: int = 2) -> bytes:
    """REGION_READ."""
    return message(READ, struct.pack("<QII", offset, region, size), flags, number)


def write(region: int, offset: int, size: int, value: int, flags: int = 0, number: int = 3) -> bytes:
    """REGION_WRITE."""
    data = (value % (1 << 8 * size)).to_bytes(size, "little")
    return message(WRITE, struct.pack("<QII", offset, region, size) + data, flags, number)


HELLO = message(VERSION, struct.pack("<HH", 0, 0) + QEMU_CAPABILITIES)


# --- what happens ------------------------------------------------------------------------------

REGIONS = st.sampled_from([0, 0, 0, 0, 2, 3, 4, CONFIG, 1, 6, 9])
OFFSETS = st.sampled_from([0, 4, 6, 7, 8, 16, 20, 24, 28, 29, 0x10, 0x20, 60, 63, 64, 1 << 63])
SIZES = st.sampled_from([4, 4, 4, 1, 2, 8, 3, 0, 16])
VALUES = st.sampled_from([0, 1, 2, 3, 5, 6, 0x80, 0xDEAD, 0xFEB0_0000, 0xFFFF_FFFF_FFFF_FFFF])
FLAGS = st.sampled_from([0, 0, 0, NO_REPLY, 0x20, 0x40])
NUMBERS = st.integers(0, 0xFFFF)
MESSAGES = st.one_of(
    st.builds(read, REGIONS, OFFSETS, SIZES, FLAGS, NUMBERS),
    st.builds(write, REGIONS, OFFSETS, SIZES, VALUES, FLAGS, NUMBERS),
    st.builds(write, st.just(0), OFFSETS, st.just(4), VALUES, st.just(NO_REPLY), NUMBERS),
    st.sampled_from(
        [
            message(RESET),
            message(MULTI, struct.pack("<QQIIQ", 1, 0, 0, 4, 7)),
            message(READ, bytes(16), size=33) + b"\0",  # longer than it may be
            message(WRITE, struct.pack("<QII", 0, 0, 4) + bytes(8)),  # another size than it says
            message(MAP, struct.pack("<IIQQQ", 32, 3, 0, 0, 0x1000)),
            message(READ, bytes(16))[:12] + b"\1\0\0\0" + bytes(16),  # with an error number
        ]
    ),
)


@define
class Sent:
    """Messages, cut somewhere, perhaps with a descriptor that nobody wants."""

    messages: list[bytes]
    cut: int = 0
    descriptors: int = 0

    def play(self, side: Side) -> None:
        """Send them."""
        data = b"".join(self.messages)
        cut = self.cut % len(data)
        side.send([part for part in (data[:cut], data[cut:]) if part], self.descriptors)


@define
class Unread:
    """Messages whose answers the client does not read, until it does."""

    messages: list[bytes]

    def play(self, side: Side) -> None:
        """Send them."""
        side.client.send(b"".join(self.messages))
        side.work()


@define
class Released:
    """The slow register answers."""

    def play(self, side: Side) -> None:
        """Let it."""
        side.release()


Step = Sent | Unread | Released
CUTS = st.sampled_from([0, 0, 0, 1, 16, 31, 32, 33, 36, 40, 70])
SENT = st.builds(Sent, st.lists(MESSAGES, min_size=1, max_size=5), CUTS, st.sampled_from([0, 0, 0, 0, 0, 1]))
STEPS = st.lists(SENT | st.builds(Released), max_size=25)


@contextmanager
def both() -> Iterator[tuple[Side, Side]]:
    """One that goes the general way only, and one that has the lane."""
    general, flat = Side(flatly=False), Side(flatly=True)
    try:
        yield general, flat
    finally:
        general.close()
        flat.close()


@contextmanager
def sided() -> Iterator[Side]:
    """One with the lane."""
    side = Side(flatly=True)
    try:
        yield side
    finally:
        side.close()


def play(steps: list[Step]) -> int:
    """Compare after every step; how many kinds of messages the lane knows then."""
    with both() as (general, flat):
        lane = flat.attachment.functions[NAME].flat
        assert lane is not None
        for step in steps:
            if not flat.visit.stream.open:
                break
            step.play(general)
            step.play(flat)
            assert general.seen() == flat.seen(), step
        return len(lane.known)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_flat_lane_and_general_way_come_to_the_same(steps: list[Step]) -> None:
    """Replies, records, journal, values, quarantine, counters and claims are equal after every step."""
    play(steps)


HARD: dict[str, list[Step]] = {
    "a read and a write": [Sent([read(0, 0, 4), write(0, 0, 4, 7), read(0, 0, 4)])],
    "posted writes, and a read behind them": [
        Sent([write(0, 0, 4, value, NO_REPLY) for value in range(5)] + [read(0, 0, 4)])
    ],
    "a batch that is longer than a turn": [Sent([write(0, 8, 8, value, NO_REPLY) for value in range(300)])],
    "a batch with something else inside": [
        Sent([read(0, 0, 4), message(RESET), read(0, 0, 4), read(0, 0, 3), read(0, 4, 2)])
    ],
    "a message in parts": [Sent([read(0, 0, 4), read(0, 8, 8), read(0, 0, 4)], cut) for cut in range(97)],
    "a descriptor with it": [Sent([read(0, 0, 4)]), Sent([read(0, 0, 4)], descriptors=1)],
    "an answer that comes later": [
        Sent([read(0, 24, 4)]),
        Released(),
        Sent([read(0, 24, 4), read(0, 0, 4)]),
        Sent([read(0, 8, 8)]),
        Released(),
        Sent([write(0, 24, 4, 1), read(0, 0, 4)]),
        Released(),
        Sent([write(0, 24, 4, 1, NO_REPLY), read(0, 24, 4)]),
        Released(),
        Released(),
    ],
    "a hook fails": [Sent([write(0, 20, 4, 0xDEAD), read(0, 0, 4), write(0, 0, 4, 1)])],
    "an answer is too large": [Sent([write(0, 20, 4, 5), read(0, 20, 4), read(0, 0, 4)])],
    "an answer is negative": [Sent([write(0, 20, 4, 6), read(0, 20, 4), read(0, 0, 4)])],
    "a bank's predicate fails": [Sent([write(0, 6, 1, 2), read(0, 28, 1), read(0, 0, 4)])],
    "a bank is another one": [Sent([read(0, 7, 1), write(0, 6, 1, 1), read(0, 7, 1), write(0, 7, 1, 3)])],
    "sizes that are refused or split": [Sent([read(4, 0, 4), read(4, 0, 8), read(0, 1, 4), read(0, 62, 4)])],
    "a BAR moves": [
        Sent([read(0, 0, 4), write(CONFIG, 0x10, 4, 0xFEB0_0000), write(CONFIG, 4, 2, 2), read(0, 0, 4)]),
        Sent([write(CONFIG, 0x10, 4, 0xFEC0_0000), read(0, 0, 4)]),
    ],
    "the journal begins anew": [Sent([write(0, 0, 4, value)] * 20) for value in range(60)],
    "a message inside of another one's data": [
        Sent([read(0, 0, 4), write(2, 0, 32, int.from_bytes(read(0, 0, 4), "little"))], 64),
    ],
    "accesses in parts": [
        Sent([each])
        for each in (read(2, 0, 4), read(2, 0, 3), write(2, 8, 3, 5), read(2, 0, 16), write(2, 8, 16, 5))
    ],
    "storage": [Sent([write(0, 0, 4, 1), write(3, 8, 4, 0xCAFE), read(3, 8, 4), read(3, 0, 8)])],
    "a client that does not read": [*[Unread([read(0, 8, 8)] * 60)] * 30, Sent([read(0, 0, 4)])],
    "an interrupt": [
        Sent([message(SET_IRQS, struct.pack("<5I", 20, 0x24, 0, 0, 1))], descriptors=1),
        Sent([write(0, 6, 1, 0x80), write(0, 6, 1, 0)]),
    ],
}


@pytest.mark.parametrize("name", HARD)
def test_what_is_hard_comes_to_the_same(name: str) -> None:
    """One by one, what random messages meet rarely."""
    assert play(HARD[name]) > 0


def test_plain_messages_need_no_session(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's read, write and posted write: the general way is not asked."""
    with sided() as side:
        monkeypatch.setattr(type(side.attachment.functions[NAME]), "_serve", None)
        side.send([write(0, 0, 4, 0xCAFE, NO_REPLY) + read(0, 0, 4) + write(0, 0, 4, 1)])
        head = struct.pack("<QII", 0, 0, 4)
        got = struct.pack("<HHIII", 2, READ, 36, REPLY, 0) + head + struct.pack("<I", 0xCAFE)
        assert got + struct.pack("<HHIII", 3, WRITE, 32, REPLY, 0) + head == side.replies


def test_others_have_their_turn_soon() -> None:
    """A long batch is not done at once."""
    with sided() as side:
        flat = side.attachment.functions[NAME].flat
        assert flat is not None
        assert 236 * read(0, 0, 4) == flat.take(300 * read(0, 0, 4))


@pytest.mark.parametrize("rested", [False, True])
def test_a_stranger_is_no_client(*, rested: bool) -> None:
    """What comes on another connection to the function is refused, and does nothing, behind a rest too."""
    with sided() as side:
        stranger, visit = side.dial(NAME)
        if rested:
            side.attachment.functions[NAME].go_on()
        stranger.send(write(0, 0, 4, 7))
        side.turn()
        stranger.close()
        assert (side.replies, visit.stream.open) == (b"", False)
        assert side.machine.hosts[NAME].device.values["plain"] == 0x1234_5678


def test_one_function_has_another_one_answer() -> None:
    """The client that waits for that gets it at once."""
    with sided() as side:
        waiting, _ = side.dial(OTHER)
        waiting.send(HELLO + read(0, 24, 4))
        side.turn()
        side.send([write(4, 0, 4, 1)])
        assert waiting.recv(1 << 12).endswith(struct.pack("<I", 0xC0FFEE))
        waiting.close()


def test_stopped_function_is_not_written() -> None:
    """A client that migrates it has stopped it: the lane leaves that to the general way."""
    with sided() as side:
        side.send([write(0, 0, 4, 7)])
        side.send([message(FEATURE, struct.pack("<IIII", 16, SET | DEVICE_STATE, State.STOP, 0))])
        side.send([write(0, 0, 4, 8)])
        assert side.machine.hosts[NAME].device.values["plain"] == 7


def test_restarted_device_is_another_one() -> None:
    """What the lane knows of a place is the device's that it was made for, and is learnt again."""
    with sided() as side:
        side.send([write(0, 0, 4, 7)])
        host, lane = side.machine.hosts[NAME], side.attachment.functions[NAME].flat
        assert lane is not None
        host.device = host.relive(list(host.journal.entries)).device
        side.send([write(0, 0, 4, 8)])
        assert host.device.values["plain"] == 8
        assert not lane.known
        side.send([write(0, 0, 4, 9)])
        assert [known.place.device for known in lane.known.values()] == [host.device]


def test_lane_keeps_so_many_messages_in_mind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that asks for more and more makes nothing grow."""
    monkeypatch.setattr("mmiod.attach.flat_function.MAX_KNOWN", 4)
    with sided() as side:
        side.send([read(0, offset, 1) for offset in range(20)])
        lane = side.attachment.functions[NAME].flat
        assert lane is not None
        assert 0 < len(lane.known) <= 4
