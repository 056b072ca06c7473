"""An ATA disk by PIO; numbers are sections of T13 1410D revision 3b (ATA/ATAPI-6)."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings, strategies as st

from devices.legacy.ata import DeviceControl, Error, Phase, Status
from mmiod.device.block import RANGE, SECTOR, Medium
from mmiod.machine.description import DeviceDescription
from mmiod.machine.state import restore, save
from tests.devices.disks import LBA, MASTER, NIEN, SECTORS, SLAVE, SRST, Disk
from tests.machine.machines import Rig

READY = Status.DRDY | Status.DSC
READ, WRITE, FLUSH, IDENTIFY, DIAGNOSTIC, SET_FEATURES, PACKET = 0x20, 0x30, 0xE7, 0xEC, 0x90, 0xEF, 0xA1
SIGNATURE = [1, 1, 1, 0, 0, 0]
"""Error, Sector Count, LBA Low, Mid, High, Device (9.12)."""


def block(disk: Disk) -> list[int]:
    """The command block registers 1 to 6."""
    return [disk.ata.read_at(offset, region="command_block") for offset in range(1, 7)]


# --- reset -----------------------------------------------------------------------------------------


def test_power_on_is_busy_until_the_image_is_known() -> None:
    """BSY, then the signature of a disk that passed its diagnostics, ready, without interrupt (9.1)."""
    disk = Disk()
    disk.held = True
    disk.ata.device.reset()
    assert Status.BSY == disk.status
    disk.held = False
    disk.serve()
    assert (READY, SIGNATURE, False) == (disk.status, block(disk), disk.irq)


def test_disk_whose_image_cannot_be_opened_is_not_there() -> None:
    """Status 0 as an empty channel (9.16.1), one event; the next reset of the machine tries again."""
    disk = Disk()
    disk.held = True
    disk.ata.device.reset()
    disk.fail("is locked")
    disk.command(IDENTIFY)
    assert 0 == disk.status
    assert [("disk_failed", {"reason": "is locked"})] == disk.ata.context.events
    disk.held = False
    disk.ata.device.reset()
    disk.serve()
    assert READY == disk.status


def test_software_reset() -> None:
    """BSY while SRST is set; then the signature; what was under way ends unheard (9.2)."""
    disk = Disk()
    disk.held = True
    disk.command(READ, 7, 3)
    disk.ata.write("device_control", SRST)
    assert Status.BSY == disk.status
    disk.ata.write("device_control", 0)
    assert (READY, SIGNATURE, False) == (disk.status, block(disk), disk.irq)
    disk.held = False
    disk.serve()
    assert (READY, False) == (disk.status, disk.irq)
    disk.command(READ, 7)
    assert (7).to_bytes(SECTOR, "little") == disk.take()


def test_diagnostic_gives_the_signature() -> None:
    """EXECUTE DEVICE DIAGNOSTIC (8.11): also when device 1 is selected."""
    disk = Disk()
    disk.command(DIAGNOSTIC, 5, 9, SLAVE)
    assert (READY, SIGNATURE, True) == (disk.status, block(disk), disk.irq)


# --- identity --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sectors", "cylinders", "shown"), [(SECTORS, 0, SECTORS), (1 << 28, 16383, (1 << 28) - 1)]
)
def test_identity(sectors: int, cylinders: int, shown: int) -> None:
    """IDENTIFY DEVICE (8.15): capacity in words 60-61, at most what 28 bits reach; LBA; its texts."""
    disk = Disk(1)
    disk.medium = Medium(sectors)
    disk.ata.device.reset()
    disk.serve()
    disk.command(IDENTIFY)
    words = struct.unpack("<256H", disk.take())
    assert (cylinders, 16, 63, shown) == (words[1], words[3], words[6], words[60] | words[61] << 16)
    assert words[49] & 1 << 9
    assert 0x4000 == words[83] & 0xC000 == words[84] & 0xC000 == words[87] & 0xC000
    texts = {
        first: struct.pack(f">{end - first}H", *words[first:end]).rstrip()
        for first, end in ((10, 20), (23, 27), (27, 47))
    }
    assert {10: b"0001", 23: b"1", 27: b"mmiod disk"} == texts
    assert (READY, 0) == disk.ended()


# --- data ------------------------------------------------------------------------------------------


def test_read_has_an_interrupt_for_each_sector() -> None:
    """PIO data-in (9.5): BSY, then DRQ and INTRQ per sector; status acknowledges; none at the end."""
    disk = Disk()
    disk.held = True
    disk.command(READ, 5, 2)
    assert (Status.BSY, False) == (disk.status, disk.irq)
    disk.held = False
    disk.serve()
    for number in (5, 6):
        assert (READY | Status.DRQ, True) == (disk.status, disk.irq)
        assert READY | Status.DRQ == disk.ata.read("status")
        assert not disk.irq
        assert number.to_bytes(SECTOR, "little") == disk.take()
    assert (READY, False) == (disk.status, disk.irq)


def test_write_ends_with_an_interrupt() -> None:
    """PIO data-out (9.6): DRQ without interrupt, one before each further sector, BSY, one at the end."""
    disk = Disk()
    disk.command(WRITE, 5, 2)
    assert (READY | Status.DRQ, False) == (disk.status, disk.irq)
    disk.give(b"a" * SECTOR)
    assert (READY | Status.DRQ, True) == (disk.status, disk.irq)
    disk.ata.read("status")
    disk.held = True
    disk.give(b"b" * SECTOR)
    assert (Status.BSY, False) == (disk.status, disk.irq)
    disk.held = False
    disk.serve()
    assert disk.irq
    assert (READY, 0) == disk.ended()
    assert b"a" * SECTOR + b"b" * SECTOR == disk.image[5 * SECTOR : 7 * SECTOR]


@pytest.mark.parametrize("most", [1, 100, 256, 1000])
def test_strings_of_words_are_as_words(most: int) -> None:
    """INSW and OUTSW, in parts of at most so many words: each ends with its sector, for the interrupt."""
    disk = Disk()
    answerer = disk.ata.device.answerers["command_block"]
    data, left = bytes(range(256)) * 4, 512
    disk.command(WRITE, 5, 2)
    while left:
        taken = answerer.write_batch(disk.ata.device, 0, 2, data[1024 - 2 * left :][: 2 * most], 0)
        assert 0 < taken <= (left - 1) % 256 + 1
        left -= taken
        assert disk.irq == (left == 256)
        disk.ata.read("status")
    disk.serve()
    assert data == disk.image[5 * SECTOR : 7 * SECTOR]
    disk.command(READ, 5, 2)
    found = b""
    while part := answerer.read_batch(disk.ata.device, 0, 2, most, 0):
        found += part
    assert data == found
    assert READY == disk.status
    assert 0 == answerer.write_batch(disk.ata.device, 0, 2, data, 0), "nothing is awaited"


def test_count_0_is_256_sectors() -> None:
    """Of READ and of WRITE SECTOR(S) (8.34, 8.62)."""
    disk = Disk()
    disk.command(READ, 10, 0)
    assert bytes(disk.image[10 * SECTOR : 266 * SECTOR]) == disk.take(256 * 256)
    disk.command(WRITE, 10, 0)
    disk.give(b"z" * 256 * SECTOR)
    assert (READY, 0) == disk.ended()
    assert b"z" * 256 * SECTOR == disk.image[10 * SECTOR : 266 * SECTOR]
    assert (266).to_bytes(SECTOR, "little") == disk.image[266 * SECTOR : 267 * SECTOR]


def test_write_goes_to_where_the_command_said() -> None:
    """Registers that change during the transfer, as only a broken or hostile driver does, mean nothing."""
    disk = Disk()
    disk.command(WRITE, 5)
    for offset in range(1, 7):
        disk.ata.write_at(offset, 0xFF & ~0x10, region="command_block")
    disk.give(b"a" * SECTOR)
    assert (READY, 0) == disk.ended()
    assert b"a" * SECTOR == disk.image[5 * SECTOR : 6 * SECTOR]


@settings(max_examples=40)
@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, SECTORS - 1), st.integers(1, 6), st.integers(0, 255)),
        max_size=8,
    )
)
def test_disk_is_as_an_array_of_sectors(steps: list[tuple[bool, int, int, int]]) -> None:
    """What was written is read, and commands that end behind the last sector do nothing but say so."""
    disk = Disk()
    expected = bytearray(disk.image)
    for writes, sector, count, value in steps:
        begin, end = sector * SECTOR, (sector + count) * SECTOR
        disk.command(WRITE if writes else READ, sector, count)
        if sector + count > SECTORS:
            assert (READY | Status.ERR, Error.IDNF) == disk.ended()
        elif writes:
            expected[begin:end] = bytes([value]) * (end - begin)
            disk.give(bytes(expected[begin:end]))
            assert (READY, 0) == disk.ended()
        else:
            assert expected[begin:end] == disk.take(256 * count)
    assert expected == disk.image


# --- what fails ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "device", "sector", "count", "error"),
    [
        (READ, MASTER | LBA, SECTORS, 1, Error.IDNF),
        (READ, MASTER | LBA, SECTORS - 1, 2, Error.IDNF),
        (WRITE, MASTER | LBA, (1 << 28) - 1, 0, Error.IDNF),
        (READ, MASTER, 1, 1, Error.ABRT),
        (WRITE, MASTER, 1, 1, Error.ABRT),
        (PACKET, MASTER, 0, 1, Error.ABRT),
        (0x00, MASTER, 0, 1, Error.ABRT),
        (0xC8, MASTER | LBA, 0, 1, Error.ABRT),
    ],
)
def test_command_that_cannot_be_done(code: int, device: int, sector: int, count: int, error: Error) -> None:
    """Behind the end IDNF; by cylinders, or unknown, ABRT: ERR, an interrupt, and nothing asked."""
    disk = Disk()
    disk.command(code, sector, count, device)
    assert disk.irq
    assert (READY | Status.ERR, error) == disk.ended()
    assert ["identify"] == disk.kinds
    disk.command(FLUSH)
    assert (READY, 0) == disk.ended()


def test_write_protected_disk() -> None:
    """WRITE SECTOR(S) is aborted before any data (8.62.6)."""
    disk = Disk(read_only=True)
    disk.command(WRITE, 0)
    assert (READY | Status.ERR, Error.ABRT) == disk.ended()
    disk.command(READ, 1)
    assert (1).to_bytes(SECTOR, "little") == disk.take()


@pytest.mark.parametrize(("code", "error"), [(READ, Error.UNC), (FLUSH, Error.ABRT), (WRITE, Error.ABRT)])
def test_error_of_the_image(code: int, error: Error) -> None:
    """A read that fails is uncorrectable, anything else aborted; the reason is an event."""
    disk = Disk()
    disk.held = True
    disk.command(code, 3)
    if code == WRITE:
        disk.give(bytes(SECTOR))
    disk.fail("read: Input/output error")
    assert disk.irq
    assert (READY | Status.ERR, error) == disk.ended()
    assert [("disk_failed", {"reason": "read: Input/output error"})] == disk.ata.context.events


def test_features() -> None:
    """SET FEATURES (8.46): PIO modes and the write cache; DMA modes and what is unknown are aborted."""
    disk = Disk()
    found = []
    for feature, count in ((0x03, 0x0C), (0x02, 0), (0x82, 0), (0x03, 0x22), (0x99, 0)):
        disk.ata.write("features", feature)
        disk.command(SET_FEATURES, 0, count)
        found.append(disk.ended()[1])
    assert [0, 0, 0, Error.ABRT, Error.ABRT] == found


# --- who listens -----------------------------------------------------------------------------------


def test_device_1_is_not_there() -> None:
    """Status 0 while it is selected; other registers read; commands to it do nothing (9.16.1)."""
    disk = Disk()
    disk.command(IDENTIFY, 0x55, 0xAA, SLAVE)
    assert (0, False) == (disk.status, disk.irq)
    assert [0xAA, 0x55] == block(disk)[1:3]
    disk.ata.write("device", MASTER)
    assert READY == disk.status


def test_interrupt_is_masked_and_belongs_to_the_selected_device() -> None:
    """With nIEN, or while device 1 is selected, INTRQ is not driven; pending it stays (7.7, 7.9)."""
    disk = Disk()
    seen = []
    disk.command(FLUSH)
    for register, value in (
        ("device_control", NIEN),
        ("device_control", 0),
        ("device", SLAVE),
        ("device", MASTER),
    ):
        disk.ata.write(register, value)
        seen.append(disk.irq)
    assert [False, True, False, True] == seen
    disk.ata.write("command", FLUSH)
    assert not disk.irq, "a command acknowledges, too"
    assert DeviceControl.nIEN == NIEN


def test_busy_disk_takes_no_command() -> None:
    """What is written to Command while BSY is ignored; the first command ends as it would."""
    disk = Disk()
    disk.held = True
    disk.command(READ, 3)
    disk.command(WRITE, 9)
    disk.held = False
    disk.serve()
    assert (3).to_bytes(SECTOR, "little") == disk.take()
    assert ["identify", "read"] == disk.kinds


bytes_written = st.integers(0, 255) | st.sampled_from([READ, WRITE, FLUSH, IDENTIFY, 0, 1, 0xE0])


@settings(max_examples=60)
@given(
    steps=st.lists(st.tuples(st.integers(-1, 8), st.booleans(), bytes_written), max_size=60),
    held=st.booleans(),
)
def test_no_access_makes_the_buffer_grow(steps: list[tuple[int, bool, int]], *, held: bool) -> None:
    """Whatever a guest does: at most 256 sectors are kept, and no request is outside the image."""
    disk = Disk()
    disk.held = held
    for offset, writes, value in steps:
        region, at = ("control_block", 0) if offset < 0 else ("command_block", offset % 8)
        size = 2 if at == 0 and region == "command_block" else 1
        if writes:
            disk.ata.write_at(at, value, size, region)
        else:
            disk.ata.read_at(at, size, region)
        disk.serve()
        assert len(disk.ata.device.state.buffer) <= 256 * SECTOR
    for _, _, kind, data in disk.ata.context.asked:
        if kind == "read":
            sector, count = RANGE.unpack(data)
            assert sector + count <= SECTORS


def test_state_comes_back_in_the_middle_of_a_transfer() -> None:
    """A saved disk goes on with its data; the image is asked anew what it is."""
    rigs = [Rig({"dev": (type(Disk().ata.device), DeviceDescription("legacy/ata"))}) for _ in range(2)]
    hosts = [rig.machine.hosts["dev"] for rig in rigs]
    hosts[0].reply("disk", 1, Medium(SECTORS).reply())
    for offset, value in enumerate((1, 5, 0, 0, 0xE0, READ), 2):
        hosts[0].access("command_block", offset, 1, 1, value)  # type: ignore[arg-type]
    hosts[0].reply("disk", 2, bytes(range(256)) * 2)
    hosts[0].access("command_block", 0, 2, 0, 0)  # type: ignore[arg-type]
    restore(rigs[1].machine, save(rigs[0].machine))
    assert 0x0302 == hosts[1].access("command_block", 0, 2, 0, 0)  # type: ignore[arg-type]
    assert Phase.DATA_IN is hosts[1].device.state.phase
    hosts[1].reply("disk", hosts[1].device.state.identification, Medium(9, read_only=True).reply())
    assert (Phase.DATA_IN, 9) == (hosts[1].device.state.phase, hosts[1].device.state.medium.sectors)


def test_disk_stays_busy_while_it_is_held_in_reset() -> None:
    """9.2: BSY as long as SRST is set, though the image may answer meanwhile; then it is ready."""
    disk = Disk()
    disk.held = True
    disk.ata.device.reset()
    disk.ata.write("device_control", SRST)
    disk.held = False
    disk.serve()
    assert disk.status == Status.BSY
    disk.ata.write("device_control", 0)
    assert disk.status == Status.DRDY | Status.DSC
