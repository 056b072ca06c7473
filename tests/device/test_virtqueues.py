"""Virtqueues of both layouts against drivers that were written from the specification."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Callable, Iterator

import pytest
from attrs import define, field
from hypothesis import given, settings, strategies as st

from mmiod.device.accesses import MemoryRead
from mmiod.device.virtio import (
    BrokenQueue,
    Chain,
    DeviceStatus,
    Feature,
    Queue,
    VirtioConfig,
    VirtioDevice,
    VirtioState,
    gather,
    length_of,
    scatter,
)
from mmiod.device.virtio.packed import PackedRing
from mmiod.device.virtio.queue import Ring
from mmiod.device.virtio.split import SplitRing
from mmiod.device.work import Moves
from mmiod.testing import Harness
from mmiod.testing.harness import FakeMemory
from tests.device.virtio_drivers import PackedDriver, SplitDriver

LAYOUTS = [pytest.param(False, id="split"), pytest.param(True, id="packed")]
EVENTS = [pytest.param(False, id="flags"), pytest.param(True, id="event index")]
AnyDriver = SplitDriver | PackedDriver


@define
class EchoState(VirtioState):
    """Chains that are kept back."""

    kept: list[Chain] = field(factory=list)


class Echo(VirtioDevice):
    """Gives back what it read, reversed: at once, or, of a text that begins with "k", when asked."""

    length = 4
    device_type = 42
    state: EchoState
    interrupts: int
    configuration_interrupts: int

    def read(self, offset: int, size: int) -> int:  # noqa: ARG002
        """There is no transport."""
        return 0

    def write(self, offset: int, size: int, value: int) -> None:
        """There is no transport."""

    def on_reset(self) -> None:
        """Nothing was told."""
        super().on_reset()
        self.interrupts = self.configuration_interrupts = 0

    def queue_sizes(self) -> tuple[int, ...]:
        """One."""
        return (256,)

    def room(self, number: int) -> int:  # noqa: ARG002
        """A few."""
        return 3

    def serve(self, number: int, chain: Chain) -> Moves:
        """Answer it or keep it."""
        data = yield from gather(chain.readable)
        if data.startswith(b"k"):
            self.state.queues[number].accept(chain)
            self.state.kept.append(chain)
        else:
            yield from self._answer(chain, data)
            self.state.queues[number].finish(chain, min(len(data), length_of(chain.writable)))

    def deliver(self) -> Moves:
        """The last of those that were kept."""
        if self.state.kept:
            chain = self.state.kept[-1]
            data = yield from gather(chain.readable)
            yield from self._answer(chain, data)
            self.state.kept.pop()
            self.state.queues[0].end(chain, min(len(data), length_of(chain.writable)))

    def _answer(self, chain: Chain, data: bytes) -> Moves:
        yield from scatter(chain.writable, data[::-1][: length_of(chain.writable)])

    def tell_queue(self, queue: Queue) -> None:  # noqa: ARG002
        """Count."""
        self.interrupts += 1

    def tell_configuration(self) -> None:
        """Count."""
        self.configuration_interrupts += 1

    def reset_transport(self) -> None:
        """There is none."""


class Bench:
    """A device, a driver, and the time between the two."""

    def __init__(self, *, packed: bool, event_index: bool, size: int) -> None:
        self.harness = Harness(Echo, VirtioConfig(packed=packed, event_index=event_index))
        self.device = self.harness.device
        self.memory = self.harness.context.memory
        self.driver: AnyDriver = (PackedDriver if packed else SplitDriver)(self.memory.ram, size, event_index)
        device = self.device
        for word in range(2):
            device.accept_word(word, device.feature_word(word))
        device.write_status(11)
        device.resize_queue(0, size)
        queue = self.queue
        queue.descriptors, queue.driver, queue.device = 0x1000, 0x3000, 0x4000
        device.enable_queue(0)
        device.write_status(15)
        self.expected: dict[int, bytes] = {}
        self.answered = 0
        self.seen = 0
        self.driver.collect()

    @property
    def queue(self) -> Queue:
        """The device's side."""
        return self.device.state.queues[0]

    def offer(self, readable: list[bytes], writable: list[int], *, indirect: bool) -> None:
        """Offer and kick, if the device wants that."""
        number = self.driver.offer(readable, writable, indirect=indirect)
        if number is not None:
            text = b"".join(readable)
            self.expected[number] = text[::-1][: sum(writable)]
            if self.driver.kicks():
                self.queue.rung = self.queue.wanted = True

    def interrupted(self) -> None:
        """The driver wakes up only if it was interrupted."""
        if self.device.interrupts != self.seen:
            self.seen = self.device.interrupts
            for number, data in self.driver.collect():
                assert self.expected.pop(number) == data
                self.answered += 1

    def run(self, between: Callable[[], None] = lambda: None) -> None:
        """A run; the driver does something between any two accesses, as it does on another CPU.

        And within one: of a long read the end may be older than the begin.
        """
        run, result = self.device.moving.run(), None
        while True:
            try:
                access = run.send(result)  # type: ignore[arg-type]  # None begins it
            except StopIteration:
                return
            between()
            if isinstance(access, MemoryRead) and access.length > 8:
                half = access.length // 2
                end = self.memory.read(access.gpa + half, access.length - half)
                between()
                result = self.memory.read(access.gpa, half) + end
            else:
                result = access.perform(self.memory)
            between()

    def settle(self) -> None:
        """Run while there is a reason to."""
        for _ in range(1000):
            self.interrupted()
            if not (self.queue.wanted or self.device.state.kept or self.queue.finished):
                return
            self.run()
        raise AssertionError("the device does not come to rest")


