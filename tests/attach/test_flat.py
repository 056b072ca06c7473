"""The flat lane against the general way: the same exits on two machines, and everything compared."""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from attrs import define, evolve, field
from hypothesis import given, settings, strategies as st

from mmiod.attach.flat import Flat
from mmiod.attach.flights import Flights
from mmiod.attach.vcpu_slot import Shared, Slot
from mmiod.core.lane import Lane
from mmiod.core.moves import HIGH_HALF, LOW_HALF
from mmiod.core.pump import Pump
from mmiod.core.run import Platform
from mmiod.device import PENDING, Device, IrqInput, IrqOutput, Pending, Region, Register
from mmiod.errors import ProtocolError
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import DeviceDescription, MachineDescription, Placement
from mmiod.machine.machine import Machine, Record
from mmiod.protocol.exit import (
    NEW,
    Admission,
    Arrived,
    Client,
    Ledger,
    Offer,
    PostedWrite,
    Session,
    encode_exit,
    shared,
)
from mmiod.protocol.exit.book import Book
from mmiod.protocol.exit.codec import BY_NAME
from mmiod.protocol.exit.shared import posted_message
from mmiod.values import CS, READ, WRITE, DecodedExit, Direction, RawExit, Segment, Space, VcpuState
from tests.attach.journals import changing
from tests.attach.peers import Counter

MMIO = 0xFEB0_0000
WIDE = 0xFEC0_0000
LATENCY, TIME = 13, 0
VCPUS = 2


class Zoo(Device):
    """Registers that are hard to take short: banks, parts, wide ones, hooks that fail or answer oddly."""

    main = Region(64, valid=(1, 8), implemented=(1, 8))
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
    release = IrqInput()
    line = IrqOutput()

    @select.on_write
    def _selected(self, value: int) -> None:
        self.line.set_level(bool(value & 0x80))

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

    @release.on_change
    def _release(self, level: bool) -> None:
        if level:
            self.complete(0xC0FFEE)


class Wide(Device):
    """A region of two pages that two methods answer."""

    main = Region(0x2000, valid=(1, 8), implemented=(1, 8), unaligned=True)

    @main.on_read
    def _read(self, offset: int, size: int) -> int:
        """A value of the place."""
        return offset % 251 | size << 4

    @main.on_write
    def _write(self, offset: int, size: int, value: int) -> None:
        """Nothing."""


DESCRIPTION = MachineDescription(
    devices={
        "wide": DeviceDescription("test/wide", at={"main": Placement(Space.MMIO, WIDE)}),
        "zoo": DeviceDescription("test/zoo", at={"main": Placement(Space.MMIO, MMIO)}),
        "counter": DeviceDescription("test/counter", at={"main": Placement(Space.PIO, 0x100)}),
    },
    wires={"zoo.line": "counter.release"},
)


