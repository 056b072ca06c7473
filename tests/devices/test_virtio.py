"""Virtio devices on their transports, against drivers that were written from the specification."""

from __future__ import annotations

import json
import struct

import pytest

from devices.virtio.blk import VirtioBlk
from devices.virtio.blk_mmio import VirtioBlkMmio
from devices.virtio.console import ConsoleConfig, VirtioConsole
from devices.virtio.net import HEADER, LONGEST, WAITING, NetConfig, VirtioNet
from devices.virtio.rng import VirtioRng
from mmiod.device.block import MAX_TRANSFER, RANGE, SECTOR, Medium
from mmiod.device.pci import MsiX
from mmiod.device.virtio import VirtioConfig, VirtioPci
from mmiod.device.virtio.disk import MAX_TRANSFERS, DiskConfig
from mmiod.device.virtio.structures import Kind
from mmiod.machine.plain import structure, text_form
from mmiod.machine.snapshot import give, take
from mmiod.testing import Harness
from tests.device.virtio_drivers import PackedDriver, SplitDriver

SECTORS = 5000
IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES = 0, 1, 4, 8, 11, 13
OK, IOERR, UNSUPP = b"\0", b"\1", b"\2"
NO_VECTOR = 0xFFFF
Driver = SplitDriver | PackedDriver


class Guest(Harness[VirtioPci]):
    """A device on PCI and its driver, with MSI-X if the device has it; vector n + 1 is queue n's."""

    def __init__(self, plugin: type[VirtioPci], config: VirtioConfig) -> None:
        super().__init__(plugin, config)
        self.drivers: list[Driver] = []
        self.write("command", 6)
        if config.msix:
            self.write("msix_control", 0x8000)
            for vector in range(self.device.msix.vectors):
                self.write(f"msix_data{vector}", vector)
                self.write(f"msix_vector_control{vector}", 0)
        for name, service in self.device.services.items():
            assert service.reply is not None
            self.reply(name, 1, Medium(SECTORS).reply())
        self.start(packed=config.packed, event_index=config.event_index)

    def start(self, *, packed: bool, event_index: bool) -> None:
        """As 3.1.1 says."""
        for status in (0, 1, 3):
            self.write("device_status", status)
        for word in range(2):
            self.write("device_feature_select", word)
            self.write("driver_feature_select", word)
            self.write("driver_feature", self.read("device_feature"))
        self.write("device_status", 11)
        assert 11 == self.read("device_status")
        self.drivers = []
        for number in range(self.read("num_queues")):
            self.write("queue_select", number)
            size = min(self.read("queue_size"), 16)
            self.write("queue_size", size)
            self.write("queue_msix_vector", number + 1)
            ram, base = self.context.memory.ram, 0x1000 + 0x8000 * number
            ram[base : base + 0x3000] = bytes(0x3000)
            self.drivers.append(
                (PackedDriver if packed else SplitDriver)(
                    ram,
                    size,
                    event_index,
                    descriptors=base,
                    driver=base + 0x1000,
                    device=base + 0x2000,
                    next=0x40000 + 0x20000 * number,
                )
            )
            self.write("queue_desc", base)
            self.write("queue_driver", base + 0x1000)
            self.write("queue_device", base + 0x2000)
            self.write("queue_enable", 1)
            self.drivers[-1].collect()
        self.write("device_status", 15)

    def offer(self, queue: int, readable: list[bytes], writable: list[int], *, indirect: bool = False) -> int:
        """Offer and notify."""
        number = self.drivers[queue].offer(readable, writable, indirect=indirect)
        assert number is not None
        if self.drivers[queue].kicks():
            self.write_at(0x3000 + 4 * queue, queue, 2, "structures")
        return number

    def back(self, queue: int = 0) -> list[bytes]:
        """What came back."""
        return [data for _, data in self.drivers[queue].collect()]

    def asked(self) -> list[tuple[int, str, bytes]]:
        """What the image was asked for since the last time."""
        found = [(number, kind, data) for _, number, kind, data in self.context.asked if kind != "identify"]
        self.context.asked.clear()
        return found


