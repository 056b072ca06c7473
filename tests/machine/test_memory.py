"""Guest memory in slots against an array of bytes."""

from __future__ import annotations

import fcntl
import gc
import mmap
import os
from pathlib import Path

import pytest
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from mmiod.errors import MachineError
from mmiod.machine.dirty_log import DirtyLog
from mmiod.machine.memory import DMA_LIMIT, FOUR_GIB, GuestMemory
from mmiod.machine.slot import ByDescriptor, Mapped, Slot, storage_of
from tests.machine.test_state import Ram

PAGE = mmap.PAGESIZE
SPACE = 8 * PAGE
SEALED = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
RANGES = st.lists(st.tuples(st.integers(0, SPACE), st.integers(0, PAGE + 10)), max_size=4)


def memfd(data: bytes, seals: int = SEALED) -> int:
    """A descriptor with these bytes."""
    descriptor = os.memfd_create("ram", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
    os.write(descriptor, data)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
    return descriptor


class Nobody:
    """A messenger that does not answer."""

    def ask(self, work: str, kind: str, data: bytes) -> None:
        """Take no notice."""


class Slots(RuleBasedStateMachine):
    """Slots of every kind come, move and go; the model is an array of (byte | None, writable)."""

    @initialize()
    def begin(self) -> None:
        """No slot."""
        self.memory = GuestMemory()
        self.contents: dict[int, tuple[int, bytearray | None, bool]] = {}

    def teardown(self) -> None:
        """Unmap all."""
        self.memory.clear()

    def overlaps(self, number: int, gpa: int, length: int) -> bool:
        """Whether another slot is there."""
        return any(
            other != number and gpa < base + len(data or b"x" * PAGE) and base < gpa + length
            for other, (base, data, _) in self.contents.items()
        )

    @rule(
        number=st.integers(0, 4),
        page=st.integers(0, 7),
        pages=st.integers(1, 2),
        kind=st.sampled_from(["sealed", "unsealed", "messages"]),
        read_only=st.booleans(),
        fill=st.integers(0, 255),
    )
    def add(self, number: int, page: int, pages: int, kind: str, read_only: bool, fill: int) -> None:
        """A slot of any kind."""
        pages = 1 if kind == "messages" else pages
        length = pages * PAGE
        data = bytes((fill + n) & 0xFF for n in range(length))
        storage = None
        if kind != "messages":
            descriptor = memfd(b"-" * PAGE + data, SEALED if kind == "sealed" else 0)
            storage = storage_of(descriptor, PAGE, length, read_only=read_only)
            assert isinstance(storage, Mapped if kind == "sealed" else ByDescriptor)
        slot = Slot(number, page * PAGE, length, read_only, storage)
        if number in self.contents or self.overlaps(number, page * PAGE, length):
            with pytest.raises(MachineError, match=r"in use|overlaps"):
                self.memory.add(slot)
            if storage is not None:
                storage.close()
            return
        self.memory.add(slot)
        self.contents[number] = (page * PAGE, None if storage is None else bytearray(data), not read_only)

    @precondition(lambda self: self.contents)
    @rule(data=st.data(), page=st.integers(0, 7))
    def move(self, data: st.DataObject, page: int) -> None:
        """A slot goes elsewhere."""
        number = data.draw(st.sampled_from(sorted(self.contents)))
        _, content, writable = self.contents[number]
        if self.overlaps(number, page * PAGE, len(content or b"x" * PAGE)):
            with pytest.raises(MachineError, match="overlaps"):
                self.memory.move(number, page * PAGE)
        else:
            self.memory.move(number, page * PAGE)
            self.contents[number] = (page * PAGE, content, writable)

    @rule(number=st.integers(0, 4))
    def remove(self, number: int) -> None:
        """A slot goes."""
        if self.contents.pop(number, None) is None:
            with pytest.raises(MachineError, match=f"slot {number} is not mapped"):
                self.memory.remove(number)
        else:
            self.memory.remove(number)

    @rule(gpa=st.integers(0, SPACE), length=st.integers(0, 3 * PAGE), fill=st.integers(0, 255))
    def write(self, gpa: int, length: int, fill: int) -> None:
        """A write."""
        data = bytes((fill ^ n) & 0xFF for n in range(length))
        self.memory.write(gpa, data)
        self.store(gpa, data)

    def store(self, gpa: int, data: bytes) -> None:
        """What a write does to the model."""
        for base, content, writable in self.contents.values():
            if content is not None and writable:
                low, high = max(base, gpa), min(base + len(content), gpa + len(data))
                if low < high:
                    content[low - base : high - base] = data[low - gpa : high - gpa]

    @rule(ranges=RANGES, short=st.integers(0, 20), fill=st.integers(0, 255), logged=st.booleans())
    def scatter(self, ranges: list[tuple[int, int]], short: int, fill: int, logged: bool) -> None:
        """Writes of several ranges: one after the other, as far as the data go; each is in the log.

        None is done if one of them goes by message.
        """
        total = max(0, sum(length for _, length in ranges) - short)
        data = bytes((fill ^ n) & 0xFF for n in range(total))
        logs = [DirtyLog() if logged else None for _ in range(2)]
        here = not self.distant(ranges)
        self.memory.log = logs[0]
        assert here == self.memory.scatter(ranges, data)
        self.memory.log = logs[1]
        for gpa, length in ranges if here else ():
            part, data = data[:length], data[length:]
            self.store(gpa, part)
            self.memory.write(gpa, part)
        self.memory.log = None
        scattered, written = (log and log.take(0, 2 * SPACE, PAGE) for log in logs)
        assert written == scattered

    @rule(ranges=RANGES)
    def gather(self, ranges: list[tuple[int, int]]) -> None:
        """Reads of several ranges, unless one of them goes by message."""
        model = self.model()
        expected = b"".join(model[gpa : gpa + length] for gpa, length in ranges)
        assert (None if self.distant(ranges) else expected) == self.memory.gather(ranges)

    @rule(gpa=st.integers(0, SPACE), length=st.integers(0, 3 * PAGE), fill=st.integers(0, 255))
    def reach_at_once(self, gpa: int, length: int, fill: int) -> None:
        """A read and a write of what needs no message; else there is nothing, and nothing is written."""
        distant, data = self.distant([(gpa, length)]), bytes([fill]) * length
        assert (None if distant else self.model()[gpa : gpa + length]) == self.memory.fetch(gpa, length)
        assert distant != self.memory.store(gpa, data)
        if not distant:
            self.store(gpa, data)
        assert self.model()[gpa : gpa + length] == self.memory.read(gpa, length)

    @rule(gpa=st.integers(0, SPACE), length=st.integers(0, 3 * PAGE))
    def read(self, gpa: int, length: int) -> None:
        """A read."""
        assert self.model()[gpa : gpa + length] == self.memory.read(gpa, length)

    @rule(there=st.booleans(), preferred=st.booleans())
    def send_messages(self, there: bool, preferred: bool) -> None:
        """Somebody sends them, or nobody; they may be preferred where there is storage, too."""
        self.memory.messenger = Nobody() if there else None
        self.memory.prefers_messages = preferred

    @rule(gpa=st.integers(0, SPACE), length=st.integers(0, 3 * PAGE))
    def ask_for_messages(self, gpa: int, length: int) -> None:
        """Messages reach what has no storage, if anybody is there who sends them."""
        assert self.distant([(gpa, length)]) == self.memory.by_message(gpa, length)

    def distant(self, ranges: list[tuple[int, int]]) -> bool:
        """Whether messages reach a part of any, by the model."""
        return self.memory.messenger is not None and any(
            (content is None or self.memory.prefers_messages)
            and base < gpa + length
            and gpa < base + (PAGE if content is None else len(content))
            for gpa, length in ranges
            if length
            for base, content, _ in self.contents.values()
        )

    def model(self) -> bytes:
        """All of the space as one array."""
        space = bytearray(b"\xff" * (SPACE + 4 * PAGE))
        for base, content, _ in self.contents.values():
            if content is not None:
                space[base : base + len(content)] = content
        return bytes(space)

    @invariant()
    def each_address_is_in_its_slot(self) -> None:
        """Ends of slots, and the sizes of RAM."""
        ends = []
        for number, (base, content, writable) in self.contents.items():
            length = len(content) if content is not None else PAGE
            for gpa in (base, base + length - 1):
                found = self.memory.find(gpa)
                assert found is not None
                assert number == found.number
            ends += [base + length] if writable else []
        assert (max(ends, default=0), 0) == (self.memory.below_4g, self.memory.above_4g)


TestSlots = Slots.TestCase
TestSlots.settings = settings(max_examples=50, stateful_step_count=20)


def test_sizes_of_ram_end_and_begin_at_4_gib() -> None:
    """RAM is told below and from 4 GiB on, wherever a slot begins; read-only slots are no RAM."""
    memory = GuestMemory()
    memory.add(Slot(0, 0, 0xC000_0000, False, None))
    assert (0xC000_0000, 0) == (memory.below_4g, memory.above_4g)
    memory.add(Slot(1, FOUR_GIB - PAGE, 3 * PAGE, False, None))
    memory.add(Slot(2, FOUR_GIB + 4 * PAGE, PAGE, False, None))
    memory.add(Slot(3, FOUR_GIB + 8 * PAGE, PAGE, True, None))
    assert (FOUR_GIB, 3 * PAGE) == (memory.below_4g, memory.above_4g)


def test_overlap_names_both_slots_and_their_ranges() -> None:
    """The error has both numbers and both ranges in hex."""
    memory = GuestMemory()
    memory.add(Slot(0, 0x1000, 0x2000, False, None))
    with pytest.raises(
        MachineError, match=r"^slot 7 at 0x2000\.\.0x2fff overlaps slot 0 at 0x1000\.\.0x2fff$"
    ):
        memory.add(Slot(7, 0x2000, 0x1000, False, None))


@pytest.mark.parametrize("gpa", [0x1000, 0x4000])
def test_slots_may_touch(gpa: int) -> None:
    """Where one ends another begins."""
    memory = GuestMemory()
    memory.add(Slot(0, 0x2000, 0x2000, False, None))
    memory.add(Slot(1, gpa, 0x1000, False, None))
    assert {0, 1} == set(memory.slots)


@pytest.mark.parametrize(("gpa", "length"), [(0x1000, 0), ((1 << 52) - 0x1000, 0x2000)])
def test_slot_outside_of_the_address_space_is_refused(gpa: int, length: int) -> None:
    """A slot has bytes, and ends where physical addresses do (SDM vol. 3, 4.1.4)."""
    with pytest.raises(
        MachineError, match=f"slot 3 at {gpa:#x} with {length:#x} bytes leaves the address space"
    ):
        GuestMemory().add(Slot(3, gpa, length, False, None))


def test_dma_is_bounded() -> None:
    """A length that the guest made up does not become our memory."""
    with pytest.raises(ValueError, match=r"DMA of 0x1000001 bytes at 0x0: at most 0x1000000 at once"):
        GuestMemory().read(0, DMA_LIMIT + 1)


def test_file_that_shrinks_reads_as_ones_and_loses_writes(tmp_path: Path) -> None:
    """Its owner may take an unsealed file away: no signal, no exception."""
    path = tmp_path / "ram"
    path.write_bytes(b"a" * PAGE)
    storage = storage_of(os.open(path, os.O_RDWR), 0, PAGE, read_only=False)
    os.truncate(path, 2)
    assert b"aa\xff\xff" == storage.read(0, 4)
    storage.close()

    descriptor = memfd(b"b" * PAGE, fcntl.F_SEAL_WRITE)
    sealed_later = storage_of(descriptor, 0, PAGE, read_only=False)
    assert isinstance(sealed_later, ByDescriptor)
    sealed_later.write(0, b"c")
    assert (b"b", 1) == (sealed_later.read(0, 1), sealed_later.lost)
    sealed_later.close()


def opened() -> set[str]:
    """The descriptors of this process, but for what the collector has to close."""
    gc.collect()
    return {entry for entry in os.listdir("/proc/self/fd") if os.path.exists(f"/proc/self/fd/{entry}")}  # noqa: PTH110, PTH208


@pytest.mark.parametrize(
    ("offset", "length", "read_only", "mode", "message"),
    [
        (0, 2 * PAGE, False, os.O_RDWR, "the descriptor has 0x1000 bytes, the slot is 0x2000 at 0x0"),
        (1 << 20, PAGE, False, os.O_RDWR, "the descriptor has 0x1000 bytes, the slot is 0x1000 at 0x100000"),
        (0, 0, False, os.O_RDWR, "the descriptor has 0x1000 bytes, the slot is 0x0 at 0x0"),
        (0, PAGE, False, os.O_RDONLY, "the descriptor is read-only, the slot is not"),
        (0, PAGE, True, os.O_WRONLY, "the descriptor is write-only"),
        (0, PAGE, False, os.O_WRONLY, "the descriptor is write-only"),
    ],
)  # fmt: skip
def test_descriptor_that_does_not_fit_is_refused_and_closed(
    tmp_path: Path, offset: int, length: int, read_only: bool, mode: int, message: str
) -> None:
    """Each reason is said, and no descriptor stays behind."""
    path = tmp_path / "ram"
    path.write_bytes(bytes(PAGE))
    before = opened()
    with pytest.raises(MachineError) as raised:
        storage_of(os.open(path, mode), offset, length, read_only=read_only)
    assert message == str(raised.value)
    assert before == opened()


def test_memfd_that_cannot_be_written_is_refused_as_ram() -> None:
    """Sealed against shrinking and writing: mapping it writable fails, with the kernel's reason."""
    with pytest.raises(MachineError, match=r"the descriptor cannot be used: .*Operation not permitted"):
        storage_of(memfd(bytes(PAGE), SEALED | fcntl.F_SEAL_WRITE), 0, PAGE, read_only=False)


def test_what_is_no_file_does_not_raise_later(tmp_path: Path) -> None:
    """A directory can be opened and has a size; it cannot be read."""
    descriptor = os.open(tmp_path, os.O_RDONLY)
    length = os.fstat(descriptor).st_size
    storage = storage_of(descriptor, 0, length, read_only=True)
    assert b"\xff\xff" == storage.read(0, 2)
    storage.close()


@pytest.mark.parametrize("seals", [SEALED, 0])
@pytest.mark.parametrize("change", ["remove", "move"])
def test_what_found_a_slot_before_it_went_reaches_it_no_more(seals: int, change: str) -> None:
    """An access that waits for a device holds its slot: afterwards it reads ones and writes nowhere."""
    memory = GuestMemory()
    data = b"\x11" * PAGE
    memory.add(Slot(0, 0, PAGE, False, storage_of(memfd(data, seals), 0, PAGE, read_only=False)))
    held = memory.find(0)
    assert held is not None
    if change == "remove":
        memory.remove(0)
    else:
        memory.move(0, 4 * PAGE)
    assert held.storage is not None
    held.storage.write(8, b"\x22")
    assert b"\xff" * 4 == held.storage.read(8, 4)
    if change == "move":
        assert data == memory.read(4 * PAGE, PAGE)
    memory.clear()


def test_each_range_of_a_gather_is_bounded() -> None:
    """Also within the slot that was used last."""
    memory = GuestMemory()
    memory.add(Slot(0, 0, 4 * DMA_LIMIT, False, Ram()))
    assert 1 == len(memory.read(0, 1))
    for ranges in ([(0, DMA_LIMIT + 1)], [(0, 1), (DMA_LIMIT, DMA_LIMIT + 1)]):
        with pytest.raises(ValueError, match=f"DMA of {DMA_LIMIT + 1:#x} bytes"):
            memory.gather(ranges)


def test_one_access_is_bounded_also_within_one_slot() -> None:
    """A length that the guest wrote is not trusted: 16 MiB at most."""
    memory = GuestMemory()
    memory.add(Slot(0, 0, 64 << 20, False, Ram()))
    assert 1 == len(memory.read(0, 1))
    for gpa in (0, 1 << 20):
        with pytest.raises(ValueError, match="at most 0x1000000 at once"):
            memory.read(gpa, DMA_LIMIT + 1)
        with pytest.raises(ValueError, match="at most 0x1000000 at once"):
            memory.write(gpa, bytes(DMA_LIMIT + 1))