@define(eq=False)
class Side:
    """One machine, and how its exits are executed."""

    flatly: bool
    machine: Machine = field(init=False)
    ledger: Ledger = field(factory=lambda: Ledger(VCPUS))
    flights: Flights = field(init=False)
    flat: Flat = field(init=False)
    session: Session = field(init=False)
    mapping: mmap.mmap = field(init=False)
    slot: Slot = field(init=False)
    """Of vCPU 0; vCPU 1 sends datagrams."""
    records: list[Record] = field(factory=list)
    events: list[tuple[str, object]] = field(factory=list)
    replies: list[bytes] = field(factory=list)
    taken: int = 0
    """Exits and posted writes that the flat lane did."""

    def __attrs_post_init__(self) -> None:
        clock = MachineClock(lambda: 5, lambda: 0.0)
        parts = {
            name: (plugin, plugin.config_class())
            for name, plugin in (("zoo", Zoo), ("counter", Counter), ("wide", Wide))
        }
        self.machine = assemble("vm", DESCRIPTION, parts, clock, self.notify, self.records.append)
        self.machine.power_on(virtual=False)
        self.flights = Flights(
            self.machine, Pump(threading.Event()), self.ledger, Platform(), 16, virtual=False
        )
        self.flat = Flat(Lane(self.machine), self.flights, self.ledger, self.flights.drain)
        self.mapping = mmap.mmap(-1, shared.PAGE * (1 + VCPUS))
        owner = Shared(self.mapping, self.ledger, lambda _slot, body: self.generally(0, body), self.failed)
        owner.flat = self.flat
        self.slot = Slot(owner, 0, -1)  # its client never sleeps
        self.session = Session(Offer(0, 1, 0, VCPUS, 1, 16))
        self.session.receive(Client("vm", VCPUS).hello())
        self.session.welcome(bytes(16))

    def close(self) -> None:
        """Nothing runs the pump."""
        self.flights.pump._epoll.close()
        os.close(self.flights.pump._wake)

    def failed(self, error: ProtocolError) -> None:
        """Nothing wrong is in the slot."""
        raise error

    def notify(self, event: str, **fields: object) -> None:
        """Keep an event."""
        self.events.append((event, fields))

    def send(self, data: bytes) -> None:
        """A completion."""
        self.replies.append(data)

    def exit(self, vcpu: int, body: bytes) -> None:
        """Execute an exit."""
        if not self.flatly:
            self.generally(vcpu, body)
        elif vcpu:
            if self.flat.message(body, self):
                self.taken += 1
            else:
                self.generally(vcpu, body)
        else:
            self.taken += 1
            self.put(body)
        self.fetch()

    def put(self, body: bytes) -> None:
        """Execute it out of the slot."""
        page = self.slot.page
        self.mapping[page + shared.EXIT : page + shared.EXIT + len(body)] = body
        self.state(shared.READY)
        self.slot.look()

    def state(self, *stored: int) -> int:
        """The slot's state; or store it."""
        at = self.slot.page + shared.STATE
        if stored:
            self.mapping[at : at + 4] = stored[0].to_bytes(4, "little")
        return int.from_bytes(self.mapping[at : at + 4], "little")

    def fetch(self) -> None:
        """What the slot was completed with."""
        if self.state() != shared.COMPLETE:
            return
        at, kept = self.slot.page + shared.COMPLETION, self.ledger.book(0).reply
        assert kept == self.mapping[at : at + len(kept)]
        self.state(0)
        self.send(kept)

    def generally(self, vcpu: int, body: bytes) -> None:
        """Execute it in the way that is for everything."""
        self.taken -= self.flatly and not vcpu
        arrived = self.session.receive(body)
        if isinstance(arrived, PostedWrite):
            if self.ledger.admit_posted(vcpu, arrived.sequence):
                self.flights.posted(arrived)
                self.flights.drain()
            return
        assert isinstance(arrived, Arrived)
        admitted = self.ledger.admit(vcpu, arrived.exit.sequence, body)
        reply_to = self.slot if self.flatly and not vcpu else self
        if admitted is NEW:
            self.flights.exit(arrived.exit, 0, reply_to)  # type: ignore[arg-type]  # no source's
            self.flights.drain()
        else:
            assert not isinstance(admitted, Admission)
            reply_to.send(admitted)

    def post(self, vcpu: int, sequence: int, entry: bytes) -> None:
        """Apply a posted write."""
        if self.flatly and not vcpu:
            self.taken += 1
            at = self.slot.page + shared.RING + sequence % shared.ENTRIES * shared.ENTRY
            self.mapping[at : at + shared.ENTRY] = entry
            self.mapping[self.slot.page + shared.POSTED] = sequence
            self.slot.take_posted()
        elif self.flatly and self.flat.posted(vcpu, sequence, entry):
            self.taken += 1
        else:
            self.generally(vcpu, posted_message(vcpu, sequence, entry))
        self.fetch()

    def release(self) -> None:
        """The slow devices answer."""
        for host in self.machine.hosts.values():
            if host.owes is not None:
                host.deliver("release", level=True)
                host.deliver("release", level=False)
        self.flights.drain()
        self.fetch()

    def forget(self) -> None:
        """What has been compared."""
        self.replies.clear()
        self.records.clear()

    def seen(self) -> dict[str, object]:
        """All that has come of it; times apart."""
        hosts = self.machine.hosts
        return {
            "replies": [sorted(self.replies, key=lambda reply: reply[8])],  # of vCPUs that waited together
            "records": [record[1:LATENCY] + record[LATENCY + 1 :] for record in self.records],
            "events": self.events,
            "journals": {name: changing(host) for name, host in hosts.items()},
            "values": {name: host.device.values for name, host in hosts.items()},
            "failures": {name: host.failure for name, host in hosts.items()},
            "owed": {name: host.owes and host.owes.register for name, host in hosts.items()},
            "counts": {name: _counts(host) for name, host in hosts.items()},
            "totals": (self.flights.totals.fold().exits, self.flights.totals.completions),
            "books": [_kept(self.ledger.book(vcpu)) for vcpu in range(VCPUS)],
            "mark": (self.machine.mark.since_ns, list(self.machine.mark.running)),
            "cause": (self.machine.cause.vcpu, self.machine.cause.sequence, self.machine.cause.pc),
        }