offers = st.tuples(
    st.lists(st.binary(min_size=1, max_size=9), min_size=1, max_size=3),
    st.lists(st.integers(1, 9), max_size=3),
    st.booleans(),
)


@pytest.mark.parametrize("packed", LAYOUTS)
@pytest.mark.parametrize("event_index", EVENTS)
@settings(max_examples=60, deadline=None)
@given(
    size=st.sampled_from([2, 4, 8, 16]),
    steps=st.lists(st.none() | offers, min_size=20, max_size=120),
    pace=st.lists(st.integers(0, 6), min_size=1, max_size=8),
)
def test_everything_comes_back_once_and_nobody_sleeps_for_ever(
    packed: bool,
    event_index: bool,
    size: int,
    steps: list[tuple[list[bytes], list[int], bool] | None],
    pace: list[int],
) -> None:
    """Each buffer comes back with the right bytes, round many ends of the ring.

    The driver offers between any two accesses of the device, kicks only if the device wants
    it, and looks only when it was interrupted.
    """
    bench = Bench(packed=packed, event_index=event_index, size=size)
    waiting: Iterator[tuple[list[bytes], list[int], bool] | None] = iter(steps)
    rhythm = itertools.cycle(pace)
    countdown = [next(rhythm)]

    def meanwhile() -> None:
        countdown[0] -= 1
        if countdown[0] < 0:
            countdown[0] = next(rhythm)
            step = next(waiting, None)
            if step is not None:
                readable, writable, indirect = step
                if len(readable) + len(writable) <= size:
                    bench.offer(readable, writable, indirect=indirect)
            bench.interrupted()

    for _ in range(3 * len(steps)):
        meanwhile()
        if bench.queue.wanted or bench.device.state.kept:
            bench.run(meanwhile)
    bench.settle()
    assert {} == bench.expected
    assert not bench.device.state.status & DeviceStatus.DEVICE_NEEDS_RESET