def request(kind: int, sector: int = 0) -> bytes:
    """A header."""
    return struct.pack("<IIQ", kind, 0, sector)


def disk(**config: bool | int | str) -> Guest:
    """A disk that a driver has set up."""
    guest = Guest(VirtioBlk, DiskConfig(**config))  # type: ignore[arg-type]
    guest.asked()
    return guest


# --- PCI ----------------------------------------------------------------------------------------


def structures(guest: Harness[VirtioPci]) -> list[tuple[int, int, int, int]]:
    """Capabilities as a driver finds them: ID, type, offset, length."""
    found, at = [], guest.read("capabilities_pointer")
    while at:
        number, following, _, kind = (guest.read_at(at + byte, 1, "config_space") for byte in range(4))
        offset, length = (guest.read_at(at + byte, 4, "config_space") for byte in (8, 12))
        found.append((number, kind, offset, length))
        at = following
    return found


def test_a_driver_finds_the_structures() -> None:
    """4.1.4: one of each, within BAR 0; the device ID is 1040h and the device's."""
    guest = Harness[VirtioPci](VirtioBlk)
    assert 0x1042_1AF4 == guest.read_at(0, 4, "config_space")
    msix, *rest = structures(guest)
    assert 0x11 == msix[0]
    assert {Kind.COMMON, Kind.NOTIFY, Kind.ISR, Kind.DEVICE, Kind.PCI} == {kind for _, kind, _, _ in rest}
    assert all(number == 9 and offset + length <= 0x4000 for number, _, offset, length in rest)


def test_without_msix_there_is_no_such_capability() -> None:
    """So that QEMU can unplug the function: `msix = false`."""
    guest = disk(msix=False)
    assert {9} == {number for number, *_ in structures(guest)}
    assert not [found for found in guest.device.capabilities if isinstance(found, MsiX)]
    guest.write("queue_msix_vector", 1)
    assert NO_VECTOR == guest.read("queue_msix_vector")


def test_without_msix_an_interrupt_is_a_level_until_isr_is_read() -> None:
    """4.1.4.5."""
    guest = disk(msix=False)
    guest.offer(0, [request(GET_ID)], [20, 1])
    assert (True, 1, False, 0) == (
        guest.levels["intx"],
        guest.read("isr_status"),
        guest.levels["intx"],
        guest.read("isr_status"),
    )


def test_the_window_in_configuration_space_reaches_the_bar() -> None:
    """4.1.4.9: reads and writes of 1, 2 and 4 bytes; others reach nothing."""
    guest = disk()
    for name, value in (("bar", 0), ("at", 0x14), ("size", 1)):
        guest.write(f"window_{name}", value)
    assert 15 == guest.read("window_data")
    guest.write("window_at", 0x16)
    guest.write("window_size", 2)
    guest.write("window_data", 0xFFFF_1234)
    assert 0x1234 == guest.read("queue_select")
    for bar, offset, size in ((0, 0x3FFE, 4), (3, 0x14, 1), (0, 0x14, 3)):
        for name, value in (("bar", bar), ("at", offset), ("size", size)):
            guest.write(f"window_{name}", value)
        guest.write("window_data", 0)
        assert 0 == guest.read("window_data")
    assert 15 == guest.read("device_status")


def test_a_queue_that_is_not_there() -> None:
    """4.1.4.3.1: its size reads 0; nothing else can be set."""
    guest = disk()
    guest.write("queue_select", 1)
    for name in ("queue_size", "queue_enable", "queue_desc", "queue_reset"):
        guest.write(name, 1)
        assert 0 == guest.read(name)
    assert NO_VECTOR == guest.read("queue_msix_vector")


