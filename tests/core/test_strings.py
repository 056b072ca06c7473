"""Strings that a device takes as batches: the same as one by one, in fewer calls."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import pytest
from attrs import define, field
from hypothesis import given, settings, strategies as st

from mmiod.core.run import Platform, run
from mmiod.device import PENDING, Device, Pending, Region, Register
from mmiod.machine.address_map import Policy
from mmiod.machine.description import DeviceDescription, Placement, UnclaimedDescription
from mmiod.trace.record import ADDRESS, COUNT, DEVICE as DEVICE_NAME, DIRECTION, REGISTER, SIZE, VALUE
from mmiod.values import (
    READ,
    WRITE,
    DecodedExit,
    Direction,
    Done,
    Fault,
    Intent,
    RawExit,
    Space,
    Values,
    VcpuState,
)
from mmiod.x86 import Mode
from tests.core.guests import DEVICE, PAGE, PORT, Guest, finished, translations
from tests.machine.machines import Rig
from tests.x86.states import DF, PE, PG, TF, flat

RCX, RSI, RDI = 1, 6, 7
FIFO = 0x400


@define(eq=False)
class Stream:
    """What went in and out of a device, element by element; `calls` are its hooks' lengths."""

    accesses: list[tuple[str, int, int, int]] = field(factory=list)
    calls: list[int] = field(factory=list)
    most: int = 1 << 32
    """Elements that the device takes in one call."""

    def read(self, offset: int, size: int) -> int:
        """One read: no two give the same."""
        value = int.from_bytes(bytes((len(self.accesses) * 37 + at) & 0xFF for at in range(size)), "little")
        self.accesses.append(("read", offset, size, value))
        return value

    def write(self, offset: int, size: int, value: int) -> None:
        """One write."""
        self.accesses.append(("write", offset, size, value))

    def take(self, count: int) -> int:
        """How many of `count` elements one call does."""
        taken = min(count, self.most)
        self.calls.append(taken)
        return taken