@pytest.mark.parametrize("packed", LAYOUTS)
@pytest.mark.parametrize("event_index", EVENTS)
@pytest.mark.parametrize("dropped", range(30))
def test_a_run_that_was_dropped_does_no_harm(packed: bool, event_index: bool, dropped: int) -> None:
    """Wherever it ends, the next one goes on; what the driver had back already it keeps."""
    bench = Bench(packed=packed, event_index=event_index, size=4)
    for turn in range(9):
        bench.offer([b"turn", b"%d" % turn], [3, 2], indirect=bool(turn % 2))
        run, result = bench.device.moving.run(), None
        for _ in range(dropped):
            try:
                result = run.send(result).perform(bench.memory)  # type: ignore[arg-type]
            except StopIteration:
                break
            for number, data in bench.driver.collect():  # it polls
                assert bench.expected.pop(number) == data
            bench.offer([b"more"], [4], indirect=True)
        run.close()
        bench.settle()
        for number, data in bench.driver.collect():
            assert bench.expected.pop(number) == data
    assert {} == bench.expected


def test_an_event_index_spares_notifications() -> None:
    """While the device has not come so far as to ask for one, the driver need not kick."""
    for packed in (False, True):
        bench = Bench(packed=packed, event_index=True, size=8)
        bench.offer([b"first"], [5], indirect=False)
        bench.settle()
        kicks = []
        for _ in range(3):
            bench.driver.offer([b"a"], [1], indirect=False)
            kicks.append(bench.driver.kicks())
        assert [True, False, False] == kicks


# --- hostile drivers ----------------------------------------------------------------------------

SIZE = 4
PART = struct.Struct("<QIHH")


def split(*descriptors: bytes, heads: tuple[int, ...] = (0,), index: int | None = None) -> FakeMemory:
    """A split queue whose table has these."""
    memory = FakeMemory()
    table = b"".join(descriptors)
    memory.write(0x1000, table)
    memory.write(0x3000, struct.pack(f"<HH{len(heads)}H", 0, len(heads) if index is None else index, *heads))
    return memory


def packed_memory(*descriptors: bytes) -> FakeMemory:
    """A packed queue whose ring has these, all available."""
    memory = FakeMemory()
    memory.write(0x1000, b"".join(descriptors))
    return memory


def taking(ring: Ring, memory: FakeMemory) -> list[Chain]:
    """Take what there is; there are few accesses, whatever the driver wrote."""
    run, result = ring.take(100), None
    for _ in range(20):
        try:
            access = run.send(result)  # type: ignore[arg-type]
        except StopIteration as done:
            chains: list[Chain] = done.value
            return chains
        assert access.length <= (16 + 2) * SIZE  # the table, and the ring
        result = access.perform(memory)
    raise AssertionError("no end")


def queue(available: int = 0) -> Queue:
    """As the driver set it up."""
    return Queue(SIZE, True, 0xFFFF, 0x1000, 0x3000, 0x4000, available=available)


BROKEN_SPLIT = {
    "descriptor 7 of 4": split(PART.pack(0x8000, 1, 0, 0), heads=(7,)),
    "descriptor 9 of 4": split(PART.pack(0x8000, 1, 1, 9)),
    "chain of more than 4": split(PART.pack(0x8000, 1, 1, 0)),
    "a buffer of 0x0 bytes": split(PART.pack(0x8000, 0, 0, 0)),
    "a buffer of 0x2 bytes at 0xffffffffffffffff": split(PART.pack((1 << 64) - 1, 2, 0, 0)),
    "is for reading": split(PART.pack(0x8000, 1, 3, 1), PART.pack(0x9000, 1, 0, 0)),
    "5 chains are available": split(PART.pack(0x8000, 1, 0, 0), index=5),
    "65535 chains are available": split(PART.pack(0x8000, 1, 0, 0), index=0xFFFF),
    "indirect table of 0x0": split(PART.pack(0x8000, 0, 4, 0)),
    "indirect table of 0x11": split(PART.pack(0x8000, 17, 4, 0)),
    "indirect table of 0xfffffff0": split(PART.pack(0x8000, 0xFFFF_FFF0, 4, 0)),
    "is indirect and has a next": split(PART.pack(0x8000, 16, 5, 0)),
    "table within the one at 0x1000": split(PART.pack(0x1000, 16, 4, 0)),
}
BROKEN_PACKED = {
    "chain of more than 4": packed_memory(*[PART.pack(0x8000, 1, 0, 0x81)] * 4),
    "a buffer of 0x0 bytes": packed_memory(PART.pack(0x8000, 0, 0, 0x80)),
    "is for reading": packed_memory(PART.pack(0x8000, 1, 0, 0x83), PART.pack(0x9000, 1, 0, 0x80)),
    "indirect table of 0x50": packed_memory(PART.pack(0x8000, 80, 0, 0x84)),
    "is indirect and has a next": packed_memory(PART.pack(0x8000, 16, 0, 0x85)),
    "table within the one at 0x1000": packed_memory(PART.pack(0x1000, 16, 0, 0x84)),
}