def _kept(book: Book) -> tuple[object, ...]:
    return book.sequence, book.body, book.reply, book.in_flight, book.posted


def _counts(host: object) -> tuple[int, ...]:
    counted = host.statistics  # type: ignore[attr-defined]
    return counted.reads, counted.writes, counted.refused, counted.faults, sum(counted.latency)


# --- what happens ------------------------------------------------------------------------------

CODES = [
    bytes.fromhex(text)
    for text in """
    8b03 8903 8a4307 884307 668b4304 66894304 0fb64306 0fbe4307 0fb74304 660fbe4307 c703dead0000 c6430601
    8b4b14 894b14 8b4318 894318 0903 8a23 8823 8b049b 67668b07 a100b0feb0 8b43fe 368b03
    """.split()
]
WORDS = st.sampled_from([0, 1, 2, 0x80, 0xDEAD, 0x8000_0000, 0xFFFF_FFFF]) | st.integers(0, (1 << 64) - 1)
ADDRESSES = st.sampled_from(
    [MMIO + offset for offset in (*range(0, 32, 2), 7, 29, 62, 64)] + [0x100, 0x104, 0x1000]
)
SIZES = st.sampled_from([1, 2, 4, 8])


@define
class Decoded:
    """EXIT_DECODED."""

    vcpu: int
    space: Space
    direction: Direction
    address: int
    size: int
    value: int

    def play(self, side: Side) -> None:
        """Execute it."""
        side.exit(self.vcpu, self.body(side))

    def body(self, side: Side) -> bytes:
        """The vCPU's next message."""
        sequence = side.ledger.book(self.vcpu).sequence + 1
        data = (self.value % (1 << 8 * self.size)).to_bytes(self.size, "little") if self.direction else b""
        address = self.address % (1 << 16) if self.space is Space.PIO else self.address
        return encode_exit(
            DecodedExit(self.vcpu, sequence, self.space, self.direction, address, self.size, data=data)
        )


@define
class Raw:
    """EXIT_RAW."""

    vcpu: int
    code: bytes
    rax: int
    bits: int
    rflags: int
    named: str
    base: int = MMIO
    gpa: int = MMIO + 4
    rip: int = 0x1000
    cr0: int = 1

    def play(self, side: Side) -> None:
        """Execute it."""
        side.exit(self.vcpu, self.body(side))

    def body(self, side: Side) -> bytes:
        """The vCPU's next message."""
        sequence = side.ledger.book(self.vcpu).sequence + 1
        segments = [Segment(0, 0xFFFF_FFFF, 16, 0xC093) for _ in range(6)]
        segments[CS] = Segment(0, 0xFFFF_FFFF, 8, 0xA09B if self.bits == 64 else 0xC09B)
        state = VcpuState(
            segments=segments, cr0=self.cr0, efer=0x400 if self.bits == 64 else 0, rip=self.rip,
            rflags=self.rflags | 2,
        )  # fmt: skip
        state.gpr[0], state.gpr[3] = self.rax, self.base
        gva = self.base if "v" in self.named else None
        gpa = self.gpa if "p" in self.named else None
        return encode_exit(RawExit(self.vcpu, sequence, state, self.code, gpa=gpa, gva=gva))


@define
class Posted:
    """An entry of a ring."""

    vcpu: int
    address: int
    size: int
    value: int

    def play(self, side: Side) -> None:
        """Apply it."""
        sequence = side.ledger.book(self.vcpu).posted + 1
        value = self.value % (1 << 8 * self.size)
        entry = self.address.to_bytes(8, "little") + value.to_bytes(8, "little") + bytes([Space.MMIO, 0])
        side.post(self.vcpu, sequence, entry + self.size.to_bytes(2, "little") + bytes(12))


@define
class Released:
    """Slow devices answer."""

    vcpu: int = -1

    def play(self, side: Side) -> None:
        """Let them."""
        side.release()


Step = Decoded | Raw | Posted | Released

