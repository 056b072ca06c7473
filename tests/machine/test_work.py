"""Runs of a work within a machine: however memory is reached and whatever happens, the same is done."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from functools import partial

import attrs
import pytest
from hypothesis import given, settings, strategies as st

from mmiod.device import (
    Device,
    MemoryGather,
    MemoryRead,
    MemoryScatter,
    MemoryWrite,
    Moves,
    Register,
    Work,
)
from mmiod.device.accesses import Access
from mmiod.device.work import RANGE, WATCH_NS
from mmiod.machine import serving
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.handover import prepare
from mmiod.machine.host import InlineHost
from mmiod.machine.restart import restart
from mmiod.machine.slot import Slot
from mmiod.machine.state import restore, save
from mmiod.values import WRITE, Space
from tests.machine.machines import Rig
from tests.machine.test_state import Ram

RING, SOURCES, TARGETS, USED = 0x1000, 0x4000, 0x8000, 0x2000
ENTRIES = 32
ENTRY = struct.Struct("<III")
DESCRIBED = DeviceDescription("test/mover", at={"main": Placement(Space.MMIO, 0x1000)})


@attrs.define
class Place:
    """Where the device below is."""

    index: int = 0
    checksum: int = 0


class Mover(Device):
    """Copies what a ring in memory describes, in reverse, as far as the guest says."""

    length = 8
    state: Place
    moving = Work()
    tail = Register(0, size=4)
    broken = Register(4, size=4)

    @tail.on_write
    def _bell(self, value: int) -> None:
        self.tail = value
        self.moving.start()

    @broken.on_write
    def _break(self, value: int) -> None:
        raise RuntimeError(f"broken by {value}")

    @moving.on_run
    def _move(self) -> Moves:
        while self.state.index != self.tail:
            data = yield from self._copy(RING + ENTRY.size * self.state.index)
            self.state.checksum = zlib.crc32(data, self.state.checksum)
            self.state.index += 1

    def _copy(self, entry: int) -> Generator[Access, bytes, bytes]:
        source, target, length = ENTRY.unpack((yield MemoryRead(entry, ENTRY.size)))
        third = length // 3
        data = yield MemoryGather([(source, third), (source + third, length - third)])
        yield MemoryScatter([(target, third), (target + third, length)], data[::-1])
        yield MemoryWrite(USED, (self.state.index + 1).to_bytes(4, "little"))
        return data


class Successor(Mover):
    """Its next generation."""


@attrs.define(eq=False)
class Client:
    """Answers the last message of each work when it is told to."""

    ram: Ram
    host: InlineHost
    asked: dict[str, tuple[str, bytes]] = attrs.Factory(dict)

    def ask(self, work: str, kind: str, data: bytes) -> None:
        """Keep it."""
        self.asked[work] = kind, data

    def answer(self, _: int = 0) -> None:
        """Do what one message says."""
        if not self.asked:
            return
        work, (kind, data) = self.asked.popitem()
        gpa, length = RANGE.unpack_from(data)
        if kind == "read":
            self.host.reply(work, 0, self.ram.read(gpa, length))
        else:
            assert length == len(data) - RANGE.size
            self.ram.write(gpa, data[RANGE.size :])
            self.host.reply(work, 0, b"")


@attrs.define(eq=False)
class World:
    """One machine with the device, and how its memory is reached."""

    messages: bool
    ram: Ram = attrs.Factory(Ram)
    tail: int = 0
    rig: Rig = attrs.field(init=False)
    client: Client = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.rig = Rig({"dev": (Mover, DESCRIBED)})
        machine = self.rig.machine
        self.client = Client(self.ram, machine.hosts["dev"])
        if self.messages:
            machine.memory.messenger = self.client
        machine.memory.add(Slot(0, 0, 1 << 20, False, None if self.messages else self.ram))
        for index in range(ENTRIES):
            source, target = SOURCES + 512 * index, TARGETS + 512 * index
            self.ram.write(RING + ENTRY.size * index, ENTRY.pack(source, target, 17 * index % 512))
            self.ram.write(source, bytes((index * 7 + at) & 0xFF for at in range(512)))

    @property
    def host(self) -> InlineHost:
        """The device's."""
        return self.rig.machine.hosts["dev"]

    @property
    def working(self) -> bool:
        """Whether it has something to do."""
        return self.host.device.working

    def write(self, offset: int, value: int) -> None:
        """A guest's write."""
        self.rig.access(Space.MMIO, 0x1000 + offset, 4, WRITE, value)

    def wait(self, ns: int) -> None:
        """Guest time passes."""
        clock = self.rig.machine.clock
        clock.advance_to(clock.now_ns + ns)

    def ring(self, count: int) -> None:
        """The guest adds entries."""
        self.tail = min(self.tail + count, ENTRIES)
        self.write(0, self.tail)

    def fail(self, _: int) -> None:
        """The device fails and comes back."""
        self.write(4, 1)
        self.rig.now += 60 * 10**9
        restart(self.rig.machine, "dev")
        assert self.host.failure is None, self.host.failure

    def restore(self, _: int) -> None:
        """The machine is saved and restored."""
        restore(self.rig.machine, save(self.rig.machine))

    def reload(self, _: int) -> None:
        """Another generation takes over."""
        plugin = Mover if type(self.host.device) is Successor else Successor
        prepare(self.rig.machine, plugin, {"dev": None}).commit(2)

    def cut(self, _: int) -> None:
        """A snapshot is taken."""
        assert self.host.cut()

    def finish(self) -> tuple[bytes, Place]:
        """Let it do all that it was told; what came of it."""
        for _ in range(1000):
            if not self.working:
                break
            self.client.answer()
            self.wait(WATCH_NS)
        assert not self.working
        device = self.host.device
        assert isinstance(device, Mover)
        return bytes(self.ram.data), device.state


