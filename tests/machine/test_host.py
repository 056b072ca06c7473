"""The waist: what holds for each access, whoever sends it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import define, field
from hypothesis import given, strategies as st

from mmiod.device import PENDING, Device, IrqInput, IrqOutput, Pending, Region, Timer
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.host import InlineHost
from mmiod.machine.mark import Mark
from mmiod.machine.sizes import split
from mmiod.machine.waist import BUSY
from mmiod.trace.record import DEVICE, REGISTER, SIZE, STATUS, VALUE
from mmiod.values import READ, WRITE, Direction, Space, ones
from tests.machine.machines import Rig

SIZES = (1, 2, 4, 8, 16, 32, 64)


def place(base: int = 0, region: str = "main") -> DeviceDescription:
    """Where the device is."""
    return DeviceDescription("test/device", at={region: Placement(Space.MMIO, base)})


# --- size rules ------------------------------------------------------------------------


def qemu_calls(region: Region, offset: int, size: int) -> list[tuple[int, int, int]] | None:
    """(offset, width, bytes used) of each call of a device's hook, as QEMU 7.2 makes them.

    softmmu/physmem.c flatview_read_continue and memory_access_size, then softmmu/memory.c
    memory_region_access_valid and access_with_adjusted_size; `valid.unaligned` and
    `impl.unaligned` are one flag here.  None: a part of it is not valid, and then nothing
    of the access is done, as our rule is (QEMU does the other parts).
    """
    calls = []
    position, left = offset, size
    while left:
        most = region.valid[1]
        alignment = position & -position
        if not region.unaligned and alignment and alignment < most:
            most = alignment
        taken = 1 << min(left, most).bit_length() - 1
        misaligned = not region.unaligned and position & (taken - 1)
        if misaligned or not region.valid[0] <= taken <= region.valid[1]:
            return None
        width = max(min(taken, region.implemented[1]), region.implemented[0])
        calls += [(position + at, width, min(width, taken - at)) for at in range(0, taken, width)]
        position += taken
        left -= taken
    return calls


LIMITS = st.tuples(st.sampled_from(SIZES), st.sampled_from(SIZES)).map(lambda pair: (min(pair), max(pair)))
REGIONS = st.builds(Region, st.just(4096), valid=LIMITS, implemented=LIMITS, unaligned=st.booleans())


@define(eq=False)
class Calls:
    """What the hooks of a device saw."""

    reads: list[tuple[int, int]] = field(factory=list)
    writes: list[tuple[int, int, int]] = field(factory=list)


def content(offset: int, size: int) -> int:
    """A device's bytes: each tells its offset."""
    return int.from_bytes(bytes((at * 7 + 1) & 0xFF for at in range(offset, offset + size)), "little")


def recording(region: Region, calls: Calls) -> type[Device]:
    """A device with this one region."""
    declared = Region(
        region.length, valid=region.valid, implemented=region.implemented, unaligned=region.unaligned
    )

    class Recording(Device):
        registers = declared

        @declared.on_read
        def _read(self, offset: int, size: int) -> int:
            calls.reads.append((offset, size))
            return content(offset, size)

        @declared.on_write
        def _write(self, offset: int, size: int, value: int) -> None:
            calls.writes.append((offset, size, value))

    return Recording


@given(REGIONS, st.integers(0, 130), st.integers(1, 64), st.integers(0, (1 << 512) - 1))
def test_sizes_follow_qemus_memory_core(region: Region, offset: int, size: int, value: int) -> None:
    """Which calls an access becomes, and what comes of them, for reads and for writes."""
    calls = Calls()
    rig = Rig({"dev": (recording(region, calls), place(0x1000, "registers"))})
    expected = qemu_calls(region, offset, size)
    value &= ones(size)

    read = rig.access(Space.MMIO, 0x1000 + offset, size, READ)
    rig.access(Space.MMIO, 0x1000 + offset, size, WRITE, value)

    statistics = rig.machine.hosts["dev"].statistics
    if expected is None:
        assert ones(size) == read
        assert ([], []) == (calls.reads, calls.writes)
        assert (2, ["size", "size"]) == (statistics.refused, [record[STATUS] for record in rig.records])
        return
    assert [(at, width) for at, width, _ in expected] == calls.reads
    assert content(offset, size) == read
    data = value.to_bytes(size, "little")
    assert [
        (at, width, int.from_bytes(data[at - offset : at - offset + used], "little"))
        for at, width, used in expected
    ] == calls.writes
    assert 0 == statistics.refused