@pytest.mark.parametrize("reason", BROKEN_SPLIT)
def test_a_broken_split_queue(reason: str) -> None:
    """What no driver may do is found after few reads of bounded length, and said."""
    with pytest.raises(BrokenQueue, match=reason):
        taking(SplitRing(queue(), event_index=True), BROKEN_SPLIT[reason])


@pytest.mark.parametrize("reason", BROKEN_PACKED)
def test_a_broken_packed_queue(reason: str) -> None:
    """What no driver may do is found after few reads of bounded length, and said."""
    with pytest.raises(BrokenQueue, match=reason):
        taking(PackedRing(queue(0x8000), event_index=True), BROKEN_PACKED[reason])


@pytest.mark.parametrize("packed", LAYOUTS)
@settings(max_examples=300, deadline=None)
@given(noise=st.binary(min_size=200, max_size=600), seeds=st.integers(1, 1 << 32))
def test_any_bytes_are_chains_or_broken(packed: bool, noise: bytes, seeds: int) -> None:
    """Of whatever is in memory a take gives chains of a queue's size at most, or says what is wrong."""
    memory = FakeMemory()
    filler = (noise * 100)[: 0x5000 + seeds % 7]
    memory.write(0, filler)
    ring: Ring = PackedRing(queue(0x8000), True) if packed else SplitRing(queue(seeds % 0x10000), True)
    try:
        chains = taking(ring, memory)
    except BrokenQueue:
        return
    assert len(chains) <= SIZE
    assert all(1 <= len(chain.readable) + len(chain.writable) <= 2 * SIZE for chain in chains)


def test_a_device_with_a_broken_queue_waits_for_its_reset() -> None:
    """2.1.2: DEVICE_NEEDS_RESET and a configuration interrupt; then it takes nothing until a reset."""
    bench = Bench(packed=False, event_index=False, size=4)
    bench.memory.write(0x3002, b"\x09\x00")
    bench.device.notified(0)
    assert 15 | DeviceStatus.DEVICE_NEEDS_RESET == bench.device.state.status
    assert 1 == bench.device.configuration_interrupts
    bench.device.notified(0)
    assert [
        ("queue_broken", {"reason": "9 chains are available in a queue of 4"})
    ] == bench.harness.context.events
    bench.device.write_status(0)
    assert (0, False) == (bench.device.state.status, bench.queue.enabled)


# --- features -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("features", "accepted"),
    [
        (Feature.VERSION_1, True),
        (Feature.VERSION_1 | Feature.EVENT_IDX | Feature.INDIRECT_DESC, True),
        (Feature.EVENT_IDX, False),
        (Feature.VERSION_1 | Feature.RING_PACKED, False),
        (Feature.VERSION_1 | 1, False),
    ],
)
def test_features_have_to_be_offered(features: int, accepted: bool) -> None:
    """3.1.1: FEATURES_OK does not stay where VERSION_1 is missing or something was never offered."""
    device = Harness(Echo).device
    for word in range(2):
        device.accept_word(word, features >> 32 * word & 0xFFFF_FFFF)
    device.write_status(11)
    assert accepted == bool(device.state.status & DeviceStatus.FEATURES_OK)