def device(stream: Stream, *, batches: bool) -> type[Device]:
    """Memory and ports that go to the stream."""

    class Plain(Device):
        memory_region = Region(2 * PAGE, unaligned=True)
        ports = Region(16)

        @memory_region.on_read
        @ports.on_read
        def _read(self, offset: int, size: int) -> int:
            return stream.read(offset, size)

        @memory_region.on_write
        @ports.on_write
        def _write(self, offset: int, size: int, value: int) -> None:
            stream.write(offset, size, value)

        def _read_many(self, offset: int, size: int, count: int, stride: int) -> bytes:
            offsets = [offset + stride * size * n for n in range(stream.take(count))]
            return b"".join(stream.read(at, size).to_bytes(size, "little") for at in offsets)

        def _write_many(self, offset: int, size: int, data: bytes, stride: int) -> int:
            taken = stream.take(len(data) // size)
            for n in range(taken):
                value = int.from_bytes(data[n * size : (n + 1) * size], "little")
                stream.write(offset + stride * size * n, size, value)
            return taken

        if batches:
            for region in (memory_region, ports):
                region.on_read_batch(_read_many)
                region.on_write_batch(_write_many)

    return Plain


def guest(stream: Stream, *, batches: bool, **fields: object) -> Guest:
    """A guest whose device is that one."""
    made = Guest(**fields)  # type: ignore[arg-type]  # fields of Guest
    memory = made.rig.machine.memory
    places = {"memory_region": Placement(Space.MMIO, DEVICE), "ports": Placement(Space.PIO, PORT)}
    made.rig = Rig({"dev": (device(stream, batches=batches), DeviceDescription("test/stream", at=places))})
    made.rig.machine.memory = memory
    return made


def start(made: Guest, code: str, **registers: object) -> None:
    """The guest is about to execute this, in 64-bit code."""
    made.state = flat(Mode.CODE64, rip=0x7000, **registers)
    made.code = bytes.fromhex(code).ljust(15, b"\x90")


# --- equal to one by one -------------------------------------------------------------------

PAGES = {"device": DEVICE, "device2": DEVICE + PAGE, "ram": 0x4000, "ram2": 0x5000}
STRINGS = ["f3a4", "f3a5", "f348a5", "66f3a5", "f3aa", "f3ab", "f348ab", "f36c", "f36d", "f36e", "66f36f"]


@settings(max_examples=120)
@given(
    code=st.sampled_from(STRINGS),
    kinds=st.lists(st.sampled_from([*sorted(PAGES), "none"]), min_size=6, max_size=6),
    source=st.integers(0x41000 - 20, 0x41000 + 20),
    target=st.integers(0x44000 - 20, 0x44000 + 20),
    count=st.integers(0, 40),
    bound=st.integers(1, 50),
    most=st.integers(0, 30),
    down=st.booleans(),
    tf=st.booleans(),
)
def test_batches_are_what_single_accesses_are(
    code: str, kinds: list[str], source: int, target: int, count: int, bound: int, most: int,
    down: bool, tf: bool,
) -> None:  # fmt: skip
    """Registers, memory, faults and every element that the device sees: with batches as without.

    Whatever the page, the bound, the direction, and the elements that the device takes at once.
    """
    outcomes = []
    for batches in (False, True):
        stream = Stream(most=most)
        made = guest(stream, batches=batches, rep_bound=bound)
        for gpa in (0x4000, 0x5000):
            made.poke(gpa, bytes(n * 7 & 0xFF for n in range(PAGE)))
        # SDM vol. 3, 4.3: a directory at 0x2000 with an empty table at 0x3000.
        made.poke(0x2000, (0x3007).to_bytes(4, "little"))
        start(
            made, code, rsi=source, rdi=target, rcx=count, rax=0x1122_3344_5566_7788, rdx=PORT,
            rflags=2 | DF * down | TF * tf,
        )  # fmt: skip
        made.state.segments[1].attributes = 0xC09B
        made.state.efer, made.state.cr0, made.state.cr3 = 0, PE | PG, 0x2000
        if "48" in code:
            made.code = bytes.fromhex(code.replace("48", "")).ljust(15, b"\x90")
        known = {0x40000 + PAGE * n: PAGES[kind] for n, kind in enumerate(kinds) if kind != "none"}
        completion = made.once(made.exit(translations=translations(known)))
        memory = [made.peek(gpa, PAGE) for gpa in (0x4000, 0x5000)]
        statistics = made.rig.machine.hosts["dev"].statistics
        recorded = [int(record[COUNT]) for record in made.rig.records if record[DEVICE_NAME]]
        assert sum(recorded) == statistics.reads + statistics.writes
        outcomes.append((completion, stream.accesses, memory, statistics.reads, statistics.writes))
        made.close()
    assert outcomes[0] == outcomes[1]


@pytest.mark.parametrize(
    ("code", "registers", "calls"),
    [
        ("f36e", {"rsi": 0x4000, "rdx": PORT}, [512]),
        ("f36c", {"rdi": 0x4000, "rdx": PORT}, [512]),
        ("f3a4", {"rsi": 0x4000, "rdi": DEVICE}, [512]),
        ("f3a4", {"rsi": DEVICE, "rdi": 0x4000}, [512]),
        ("f3aa", {"rdi": DEVICE}, [512]),
        ("f36e", {"rsi": 0x5000 - 100, "rdx": PORT}, [100, 412]),  # a page's end
        ("f3a4", {"rsi": 0x4000, "rdi": DEVICE + PAGE - 100}, [100, 412]),
        ("f3a4", {"rsi": DEVICE, "rdi": DEVICE + PAGE}, []),  # device to device
        ("f3a4", {"rsi": 0x4000, "rdi": 0x5000}, []),
    ],
)
def test_number_of_calls(code: str, registers: dict[str, int], calls: list[int]) -> None:
    """512 bytes are one call, or one per page; memory to memory and device to device are none."""
    stream = Stream()
    made = guest(stream, batches=True)
    start(made, code, rcx=512, **registers)
    assert isinstance(made.once(), Done)
    assert calls == stream.calls
    made.close()


@pytest.mark.parametrize("down", [False, True])
def test_next_page_is_somewhere_else(down: bool) -> None:
    """Pages that follow each other in linear addresses do not in physical ones."""
    stream = Stream()
    made = guest(stream, batches=True)
    made.poke(0x4FF8, b"abcdefgh")
    made.poke(0x2000, b"ijklmnop")
    start(made, "f36f", rcx=4, rsi=0x41FFA + 9 * down, rdx=PORT, rflags=2 | DF * down)
    made.state.efer, made.state.cr0, made.state.cr3 = 0, PE | PG, 0x2000
    made.state.segments[1].attributes = 0xC09B
    known = translations({0x41000: 0x4000, 0x42000: 0x2000})
    assert isinstance(made.once(made.exit(translations=known)), Done)
    data = b"".join(value.to_bytes(4, "little") for _, _, _, value in stream.accesses)
    assert (b"lmnohijkdefg\0abc" if down else b"cdefghijklmnop\0\0") == data
    made.close()


def test_offset_that_wraps_within_a_string() -> None:
    """16-bit addresses go on at 0 behind FFFFh, in the batch's direction too."""
    for start_at, flags, data in ((0xFFFA, 2, b"uvwxyzabcdef"), (5, 2 | DF, b"fedcbazyxwvu")):
        stream = Stream()
        made = guest(stream, batches=True)
        made.map(2, 0xF000, PAGE)
        made.poke(0xFFFA, b"uvwxyz")
        made.poke(0, b"abcdef")
        made.state = flat(Mode.CODE32, rip=0x7000, rcx=12, rsi=start_at, rdx=PORT, rflags=flags)
        made.code = bytes.fromhex("67f36e").ljust(15, b"\x90")
        completion = made.once()
        assert isinstance(completion, Done)
        assert 0 == completion.delta.registers[RCX]
        assert data == bytes(value for _, _, _, value in stream.accesses)
        made.close()


def test_device_that_takes_few_at_a_time() -> None:
    """The element at which a batch stopped goes alone, then the device is asked again."""
    stream = Stream(most=3)
    made = guest(stream, batches=True)
    start(made, "f36e", rcx=12, rsi=0x4000, rdx=PORT)
    assert isinstance(made.once(), Done)
    assert [3, 3, 3] == stream.calls
    assert 12 == len(stream.accesses)
    made.close()


def test_fault_behind_a_batch_keeps_it() -> None:
    """#PF on the second page: what the batch did is in the delta."""
    stream = Stream()
    made = guest(stream, batches=True)
    made.poke(0x2000, (0x3027).to_bytes(4, "little"))
    made.poke(0x3000 + 4 * 4, (0x4067).to_bytes(4, "little"))
    made.state = flat(Mode.CODE32, rip=0x7000, cr0=PE | PG, cr3=0x2000, rsi=0x5000 - 8, rcx=20, rdx=PORT)
    made.code = bytes.fromhex("f36e").ljust(15, b"\x90")
    completion = made.once()
    assert isinstance(completion, Fault)
    assert completion.delta is not None
    assert (14, 0x5000, {RSI: 0x5000, RCX: 12}, 0x7000) == (
        completion.vector, completion.cr2, completion.delta.registers, completion.delta.rip
    )  # fmt: skip
    assert [8] == stream.calls
    made.close()


# --- what people see -------------------------------------------------------------------------


def test_record_of_a_batch() -> None:
    """One record with the count; the value is the first 64 bytes, little-endian."""
    stream = Stream()
    made = guest(stream, batches=True)
    data = bytes(range(200))
    made.poke(0x4000, data)
    start(made, "f36f", rcx=50, rsi=0x4000, rdx=PORT)
    made.once()
    (record,) = made.rig.records
    assert (WRITE, PORT, 4, 50) == (record[DIRECTION], record[ADDRESS], record[SIZE], record[COUNT])
    assert data[:64] == int(record[VALUE]).to_bytes(64, "little")
    made.close()


# --- decoded exits ---------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    place=st.sampled_from(
        [(Space.PIO, PORT, 0), (Space.MMIO, DEVICE + 64, 1), (Space.MMIO, DEVICE + 64, -1)]
    ),
    direction=st.sampled_from(Direction),
    count=st.integers(1, 20),
    size=st.sampled_from([1, 2, 4]),
    most=st.integers(0, 20),
)
def test_decoded_exit_as_a_batch(
    place: tuple[Space, int, int], direction: Direction, count: int, size: int, most: int
) -> None:
    """Elements and values are those of single accesses, over the region's edge too."""
    space, address, stride = place
    outcomes = []
    for batches in (False, True):
        stream = Stream(most=most)
        made = guest(stream, batches=batches)
        data = bytes(range(count * size)) if direction == WRITE else b""
        exit_ = DecodedExit(0, 1, space, direction, address, size, count, stride, data)
        outcomes.append((made.once(exit_), stream.accesses))
        made.close()
    assert outcomes[0] == outcomes[1]


