"""Guest memory of the reference hypervisor: RAM and a firmware ROM, as descriptors that mmiod can map.

The layout is the PC's.  RAM begins at 0, with the VGA hole at 0xa0000-0xbffff left out
(accesses there are exits); the firmware lies read-only below 4 GiB, and its last
128 KiB are copied to RAM at 0xe0000, where the shadow is.  The RAM behind the shadow
is always writable: who needs write protection there asks a host bridge for PAM, and
firmware for virtual machines does not.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
from typing import Final, Self

from attrs import define, frozen

MIB: Final = 1 << 20
FOUR_GIB: Final = 1 << 32
MAX_MEMORY: Final = 3072
"""MiB: PCI devices have the addresses from 0xc0000000."""
MAX_FIRMWARE: Final = 16 * MIB
VGA_HOLE: Final = 0xA0000
SHADOW: Final = 0xC0000
SHADOW_END: Final = 0x100000
SHADOW_COPY: Final = 128 << 10
PAGE: Final = 4096

_FIXED_SIZE: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW
_SEALED: Final = fcntl.F_SEAL_SEAL


@frozen
class Slot:
    """A range of guest memory: `length` bytes at `gpa`, found at `offset` in `descriptor`.

    `host` are the same bytes in this process.
    """

    number: int
    gpa: int
    length: int
    descriptor: int
    offset: int
    read_only: bool
    host: memoryview

    @property
    def address(self) -> int:
        """Where `host` is in this process."""
        return ctypes.addressof(ctypes.c_char.from_buffer(self.host))


@define
class GuestMemory:
    """The slots of one guest."""

    slots: tuple[Slot, ...]

    @classmethod
    def create(cls, mebibytes: int, firmware: bytes, descriptor: int | None = None) -> Self:
        """RAM of `mebibytes` MiB, perhaps in a memfd that somebody else made, and `firmware` below 4 GiB.

        Raises:
            ValueError: for sizes that a PC's layout has no place for, or that the memfd does not have.
            OSError: it is no file that can be mapped.
        """
        if not 1 <= mebibytes <= MAX_MEMORY:
            raise ValueError(f"memory is {mebibytes} MiB: 1..{MAX_MEMORY}")
        if not 0 < len(firmware) <= MAX_FIRMWARE or len(firmware) % PAGE:
            raise ValueError(
                f"firmware has {len(firmware):#x} bytes: a multiple of {PAGE:#x}, at most {MAX_FIRMWARE:#x}"
            )
        size = mebibytes * MIB
        ram, low = _ram(size, _memfd(size) if descriptor is None else descriptor)
        copy = firmware[-SHADOW_COPY:]
        low[SHADOW_END - len(copy) : SHADOW_END] = copy
        rom, high = _rom(firmware)
        return cls(
            (
                Slot(0, 0, VGA_HOLE, ram, 0, read_only=False, host=low[:VGA_HOLE]),
                Slot(1, SHADOW, size - SHADOW, ram, SHADOW, read_only=False, host=low[SHADOW:]),
                Slot(2, FOUR_GIB - len(firmware), len(firmware), rom, 0, read_only=True, host=high),
            )
        )

    def read(self, gpa: int, size: int) -> bytes:
        """What guest memory holds from `gpa` on: `size` bytes, fewer where it ends."""
        slot = self._slot(gpa)
        return bytes(slot.host[gpa - slot.gpa :][:size]) if slot else b""

    def write(self, gpa: int, data: bytes) -> None:
        """Put `data` into RAM.

        Raises:
            ValueError: if it does not lie in RAM.
        """
        slot = self._slot(gpa)
        if slot is None or slot.read_only or gpa + len(data) > slot.gpa + slot.length:
            raise ValueError(f"{len(data)} bytes at {gpa:#x} are not in guest RAM")
        slot.host[gpa - slot.gpa :][: len(data)] = data

    def close(self) -> None:
        """Close the descriptors; what is mapped stays until nobody uses it."""
        for descriptor in {slot.descriptor for slot in self.slots}:
            os.close(descriptor)

    def _slot(self, gpa: int) -> Slot | None:
        return next((slot for slot in self.slots if slot.gpa <= gpa < slot.gpa + slot.length), None)


def _memfd(size: int) -> int:
    descriptor = os.memfd_create("guest-ram", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, size)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _FIXED_SIZE | _SEALED)
    return descriptor


def _ram(size: int, descriptor: int) -> tuple[int, memoryview]:
    found = os.fstat(descriptor).st_size
    if found != size:
        raise ValueError(f"guest memory's descriptor has {found:#x} bytes, not {size:#x}")
    return descriptor, memoryview(mmap.mmap(descriptor, size))


def _rom(firmware: bytes) -> tuple[int, memoryview]:
    descriptor = os.memfd_create("guest-rom", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(descriptor, firmware)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _FIXED_SIZE | fcntl.F_SEAL_WRITE | _SEALED)
    # A private mapping: kernels before 6.7 refuse a shared one of a write-sealed file.
    return descriptor, memoryview(mmap.mmap(descriptor, len(firmware), access=mmap.ACCESS_COPY))
