from __future__ import annotations

import fcntl
import os

import pytest

from mmiod.vmm.guest import GuestMemory
from tests.vmm.fake import EXIT, firmware


def test_memory_is_sealed_against_shrinking() -> None:
    """A daemon that maps it cannot be killed by a truncation."""
    memory = GuestMemory.create(1, firmware(EXIT))
    seals = [fcntl.fcntl(slot.descriptor, fcntl.F_GET_SEALS) for slot in memory.slots]
    memory.close()

    fixed = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
    assert [fixed, fixed, fixed | fcntl.F_SEAL_WRITE] == seals


@pytest.mark.parametrize(
    ("mebibytes", "size", "words"),
    [
        (0, 65536, "memory is 0 MiB: 1..3072"),
        (3073, 65536, "memory is 3073 MiB"),
        (1, 0, "firmware has 0x0 bytes"),
        (1, 5000, "firmware has 0x1388 bytes: a multiple of 0x1000"),
        (1, (16 << 20) + 4096, "at most 0x1000000"),
    ],
)
def test_sizes_without_a_place_are_refused(mebibytes: int, size: int, words: str) -> None:
    """The message has the value and the bounds."""
    with pytest.raises(ValueError, match=words):
        GuestMemory.create(mebibytes, bytes(size))


def test_ram_may_be_in_somebody_elses_memfd() -> None:
    """Whoever made it sees what the guest writes; another size is refused."""
    descriptor = os.memfd_create("ram")
    os.ftruncate(descriptor, 1 << 20)
    memory = GuestMemory.create(1, firmware(EXIT), descriptor)
    memory.write(0x1234, b"seen")
    assert b"seen" == os.pread(descriptor, 4, 0x1234)
    with pytest.raises(ValueError, match="descriptor has 0x100000 bytes, not 0x200000"):
        GuestMemory.create(2, firmware(EXIT), descriptor)
    memory.close()


def test_firmware_lies_below_4_gib_and_in_the_shadow() -> None:
    """Its last 128 KiB are RAM below 1 MiB, where they can be written; above they cannot."""
    image = bytes(range(256)) * 1024
    memory = GuestMemory.create(1, image)
    memory.write(0xE0000, b"new")

    assert image == memory.read(0xFFFC0000, len(image) + 1)
    assert b"new" + image[0x20003:] == memory.read(0xE0000, 0x20001)
    assert (b"", b"") == (memory.read(0xA0000, 1), memory.read(0x100000, 1))
    for place in (0xFFFC0000, 0x9FFFF, 0xFFFFF):
        with pytest.raises(ValueError, match=f"2 bytes at {place:#x} are not in guest RAM"):
            memory.write(place, b"ab")
    memory.close()