@pytest.mark.parametrize(
    ("region", "offset", "size", "pieces"),
    [
        (Region(16, valid=(1, 4)), 0, 8, [(0, 4), (4, 4)]),
        (Region(16, valid=(1, 4)), 1, 4, [(1, 1), (2, 2), (4, 1)]),
        (Region(16, valid=(1, 4), unaligned=True), 1, 4, [(1, 4)]),
        (Region(16, valid=(4, 4)), 0, 2, None),
        (Region(16, valid=(4, 4)), 2, 4, None),
        (Region(16, valid=(1, 8), implemented=(1, 1)), 4, 2, [(4, 1), (5, 1)]),
        (Region(16, valid=(1, 8), implemented=(4, 4)), 1, 1, [(1, 1)]),
    ],
)
def test_examples_of_splitting(
    region: Region, offset: int, size: int, pieces: list[tuple[int, int]] | None
) -> None:
    """Known cases, so that the rule above is not the only witness."""
    assert pieces == split(region, offset, size)


# --- quarantine --------------------------------------------------------------------------


def device(read: Callable[[Device, int, int], object], **more: object) -> type[Device]:
    """A device of 64 bytes whose reads and writes are this function; a write gets value -1."""

    def write(self: Device, offset: int, size: int, value: int) -> object:  # noqa: ARG001
        return read(self, offset, -size)

    return type("Made", (Device,), {"length": 64, "read": read, "write": write, **more})


def fails(_self: Device, _offset: int, _size: int) -> int:
    """A hook that raises."""
    raise RuntimeError("broken")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (fails, "RuntimeError: broken"),
        (lambda *_: None, "TypeError: a read of 4 bytes was answered by None"),
        (lambda *_: "1", "TypeError: a read of 4 bytes was answered by '1'"),
        (lambda *_: 1 << 32, "TypeError: a read of 4 bytes was answered by 4294967296"),
        (lambda *_: -1, "TypeError: a read of 4 bytes was answered by -1"),
    ],
)
def test_wrong_answer_quarantines(answer: Callable[[Device, int, int], object], reason: str) -> None:
    """Exception, wrong type, wrong range: all ones, an event, and no further call."""
    rig = Rig({"dev": (device(answer), place())})
    host = rig.machine.hosts["dev"]

    assert 0xFFFF_FFFF == rig.access(Space.MMIO, 0, 4, READ)
    assert reason == host.failure
    assert [("device_quarantined", {"device": "dev", "reason": reason})] == rig.events
    assert 0xFF == rig.access(Space.MMIO, 0, 1, READ)
    assert 0 == rig.access(Space.MMIO, 0, 1, WRITE, 7)
    assert ["quarantined"] * 3 == [record[STATUS] for record in rig.records]
    assert (2, 1, 1) == (host.statistics.reads, host.statistics.writes, host.statistics.faults)
    assert 1 == len(rig.events)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (fails, "RuntimeError: broken"),
        (lambda *_: 5, "TypeError: a write of 4 bytes was answered by 5"),
        (lambda *_: False, "TypeError: a write of 4 bytes was answered by False"),
    ],
)
def test_wrong_answer_to_a_write_quarantines(
    answer: Callable[[Device, int, int], object], reason: str
) -> None:
    """A write answers None or PENDING."""
    rig = Rig({"dev": (device(answer), place())})
    assert 0 == rig.access(Space.MMIO, 0, 4, WRITE, 1)
    assert reason == rig.machine.hosts["dev"].failure


@pytest.mark.parametrize("direction", [READ, WRITE])
def test_failed_part_is_the_last_and_the_whole_access_reads_ones(direction: Direction) -> None:
    """A device in quarantine takes no input, not even the rest of the same access."""
    offsets: list[int] = []

    def answer(_self: Device, offset: int, size: int) -> int | None:
        offsets.append(offset)
        if offset == 4:
            raise RuntimeError("broken")
        return 0 if size > 0 else None

    region = Region(64, valid=(1, 8), implemented=(1, 2))
    made = device(answer, main=region)
    region.reader, region.writer = "read", "write"
    rig = Rig({"dev": (made, place())})

    answered = rig.access(Space.MMIO, 0, 8, direction, 0)

    assert [0, 2, 4] == offsets
    assert (ones(8) if direction == READ else 0) == answered
    assert ["quarantined"] == [record[STATUS] for record in rig.records]