def test_each_queue_has_its_vector() -> None:
    """4.1.5.1.3; one that is no vector is none, and such a queue interrupts nobody."""
    guest = disk(queues=2)
    guest.offer(1, [request(GET_ID)], [20, 1])
    assert [(0, 2)] == guest.context.messages
    guest.write("queue_select", 1)
    guest.write("queue_msix_vector", 9)
    assert NO_VECTOR == guest.read("queue_msix_vector")
    guest.back(1)
    guest.offer(1, [request(GET_ID)], [20, 1])
    assert [(0, 2)] == guest.context.messages
    assert [b"mmiod".ljust(20, b"\0") + OK] == guest.back(1)


def test_a_queue_is_reset_alone() -> None:
    """2.6.1: what it had is forgotten, what the image still says of it too; the others go on."""
    guest = disk(queues=2)
    guest.offer(0, [request(IN)], [SECTOR, 1])
    guest.offer(1, [request(IN)], [SECTOR, 1])
    (first, _, _), (second, _, _) = guest.asked()
    guest.write("queue_select", 0)
    guest.write("queue_reset", 1)
    assert (0, 0) == (guest.read("queue_reset"), guest.read("queue_enable"))
    for number in (first, second):
        guest.reply("image", number, b"x" * SECTOR)
    assert ([], [b"x" * SECTOR + OK]) == (guest.back(0), guest.back(1))


# --- the disk -----------------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
def test_requests_reach_the_image(packed: bool) -> None:
    """Reads, writes, flushes, discards and zeroes; their data and a status come back."""
    guest = disk(packed=packed)
    data = bytes(range(256)) * 4
    guest.offer(0, [request(IN, 7)], [SECTOR, SECTOR, 1], indirect=True)
    guest.offer(0, [request(OUT, 9), data], [1])
    guest.offer(0, [request(FLUSH)], [1])
    guest.offer(0, [request(DISCARD), struct.pack("<QII", 3, 4, 0)], [1])
    guest.offer(0, [request(WRITE_ZEROES), struct.pack("<QII", 5, 6, 1)], [1])
    asked = guest.asked()
    assert [
        ("read", RANGE.pack(7, 2)),
        ("write", struct.pack("<Q", 9) + data),
        ("flush", b""),
        ("discard", RANGE.pack(3, 4)),
        ("write_zeroes", RANGE.pack(5, 6)),
    ] == [(kind, data) for _, kind, data in asked]
    for number, kind, _ in asked:
        guest.reply("image", number, data if kind == "read" else b"")
    assert [data + OK, OK, OK, OK, OK] == guest.back()


@pytest.mark.parametrize(
    ("readable", "writable", "status"),
    [
        ([request(99)], [1], UNSUPP),
        ([request(IN)], [SECTOR + 1, 1], IOERR),
        ([request(IN)], [1], IOERR),
        ([request(IN)], [(MAX_TRANSFER + 1) * SECTOR, 1], IOERR),
        ([request(OUT), b"x" * 511], [1], IOERR),
        ([request(OUT)], [1], IOERR),
        ([request(FLUSH), b"x"], [1], IOERR),
        ([request(DISCARD), bytes(15)], [1], IOERR),
        ([request(DISCARD), struct.pack("<QII", 0, 1, 1)], [1], UNSUPP),
        ([request(DISCARD), struct.pack("<QII", 0, 0, 0)], [1], UNSUPP),
        ([request(WRITE_ZEROES), struct.pack("<QII", 0, 1 << 31, 0)], [1], UNSUPP),
    ],
)
def test_what_is_no_request_is_answered_at_once(
    readable: list[bytes], writable: list[int], status: bytes
) -> None:
    """By a status in the last byte; the image does not hear of it."""
    guest = disk()
    guest.context.memory.ram.extend(bytes(2 << 20))
    guest.offer(0, readable, writable)
    assert [] == guest.asked()
    last = guest.drivers[0].offers.popitem()[1].places[-1]
    assert status == guest.context.memory.read(last[0] + last[1] - 1, 1)