class Odd(Device):
    """Ports that take any batch, and note its length."""

    ports = Region(16, unaligned=True)
    calls: tuple[int, ...] = ()

    @ports.on_write
    def _write(self, _offset: int, _size: int, _value: int) -> None:
        pass

    @ports.on_read
    def _read(self, _offset: int, _size: int) -> int:
        return 0

    @ports.on_write_batch
    def _write_many(self, _offset: int, size: int, data: bytes, _stride: int) -> int:
        self.calls += (len(data) // size,)
        return len(data) // size

    @ports.on_read_batch
    def _read_many(self, _offset: int, size: int, count: int, _stride: int) -> bytes:
        self.calls += (count,)
        return bytes(size * count)


@pytest.mark.parametrize(("code", "operand"), [("f36f", "rsi"), ("f36d", "rdi")])
def test_a_batch_is_never_empty(code: str, operand: str) -> None:
    """An element that sticks out of the region goes by pieces, without a call for none."""
    made = Guest()
    rig = Rig({"dev": (Odd, DeviceDescription("test/odd", at={"ports": Placement(Space.PIO, PORT)}))})
    rig.machine.memory, made.rig = made.rig.machine.memory, rig
    start(made, code, rcx=3, rdx=PORT + 14, **{operand: 0x1000})
    assert isinstance(made.once(), Done)
    assert () == cast("Odd", rig.machine.hosts["dev"].device).calls
    made.close()


# --- waiting ---------------------------------------------------------------------------------


class Fifo(Device):
    """Takes four bytes at once; the fifth waits until somebody drains it."""

    length = 1
    taken = b""
    port = Register(0)

    @port.on_write
    def _one(self, value: int) -> Pending | None:
        Fifo.taken += bytes((value,))
        return PENDING if len(Fifo.taken) % 5 == 0 else None

    @port.on_write_batch
    def _many(self, data: bytes) -> int:
        part = data[: 4 - len(Fifo.taken) % 5]
        Fifo.taken += part
        return len(part)


def _rig(plugin: type[Device]) -> Rig:
    return Rig({"dev": (plugin, DeviceDescription("test/dev", at={"main": Placement(Space.PIO, FIFO)}))})


def test_device_that_makes_wait_in_the_middle() -> None:
    """Batch, wait, batch, wait: the device sees every byte once, in order, and the string ends."""
    ram = Guest()
    Fifo.taken = b""
    rig = _rig(Fifo)
    rig.machine.memory = ram.rig.machine.memory
    ram.poke(0x4000, b"abcdefghijkl")
    state = flat(Mode.CODE64, rsi=0x4000, rcx=12, rdx=FIFO)
    running = run(rig.machine, RawExit(0, 1, state, bytes.fromhex("f36e")), Platform(), 64)
    host = rig.machine.hosts["dev"]
    assert host is next(running)
    assert b"abcde" == Fifo.taken
    host.device.complete()
    rig.machine.settled.clear()
    assert host is running.send(0)
    assert b"abcdefghij" == Fifo.taken
    host.device.complete()
    with pytest.raises(StopIteration) as end:
        running.send(0)
    assert {RSI: 0x400C, RCX: 0} == end.value.value.delta.registers
    assert b"abcdefghijkl" == Fifo.taken
    ram.close()


# --- what is wrong with a device ---------------------------------------------------------------


def _answering(answer: Callable[[], object]) -> type[Device]:
    class Wrong(Device):
        length = 4
        port = Register(0, size=4)

        @port.on_read_batch
        def _read(self, _count: int) -> bytes:
            return answer()  # type: ignore[return-value]  # that is what is wrong

        @port.on_write_batch
        def _write(self, _data: bytes) -> int:
            return answer()  # type: ignore[return-value]

    return Wrong


def _fail() -> None:
    raise OSError("broken")


@pytest.mark.parametrize(
    "answer", [_fail, lambda: PENDING, lambda: b"123", lambda: bytes(20), lambda: "text"]
)
def test_read_that_is_answered_wrongly(answer: Callable[[], object]) -> None:
    """Quarantine, and all ones: not a part of what the hook said."""
    rig = _rig(_answering(answer))
    completion = finished(run(rig.machine, DecodedExit(0, 1, Space.PIO, READ, FIFO, 4, 4), Platform(), 16))
    assert Values(b"\xff" * 16) == completion
    assert rig.machine.hosts["dev"].failure is not None


@pytest.mark.parametrize("answer", [_fail, lambda: PENDING, lambda: -1, lambda: 5, lambda: b""])
def test_write_that_is_answered_wrongly(answer: Callable[[], object]) -> None:
    """Quarantine; the exit is done all the same."""
    rig = _rig(_answering(answer))
    exit_ = DecodedExit(0, 1, Space.PIO, WRITE, FIFO, 4, 4, data=bytes(16))
    assert Values() == finished(run(rig.machine, exit_, Platform(), 16))
    assert rig.machine.hosts["dev"].failure is not None


def test_batch_of_another_size_or_place_goes_one_by_one() -> None:
    """A register's batch is of accesses that meet it exactly."""

    def refuse() -> object:
        raise AssertionError("called")

    rig = _rig(_answering(refuse))
    for size, address in ((1, FIFO), (2, FIFO + 2)):
        exit_ = DecodedExit(0, 1, Space.PIO, READ, address, size, 4)
        assert Values(bytes(4 * size)) == finished(run(rig.machine, exit_, Platform(), 16))
    assert "port" == rig.records[0][REGISTER]


def test_range_of_the_hypervisor_is_no_batch() -> None:
    """A string of a port that is forwarded is handed back as a whole."""
    made = Guest(unclaimed=(UnclaimedDescription(Space.PIO, 0x300, 1, Policy.FORWARD),))
    start(made, "f36e", rcx=9, rsi=0x4000, rdx=0x300)
    assert "Forward" == type(made.once()).__name__
    made.close()


def test_supplied_state_is_only_read() -> None:
    """The exit's state may be sent again."""
    made = guest(Stream(), batches=True)
    start(made, "f36e", rcx=9, rsi=0x4000, rdx=PORT)
    before = VcpuState(gpr=list(made.state.gpr)).gpr
    made.once(made.exit(intent=Intent.READ))
    assert before == made.state.gpr
    made.close()