ACTIONS: dict[str, Callable[[World, int], None]] = {
    "ring": World.ring,
    "answer": lambda world, _: world.client.answer(),
    "wait": lambda world, ns: world.wait(ns * 1_000_000),
    "fail": World.fail,
    "restore": World.restore,
    "reload": World.reload,
    "cut": World.cut,
}
STEPS = st.lists(
    st.tuples(st.sampled_from([*ACTIONS, "ring", *["answer"] * 6]), st.integers(0, 5)), max_size=60
)


@contextmanager
def limits(limit: int, patient: int) -> Iterator[None]:
    """With other lengths of journals."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "LIMIT", limit)
        patch.setattr(serving, "PATIENT_LIMIT", patient)
        yield


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, limit=st.sampled_from([(0, 80), (8, 120), (1024, 65536)]))
def test_however_memory_is_reached_and_whatever_happens_the_same_is_done(
    steps: list[tuple[str, int]], limit: tuple[int, int]
) -> None:
    """Guest memory and state are those of memory that is mapped, with which nothing happened."""
    plain = World(messages=False)
    plain.ring(sum(number for action, number in steps if action == "ring"))
    expected = plain.finish()
    for messages in (False, True):
        world = World(messages)
        with limits(*limit):
            for action, number in steps:
                ACTIONS[action](world, number)
            assert expected == world.finish()


def test_a_journal_is_patient_with_a_run_but_not_forever() -> None:
    """Past the limit it waits for the run's end, and past the other one the run begins anew."""
    world = World(messages=True)
    with limits(10, 1000):
        world.ring(ENTRIES)
        for _ in range(20):
            world.client.answer()
        assert 40 < len(world.host.journal.entries)
    with limits(10, 30):
        world.client.answer()
        assert 10 > len(world.host.journal.entries)
        assert {} == world.client.asked
        world.wait(0)
        assert ["moving"] == list(world.client.asked)
    assert ENTRIES == world.finish()[1].index


def test_an_answer_at_which_the_device_fails_ends_the_run() -> None:
    """The input is not given again, so nobody waits for it: the next start begins a run."""
    world = World(messages=True)
    world.ram.write(RING, ENTRY.pack(SOURCES, TARGETS, 1 << 25))
    world.ring(1)
    world.client.answer()
    assert "ValueError: DMA of 0x1555556 bytes at 0xaaeaaa: at most 0x1000000 at once" == world.host.failure
    world.rig.now += 60 * 10**9
    restart(world.rig.machine, "dev")
    assert world.host.serves
    assert not world.working
    world.ram.write(RING, ENTRY.pack(SOURCES, TARGETS, 16))
    world.ring(0)
    assert 1 == world.finish()[1].index


def test_without_a_messenger_what_nobody_shared_reads_ones() -> None:
    """As RAM that nobody has: the run does not wait for anybody."""
    world = World(messages=True)
    world.rig.machine.memory.messenger = None
    seen = []

    class Probe(Mover):
        probe = Work()

        @probe.on_run
        def _probe(self) -> Moves:
            seen.append((yield MemoryRead(RING, 4)))
            yield MemoryWrite(RING, b"lost")

    prepare(world.rig.machine, Probe, {"dev": None}).commit(2)
    device = world.host.device
    assert isinstance(device, Probe)
    device.probe.start()
    assert ([b"\xff" * 4], False) == (seen, world.working)
    assert b"lost" != world.ram.read(RING, 4)


def test_runs_of_real_time_leave_others_their_turn() -> None:
    """A run that goes on at the present time is due behind what is due already, in another turn."""
    world = World(messages=False)
    clock = world.rig.machine.clock
    clock.virtual = False
    clock.go()
    fired: list[str] = []

    def again() -> None:
        fired.append("run")
        world.rig.now += 1
        clock.arm("dev", "moving", clock.now_ns, again)

    clock.arm("dev", "moving", 0, again)
    clock.arm("other", "tick", 0, partial(fired.append, "tick"))
    assert (2, ["run", "tick"]) == (clock.fire_due(), fired)


def test_ranges_of_one_access_are_reached_each_in_its_way() -> None:
    """What is mapped at once, the rest by messages, in order; what is left of the ranges is not written."""
    low, high = RING, 0x20000
    world = World(messages=True)
    memory = world.rig.machine.memory
    memory.remove(0)
    memory.add(Slot(0, 0, 0x10000, False, world.ram))
    memory.add(Slot(1, 0x10000, 0x20000, False, None))
    world.ram.write(low, b"AB")
    world.ram.write(high, b"CDE")
    world.ram.write(low + 16, b"......")
    seen = []

    def run() -> Moves:
        data = yield MemoryGather([(low, 2), (high, 2), (low + 1, 1), (high + 2, 1)])
        seen.append(data)
        yield MemoryScatter([(high + 16, 4), (low + 16, 4), (high + 32, 4)], data)

    job = world.host.device.jobs["moving"]
    job.run = run
    job.start()
    messages = []
    while world.client.asked:
        _, (kind, data) = next(iter(world.client.asked.items()))
        messages.append((kind, *RANGE.unpack_from(data)))
        world.client.answer()
    assert [b"ABCDBE"] == seen
    assert [("read", high, 2), ("read", high + 2, 1), ("write", high + 16, 4)] == messages
    assert (b"ABCD", b"BE....") == (world.ram.read(high + 16, 4), world.ram.read(low + 16, 6))
    assert not job.deadline_ns