@pytest.mark.parametrize(("readable", "writable"), [([b"short"], [1]), ([request(IN)], [])])
def test_a_request_without_header_or_status_breaks_the_queue(
    readable: list[bytes], writable: list[int]
) -> None:
    """There is nowhere to say so but in the device's status."""
    guest = disk()
    guest.offer(0, readable, writable)
    assert 15 | 64 == guest.read("device_status")
    assert [(0, NO_VECTOR)] != guest.context.messages


def test_a_failure_of_the_image_is_an_error_of_the_request() -> None:
    """And an event with the reason."""
    guest = disk()
    guest.offer(0, [request(OUT, 4), b"x" * SECTOR], [1])
    ((number, _, _),) = guest.asked()
    guest.fail("image", number, "no space")
    assert [IOERR] == guest.back()
    assert [("disk_request_failed", {"reason": "no space"})] == guest.context.events


def test_no_more_requests_are_under_way_than_the_image_takes() -> None:
    """The rest stays in the queue, and follows as answers come; also behind resets by the driver."""
    guest = disk(queues=4)
    asked = []
    for queue in range(4):
        for _ in range(12):
            guest.offer(queue, [request(FLUSH)], [1], indirect=True)
    asked += guest.asked()
    assert MAX_TRANSFERS == len(asked)
    guest.reply("image", asked[0][0], b"")
    assert 1 == len(guest.asked())
    guest.start(packed=False, event_index=True)
    guest.offer(0, [request(FLUSH)], [1])
    assert [] == guest.asked()
    for number, *_ in asked[1:]:
        guest.reply("image", number, b"")
    assert [] == guest.back()
    ((number, _, _),) = guest.asked()
    guest.reply("image", number, b"")
    assert [OK] == guest.back()


def test_the_size_of_the_image_comes_with_an_interrupt() -> None:
    """5.2.5.2: capacity changes, so does the generation, and the driver is told by its vector."""
    guest = disk()
    guest.write("config_msix_vector", 0)
    generation = guest.read("config_generation")
    assert SECTORS == guest.read_at(0x2000, 8, "structures")
    number = guest.device.state.identification  # type: ignore[attr-defined]
    guest.reply("image", number, Medium(SECTORS, read_only=True).reply())
    assert [(0, 0)] == guest.context.messages
    assert generation + 1 == guest.read("config_generation")
    guest.write("device_feature_select", 0)
    assert guest.read("device_feature") & 1 << 5


@pytest.mark.parametrize("packed", [False, True])
def test_a_transfer_goes_on_behind_a_restore(packed: bool) -> None:
    """A request that was asked for before a reload is answered after it, by the new generation."""
    guest = disk(packed=packed)
    guest.offer(0, [request(IN, 1)], [SECTOR, 1])
    ((number, _, _),) = guest.asked()
    saved = take(guest.device)
    form = text_form(VirtioBlk)
    document = json.dumps(form.unstructure(guest.device.state))
    assert guest.device.state == structure(form, json.loads(document), VirtioBlk.state_class, "state")
    guest.device = VirtioBlk(guest.context, DiskConfig(packed=packed))
    give(guest.device, saved)
    guest.reply("image", number, b"r" * SECTOR)
    assert [b"r" * SECTOR + OK] == guest.back()


# --- the others ---------------------------------------------------------------------------------


def test_entropy_is_drawn_when_it_is_wanted() -> None:
    """Not before, and at most 64 bytes ahead; a buffer gets nothing while there are less."""
    guest = Guest(VirtioRng, VirtioConfig())
    assert 0 == guest.room("source")
    guest.offer(0, [], [100])
    assert 64 == guest.room("source")
    guest.receive("source", b"r" * 64)
    assert [b"r" * 64] == guest.back()
    guest.offer(0, [], [10])
    for part in (b"s" * 9, b"s" * 54):
        guest.receive("source", part)
        assert [] == guest.back()
    assert 1 == guest.room("source")
    guest.receive("source", b"t")
    assert [b"s" * 10] == guest.back()
    guest.offer(0, [], [64])
    guest.receive("source", b"u" * 10)
    assert [b"s" * 53 + b"t" + b"u" * 10] == guest.back()