def test_pending_to_a_part_quarantines() -> None:
    """Each part must be answered at once; nothing waits for ever."""
    region = Region(64, valid=(1, 8), implemented=(1, 4))
    region.reader, region.writer = "read", "write"
    rig = Rig({"dev": (device(lambda *_: PENDING, main=region), place())})

    assert ones(8) == rig.access(Space.MMIO, 8, 8, READ)
    host = rig.machine.hosts["dev"]
    assert "TypeError: PENDING to a part of an access, at 0x8 with 4 bytes" == host.failure
    assert host.owes is None


def test_device_in_quarantine_takes_no_input() -> None:
    """Timers, lines and resets: its hooks are not called any more; its own lines are low."""

    class Busy(Device):
        length = 4
        tick = Timer()
        irq = IrqOutput()
        wake = IrqInput()

        def read(self, _offset: int, _size: int) -> int:
            self.irq.set_level(True)
            self.tick.set(10)
            raise RuntimeError("broken")

        def write(self, _offset: int, _size: int, _value: int) -> None:
            raise AssertionError("called")

        @tick.on_fire
        def _tick(self) -> None:
            raise AssertionError("called")

        @wake.on_change
        def _wake(self, _level: bool) -> None:
            raise AssertionError("called")

        def on_reset(self) -> None:
            resets.append("reset")

    resets: list[str] = []
    rig = Rig({"dev": (Busy, place())}, {"dev.irq": "vcpu0.intr"})
    rig.access(Space.MMIO, 0, 4, READ)
    assert [("intr", 0, True), ("intr", 0, False)] == rig.outlet.signals
    host = rig.machine.hosts["dev"]

    rig.machine.clock.advance_to(100)
    host.fire("tick")
    host.deliver("wake", level=True)
    rig.machine.reset()

    assert ["reset"] == resets
    assert "RuntimeError: broken" == host.failure


def test_failure_in_a_nested_hook_is_the_inner_devices() -> None:
    """A bridge that reads a broken device gets ones and goes on serving."""
    bridge = device(lambda self, _offset, size: self.bus.read(Space.MMIO, 0x100, size))
    rig = Rig({"bridge": (bridge, place()), "dev": (device(fails), place(0x100))})

    assert 0xFFFF == rig.access(Space.MMIO, 0, 2, READ)
    assert None is rig.machine.hosts["bridge"].failure
    assert "RuntimeError: broken" == rig.machine.hosts["dev"].failure
    assert [("dev", "quarantined"), ("bridge", "ok")] == [
        (record[DEVICE], record[STATUS]) for record in rig.records
    ]
    assert ("", 0) == (rig.machine.mark.name, rig.machine.mark.since_ns)


def test_device_that_fails_within_its_own_hook_answers_ones() -> None:
    """Its hook drives a line that comes back and fails: what the outer hook returns is not used."""

    class Loop(Device):
        length = 4
        out = IrqOutput()
        back = IrqInput()

        def read(self, _offset: int, _size: int) -> Pending:
            self.out.set_level(True)
            return PENDING

        def write(self, _offset: int, _size: int, _value: int) -> None:
            raise AssertionError("called")

        @back.on_change
        def _back(self, level: bool) -> None:
            if level:
                raise RuntimeError("broken")

    rig = Rig({"dev": (Loop, place())}, {"dev.out": "dev.back"})
    assert 0xFF == rig.access(Space.MMIO, 0, 1, READ)
    assert None is rig.machine.hosts["dev"].owes


# --- pending -----------------------------------------------------------------------------


def waiting() -> tuple[Rig, InlineHost]:
    """A device that never answers at once."""
    rig = Rig({"dev": (device(lambda *_: PENDING), place())})
    return rig, rig.machine.hosts["dev"]


def test_device_that_owes_an_answer_gets_no_other_access() -> None:
    """PENDING, then BUSY without a call or a count, until the device completes."""
    rig, host = waiting()
    assert PENDING is rig.access(Space.MMIO, 0, 4, READ)
    assert BUSY is rig.access(Space.MMIO, 4, 4, READ)
    assert BUSY is rig.access(Space.MMIO, 4, 4, WRITE, 1)
    assert (1, 0) == (host.statistics.reads, host.statistics.writes)

    host.device.complete(0x1234)

    assert [(host, 0x1234)] == rig.machine.settled
    assert [(4, 0x1234, "ok")] == [(record[SIZE], record[VALUE], record[STATUS]) for record in rig.records]
    assert PENDING is rig.access(Space.MMIO, 4, 4, WRITE, 7)
    host.device.complete()
    assert [(host, 0x1234), (host, 0)] == rig.machine.settled
    assert 7 == rig.records[1][VALUE]


