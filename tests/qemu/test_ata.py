"""The ATA disk: QEMU's, on the same image, answers the same commands alike."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Final

import pytest

from devices.legacy.ata import Error, Status
from tests.devices.disks import LBA, MASTER, NIEN, SECTORS, SLAVE, SRST, Disk
from tests.qemu.differences import read, write
from tests.qemu.sides import Access, Reference, reference

pytestmark = pytest.mark.needs("qemu")

COMMANDS: Final = 600
DATA, ERROR, DEVICE, COMMAND, CONTROL = 0x1F0, 0x1F1, 0x1F6, 0x1F7, 0x3F6
READ, WRITE, FLUSH, IDENTIFY, DIAGNOSTIC, SET_FEATURES, PACKET = 0x20, 0x30, 0xE7, 0xEC, 0x90, 0xEF, 0xA1
SHARED_WORDS: Final = (3, 6, 60, 61)
"""Of IDENTIFY DEVICE: what an image decides.  The others say what a disk can do, and who made it."""
PATIENCE_S: Final = 60


@pytest.fixture
def disk() -> Disk:
    """Ours."""
    return Disk()


@pytest.fixture
def qemu(tmp_path: Path, disk: Disk) -> Iterator[Reference]:
    """QEMU with the same image."""
    path = tmp_path / "disk.img"
    path.write_bytes(disk.image)
    with reference(tmp_path, "-drive", f"file={path},format=raw,if=ide,cache=unsafe") as started:
        yield started


def settled(qemu: Reference) -> None:
    """Let the image answer; then BSY is clear."""
    end = time.monotonic() + PATIENCE_S
    while qemu.run([read(CONTROL)])[0] & Status.BSY:
        assert time.monotonic() < end


def ours(disk: Disk, access: Access) -> int:
    """One access to our disk."""
    control = access.address == CONTROL
    region, offset = ("control_block", 0) if control else ("command_block", access.address - DATA)
    if access.value is None:
        return disk.ata.read_at(offset, access.size, region)
    disk.ata.write_at(offset, access.value, access.size, region)
    disk.serve()
    return 0


def both(qemu: Reference, disk: Disk, accesses: list[Access]) -> list[int]:
    """The same on both sides; what they read."""
    found = qemu.run(accesses)
    settled(qemu)
    expected = [ours(disk, access) for access in accesses]
    assert shown(accesses, found) == shown(accesses, expected)
    return found


def shown(accesses: list[Access], values: list[int]) -> list[tuple[str, int]]:
    """Accesses and what they gave, as far as that means anything (7.8, 7.15).

    With BSY nothing else does; bit 4 of the status is left to the command, and QEMU clears it
    on errors; bits 7 and 5 of Device are obsolete, and QEMU sets them.  An address behind the
    end is IDNF or (QEMU) ABRT (8.34.6).
    """
    pairs = zip(accesses, values, strict=True)
    return [(str(access), _meant(access.address, value)) for access, value in pairs]


def _meant(port: int, value: int) -> int:
    if port == DEVICE:
        return value & ~0xA0
    if port == ERROR:
        return value & ~int(Error.IDNF) | (Error.ABRT if value & Error.IDNF else 0)
    if port not in {COMMAND, CONTROL}:
        return value
    return value & (Status.BSY if value & Status.BSY else ~int(Status.DSC))


def command(random: Random) -> list[Access]:
    """A command with its registers.

    EXECUTE DEVICE DIAGNOSTIC goes to device 0: QEMU leaves device 1 selected, against 8.11.5.
    A read is inside the disk or outside, and a write inside: QEMU does the first part of one
    across the end, and takes the data of a write before it looks.
    """
    code = random.choice((READ, READ, WRITE, WRITE, FLUSH, IDENTIFY, SET_FEATURES, PACKET, DIAGNOSTIC, 0x00))
    sector, count = random.randrange(SECTORS + (0 if code == WRITE else 8)), random.choice((1, 1, 2, 5))
    count = 1 if sector + count > SECTORS else count
    feature = random.choice((0x02, 0x82, 0x99)) if code == SET_FEATURES else 0
    device = SLAVE | LBA if random.random() < 0.1 and code != DIAGNOSTIC else MASTER | LBA
    values = (feature, count, sector & 0xFF, sector >> 8, 0, device)
    run = [write(0x1F1 + at, value) for at, value in enumerate(values)]
    return [*run, write(COMMAND, code)]


def transfer(qemu: Reference, disk: Disk, random: Random, code: int, count: int) -> None:
    """The data of a command, if it has come so far."""
    for _ in range(1 if code == IDENTIFY else count):
        if not both(qemu, disk, [read(CONTROL), read(COMMAND)])[0] & Status.DRQ:
            return
        if code == WRITE:
            both(qemu, disk, [write(DATA, random.getrandbits(16), 2) for _ in range(256)])
        elif code == READ:
            both(qemu, disk, [read(DATA, 2) for _ in range(256)])
        else:
            words = qemu.run([read(DATA, 2)] * 256), [disk.ata.read("data") for _ in range(256)]
            assert [words[0][at] for at in SHARED_WORDS] == [words[1][at] for at in SHARED_WORDS]


def test_same_commands_have_the_same_results(qemu: Reference, disk: Disk, tmp_path: Path) -> None:
    """Status, errors, data, and in the end the image, of random commands, with resets between them."""
    random = Random(1)
    for _ in range(COMMANDS):
        if random.random() < 0.05:
            both(qemu, disk, [write(CONTROL, SRST), read(CONTROL), write(CONTROL, NIEN)])
            both(qemu, disk, [read(0x1F1 + at) for at in range(6)])
        run = command(random)
        both(qemu, disk, run)
        transfer(qemu, disk, random, run[-1].value or 0, run[1].value or 0)
        both(qemu, disk, [read(CONTROL), read(COMMAND), write(DEVICE, MASTER), read(CONTROL), read(ERROR)])
    both(qemu, disk, [write(COMMAND, FLUSH)])
    assert disk.image == (tmp_path / "disk.img").read_bytes()