VCPU = st.integers(0, VCPUS - 1)
SPACES, DIRECTIONS = st.sampled_from([Space.MMIO, Space.PIO]), st.sampled_from([READ, WRITE])
DECODED = st.builds(Decoded, VCPU, SPACES, DIRECTIONS, ADDRESSES, SIZES, WORDS)
RAW = st.builds(
    Raw, VCPU, st.sampled_from(CODES), WORDS, st.sampled_from([32, 64]),
    st.sampled_from([0, 0, 0, 0x10000, 0x100, 0x40000, 0x8D5]), st.sampled_from(["p", "p", "pv", ""]),
)  # fmt: skip
STEPS = st.lists(
    DECODED | RAW | st.builds(Posted, VCPU, ADDRESSES, SIZES, WORDS) | st.builds(Released), max_size=40
)

LOADS = [
    Raw(0, bytes.fromhex(code), 0, 32, 0, "p")
    for code in ("8b03", "8b4b04", "8b4318", "0fb74304", "488b4308")
]
CHANGES: list[Callable[[Raw], Raw]] = [
    lambda load: load,
    *(partial(evolve, base=base) for base in (MMIO + 4, WIDE + 0xFFE)),
    *(partial(evolve, gpa=gpa) for gpa in (MMIO, WIDE + 0xFFC)),
    *(partial(evolve, rip=rip) for rip in (0x2000, 0xFFFF_FFF8, LOW_HALF - 8, HIGH_HALF, (1 << 64) - 3)),
    *(partial(evolve, rflags=rflags) for rflags in (0x10000, 0x40000, 0x100)),
    partial(evolve, bits=64),
    partial(evolve, cr0=0x8000_0001),
    partial(evolve, named="pv"),
    partial(evolve, vcpu=1),
]


def _sides() -> Iterator[Side]:
    yield Side(flatly=False)
    yield Side(flatly=True)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS)
def test_flat_lane_and_general_way_come_to_the_same(steps: list[Step]) -> None:
    """Replies, records, journals, values, quarantine, counters and books are equal after every step."""
    general, flat = _sides()
    try:
        for step in steps:
            if not isinstance(step, Released) and step.vcpu in general.flights.current:
                continue  # it waits
            step.play(general)
            step.play(flat)
            assert general.seen() == flat.seen(), step
    finally:
        general.close()
        flat.close()


@pytest.mark.parametrize("load", LOADS, ids=lambda load: load.code.hex())
def test_loads_that_come_again_come_to_the_same(load: Raw) -> None:
    """What was learnt of a load is used where it holds, and nowhere else; all that differ follow."""
    for first in (change(load) for change in CHANGES):
        general, flat = _sides()
        try:
            for change in CHANGES:
                for step in (first, Released(), change(first), Released()):
                    step.play(general)
                    step.play(flat)
                    assert general.seen() == flat.seen(), (first, step)
                    general.forget()
                    flat.forget()
        finally:
            general.close()
            flat.close()


def test_load_that_comes_again_is_the_lanes() -> None:
    """The third is done by what the first one taught."""
    _, flat = _sides()
    try:
        for _ in range(3):
            Raw(0, bytes.fromhex("8b4300"), 0, 32, 0, "p", gpa=MMIO).play(flat)
        assert (3, 1) == (flat.taken, len(flat.flat.loads))
    finally:
        flat.close()


HARD: dict[str, list[Step]] = {
    "a hook fails": [
        Decoded(0, Space.MMIO, WRITE, MMIO + 20, 4, 0xDEAD),
        Decoded(0, Space.MMIO, READ, MMIO, 4, 0),
    ],
    "an answer is too large": [
        Decoded(0, Space.MMIO, WRITE, MMIO + 20, 4, 5),
        Decoded(0, Space.MMIO, READ, MMIO + 20, 4, 0),
    ],
    "an answer is negative": [
        Decoded(0, Space.MMIO, WRITE, MMIO + 20, 4, 6),
        Raw(0, bytes.fromhex("8b4314"), 0, 32, 0, "p"),
    ],
    "a bank's predicate fails": [
        Decoded(0, Space.MMIO, WRITE, MMIO + 6, 1, 2),
        Decoded(0, Space.MMIO, READ, MMIO + 28, 1, 0),
    ],
    "one device has another one answer": [
        Decoded(0, Space.PIO, READ, 0x108, 4, 0),
        Decoded(1, Space.MMIO, WRITE, MMIO + 6, 1, 0x80),
        Decoded(0, Space.PIO, READ, 0x100, 4, 0),
    ],
    "the next page is elsewhere": [
        Raw(0, bytes.fromhex("8b03"), 0, 32, 0, "pv", 0x0070_0FFE, WIDE + 0xFFE),
        Raw(0, bytes.fromhex("8b03"), 0, 32, 0, "pv", 0x0070_0FFC, WIDE + 0xFFC),
    ],
    "posted writes wait": [
        Posted(0, MMIO + 24, 4, 1),
        Posted(1, MMIO, 4, 1),
        Released(),
        Posted(0, MMIO, 4, 2),
    ],
}