def test_text_goes_both_ways() -> None:
    """What the guest has no buffer for waits, up to 4 KiB."""
    guest = Guest(VirtioConsole, ConsoleConfig(columns=132, rows=50))
    assert 132 | 50 << 16 == guest.read_at(0x2000, 4, "structures")
    guest.offer(1, [b"hello ", b"world"], [])
    assert b"hello world" == guest.sent("terminal")
    guest.receive("terminal", b"typed")
    assert 4096 - 5 == guest.room("terminal")
    guest.offer(0, [], [3])
    guest.offer(0, [], [3])
    assert [b"typ", b"ed"] == guest.back(0)


def test_frames_go_both_ways() -> None:
    """Behind a header of 12 bytes; what the guest has no buffer for waits, up to 64 frames."""
    guest = Guest(VirtioNet, NetConfig(mac="02:00:00:00:00:01"))
    assert 0x0100_0000_0002 == guest.read_at(0x2000, 8, "structures") & (1 << 48) - 1
    guest.offer(1, [bytes(12), b"frame"], [])
    guest.offer(1, [bytes(12) + b"another"], [])
    guest.offer(1, [bytes(12) + bytes(LONGEST + 1)], [])
    assert b"frameanother" == guest.sent("wire")
    assert LONGEST == guest.room("wire")
    for number in range(WAITING):
        guest.receive("wire", b"%02d" % number)
    assert 0 == guest.room("wire")
    guest.offer(0, [], [12, 2])
    guest.offer(0, [], [13])
    guest.offer(0, [], [1514])
    assert [HEADER + b"00", HEADER, HEADER + b"02"] == guest.back(0)


def test_a_buffer_that_is_too_short_for_a_header_breaks_the_queue() -> None:
    """5.1.6.3.1: a driver gives at least the header's 12 bytes."""
    guest = Guest(VirtioNet, NetConfig())
    guest.receive("wire", b"frame")
    guest.offer(0, [], [11])
    assert 15 | 64 == guest.read("device_status")


# --- memory-mapped registers --------------------------------------------------------------------


def test_a_disk_by_memory_mapped_registers() -> None:
    """4.2.2: a driver sets it up, is interrupted by a level until it acknowledges, and resets it."""
    guest = Harness(VirtioBlkMmio)
    guest.reply("image", 1, Medium(SECTORS).reply())
    assert [0x7472_6976, 2, 2] == [guest.read_at(offset, 4) for offset in (0, 4, 8)]
    for offset, value in ((0x70, 0), (0x70, 1), (0x70, 3), (0x24, 1), (0x20, 1), (0x70, 11), (0x30, 0)):
        guest.write_at(offset, value, 4)
    assert (11, 128) == (guest.read_at(0x70, 4), guest.read_at(0x34, 4))
    guest.write_at(0x38, 8, 4)
    for offset, value in ((0x80, 0x1000), (0x90, 0x3000), (0xA0, 0x4000)):
        guest.write_at(offset, value, 4)
        guest.write_at(offset + 4, 0, 4)
    guest.write_at(0x44, 1, 4)
    guest.write_at(0x70, 15, 4)
    assert (1, SECTORS) == (guest.read_at(0x44, 4), guest.read_at(0x100, 8))
    driver = SplitDriver(guest.context.memory.ram, 8, event_index=False)
    driver.offer([request(GET_ID)], [20, 1], indirect=False)
    guest.write_at(0x50, 0, 4)
    assert [b"mmiod".ljust(20, b"\0") + OK] == [data for _, data in driver.collect()]
    assert (True, 1) == (guest.levels["irq"], guest.read_at(0x60, 4))
    guest.write_at(0x64, 1, 4)
    assert (False, 0) == (guest.levels["irq"], guest.read_at(0x60, 4))
    guest.write_at(0x44, 0, 4)
    assert 0 == guest.read_at(0x44, 4)
    guest.write_at(0x70, 0, 4)
    assert 0 == guest.read_at(0x70, 4)