@pytest.mark.parametrize("value", [1 << 32, -1, None])
def test_wrong_completion_quarantines_and_settles_with_ones(value: int) -> None:
    """Who waits is answered whatever the device says."""
    rig, host = waiting()
    rig.access(Space.MMIO, 0, 4, READ)
    host.device.complete(value)
    assert [(host, 0xFFFF_FFFF)] == rig.machine.settled
    assert f"TypeError: a read of 4 bytes was answered by {value!r}" == host.failure
    assert None is host.owes


def test_device_that_fails_while_it_owes_settles_with_ones() -> None:
    """A later hook fails: the access that waits gets all ones."""
    rig, host = waiting()
    rig.access(Space.MMIO, 0, 2, READ)
    host.quarantine(RuntimeError("broken"))
    assert [(host, 0xFFFF)] == rig.machine.settled
    assert ["quarantined"] == [record[STATUS] for record in rig.records]


def test_completion_that_nobody_waits_for_is_the_devices_mistake() -> None:
    """`complete` without a PENDING before raises in the hook that called it."""
    rig = Rig({"dev": (device(lambda self, *_: self.complete(1)), place())})
    rig.access(Space.MMIO, 0, 4, READ)
    assert "TypeError: dev completed an access that it does not owe" == rig.machine.hosts["dev"].failure


def test_reset_forgets_what_is_owed() -> None:
    """After a reset the device takes accesses again and owes nothing."""
    rig, host = waiting()
    rig.access(Space.MMIO, 0, 4, READ)
    rig.machine.reset()
    assert (None, []) == (host.owes, rig.machine.settled)
    assert PENDING is rig.access(Space.MMIO, 0, 4, READ)


# --- statistics ---------------------------------------------------------------------------


def test_each_access_is_counted_and_recorded_once() -> None:
    """Split or widened, an access is one record with its own size and value."""
    region = Region(64, valid=(1, 8), implemented=(2, 2))
    region.reader, region.writer = "read", "write"
    rig = Rig({"dev": (device(lambda _, __, size: 0x1111 if size > 0 else None, main=region), place())})
    rig.access(Space.MMIO, 0, 8, READ)
    rig.access(Space.MMIO, 1, 1, READ)
    rig.access(Space.MMIO, 0, 4, WRITE, 5)
    statistics = rig.machine.hosts["dev"].statistics
    assert (2, 1, 0, 0) == (statistics.reads, statistics.writes, statistics.refused, statistics.faults)
    assert 3 == sum(statistics.latency)
    assert [(8, 0x1111_1111_1111_1111), (1, 0x11), (4, 5)] == [
        (record[SIZE], record[VALUE]) for record in rig.records
    ]
    assert {""} == {record[REGISTER] for record in rig.records}


@pytest.mark.parametrize(("ns", "bucket"), [(0, 0), (1, 1), (1023, 10), (1024, 11), (1 << 60, 39)])
def test_latencies_are_counted_by_powers_of_two(ns: int, bucket: int) -> None:
    """Bucket n holds what took less than 2^n ns; the last one all that is longer."""
    rig, host = waiting()
    host.statistics.took(ns)
    assert [bucket] == [number for number, count in enumerate(host.statistics.latency) if count]
    assert [] == rig.records


def test_time_of_an_inner_hook_is_not_that_of_the_outer_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mark of a hook goes on where it was when a hook within it ends; every change has its serial."""
    now = 1000
    monkeypatch.setattr("mmiod.machine.mark.perf_counter_ns", lambda: now)
    mark, serials = Mark(), [0]

    def changed(name: str, since_ns: int) -> None:
        assert (name, since_ns) == (mark.name, mark.since_ns)
        assert serials[-1] < mark.serial
        serials.append(mark.serial)

    outer = mark.enter("outer")
    changed("outer", 1000)
    now = 1010
    inner = mark.enter("inner")
    changed("inner", 1010)
    now = 1500
    mark.leave(inner)
    changed("outer", 1490)
    mark.leave(outer)
    changed("", 0)