@pytest.mark.parametrize("name", HARD)
def test_what_is_hard_comes_to_the_same(name: str) -> None:
    """One by one, what random exits meet rarely."""
    general, flat = _sides()
    try:
        for step in HARD[name]:
            step.play(general)
            step.play(flat)
            assert general.seen() == flat.seen(), step
        assert flat.taken > 0
    finally:
        general.close()
        flat.close()


def test_member_of_an_enum_is_read_as_its_number() -> None:
    """A device may store a flag: its read is answered, and is no sentinel."""
    _, flat = _sides()
    try:
        flat.machine.hosts["zoo"].device.values["plain"] = Direction(1)
        for _ in range(3):
            Decoded(0, Space.MMIO, READ, MMIO, 4, 0).play(flat)
        assert (3, 1) == (len(flat.replies), flat.replies[-1][48])
        assert not flat.flights.current
    finally:
        flat.close()


def test_restarted_device_is_another_one() -> None:
    """What the lane knows of a place is the device's that it was made for."""
    _, flat = _sides()
    try:
        write = Decoded(0, Space.MMIO, WRITE, MMIO, 4, 7)
        write.play(flat)
        host = flat.machine.hosts["zoo"]
        relived = host.relive(list(host.journal.entries))
        host.device = relived.device
        evolve(write, value=8).play(flat)
        assert host.device.values["plain"] == 8
    finally:
        flat.close()


def test_lane_leaves_alone_what_must_be_refused_or_wait() -> None:
    """A value that is too large, a number that is not next, a vCPU with an exit under way."""
    _, flat = _sides()
    try:
        Decoded(0, Space.MMIO, WRITE, MMIO, 4, 7).play(flat)
        Decoded(1, Space.PIO, READ, 0x108, 4, 0).play(flat)
        body = bytearray(encode_exit(DecodedExit(0, 2, Space.MMIO, WRITE, MMIO, 4, data=bytes(4))))
        for at, byte in ((44, 1), (16, 1), (16, 3), (8, 1), (12, 1), (60, 1), (52, 0), (7, 1)):
            wrong = bytearray(body)
            wrong[at] = byte
            assert flat.flat.decoded(0, bytes(wrong), flat) is None, at
        waiting = encode_exit(DecodedExit(1, 2, Space.MMIO, READ, MMIO, 4))
        assert flat.flat.decoded(1, waiting, flat) is None
        assert not flat.flat.posted(1, 1, MMIO.to_bytes(8, "little") + bytes(10) + b"\4" + bytes(13))
        assert flat.taken == 2
        assert flat.flat.decoded(0, bytes(body), flat)
    finally:
        flat.close()


READS: list[Decoded | Raw] = [
    Decoded(0, Space.MMIO, READ, MMIO, 4, 0),
    Raw(0, bytes.fromhex("8b4300"), 0, 32, 0, "p", gpa=MMIO),
]


@pytest.mark.parametrize("read", READS, ids=["decoded", "raw"])
@pytest.mark.parametrize("at", [4, 7, 8, 12, 16, 17], ids=lambda at: f"byte {at}")
def test_read_that_comes_again_is_checked_as_any(read: Decoded | Raw, at: int) -> None:
    """Type, flags, vCPU and number of what a slot knows are looked at all the same."""
    _, flat = _sides()
    try:
        for _ in range(3):
            read.play(flat)
        body = bytearray(read.body(flat))
        body[at] ^= 0x40
        with pytest.raises(ProtocolError):
            flat.put(bytes(body))
        assert (3, 3) == (flat.ledger.book(0).sequence, len(flat.records))
    finally:
        flat.close()


class Changing(mmap.mmap):
    """A memory whose client does something as soon as the whole of an EXIT_RAW is copied."""

    act: Callable[[], None] | None = None

    def __getitem__(self, what: int | slice) -> Any:  # type: ignore[override]  # noqa: ANN401  # as its base
        if isinstance(what, slice) and what.stop - what.start == BY_NAME["EXIT_RAW"].struct.size and self.act:
            copied = super().__getitem__(what)
            self.act()
            return copied
        return super().__getitem__(what)


@pytest.mark.parametrize("at", [4, 8, 16, 23, 49, 56, 57], ids=lambda at: f"byte {at}")
def test_load_that_is_owed_is_the_one_that_was_looked_at(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Type, vCPU, number, intent, CPL: what a client changes behind the copy is never believed."""
    monkeypatch.setattr(mmap, "mmap", Changing)
    _, flat = _sides()
    slow = Raw(0, bytes.fromhex("8b4318"), 0, 32, 0, "p", gpa=MMIO + 24)
    try:
        for _ in range(2):
            slow.play(flat)
            flat.release()
        body, memory = slow.body(flat), flat.mapping
        assert isinstance(memory, Changing)
        begin = flat.slot.page + shared.EXIT

        def change() -> None:
            memory.act = None
            memory[begin + at] = body[at] ^ 0x40

        memory.act = change
        flat.put(body)
        assert body[at] ^ 0x40 == flat.mapping[begin + at]
        assert (3, body) == (flat.ledger.book(0).sequence, flat.ledger.book(0).body)
        flat.release()
        assert 3 == len(flat.replies)
    finally:
        flat.close()


@pytest.mark.parametrize("read", READS, ids=["decoded", "raw"])
def test_read_that_comes_again_waits_for_the_exit_under_way(read: Decoded | Raw) -> None:
    """A vCPU has one exit at a time."""
    _, flat = _sides()
    try:
        for _ in range(3):
            read.play(flat)
        Decoded(0, Space.PIO, READ, 0x108, 4, 0).play(flat)
        with pytest.raises(ProtocolError, match="in flight"):
            flat.put(read.body(flat))
        assert 4 == flat.ledger.book(0).sequence
    finally:
        flat.close()


def test_completion_has_nothing_of_the_one_before() -> None:
    """A load that comes again behind a decoded read: its DONE is what a message would be, byte for byte."""
    _, flat = _sides()
    decoded, raw = READS
    try:
        for read in (raw, decoded, raw, decoded, raw):
            read.play(flat)
        assert (5, 5) == (flat.taken, len(flat.replies))
    finally:
        flat.close()


def test_plain_exits_take_the_flat_lane() -> None:
    """The comparison above compares two ways: this is what the flat one takes."""
    _, flat = _sides()
    steps: list[Step] = [
        Decoded(0, Space.MMIO, READ, MMIO, 4, 0),
        Decoded(0, Space.MMIO, WRITE, MMIO + 7, 1, 3),
        Decoded(0, Space.PIO, READ, 0x100, 4, 0),
        Decoded(0, Space.PIO, READ, 0x108, 4, 0),
        Released(),
        Raw(0, bytes.fromhex("8b03"), 0, 32, 0, "p"),
        Raw(0, bytes.fromhex("8903"), 7, 64, 0, "p"),
        Raw(0, bytes.fromhex("0fbe4307"), 7, 64, 0, "pv"),
        Posted(0, MMIO, 4, 9),
    ]
    try:
        for step in steps:
            step.play(flat)
        assert flat.taken == len(steps) - 1
    finally:
        flat.close()


def test_lane_takes_datagrams_of_exits_only() -> None:
    """Another message, a vCPU that there is not, and any exit while the devices are paused."""
    _, flat = _sides()
    try:
        read = DecodedExit(1, 1, Space.MMIO, READ, MMIO, 4)
        assert not flat.flat.message(encode_exit(DecodedExit(VCPUS, 1, Space.MMIO, READ, MMIO, 4)), flat)
        assert not flat.flat.message(Client("vm", VCPUS).hello(), flat)
        assert not flat.flat.message(b"", flat)
        flat.ledger.paused = True
        assert not flat.flat.message(encode_exit(read), flat)
        flat.ledger.paused = False
        assert flat.flat.message(encode_exit(read), flat)
        assert flat.ledger.book(1).sequence == 1
    finally:
        flat.close()
