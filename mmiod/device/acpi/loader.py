"""The table loader: a script by which firmware places files, links and sums them.

Specification: QEMU include/hw/acpi/bios-linker-loader.h and hw/acpi/bios-linker-loader.c;
SeaBIOS src/fw/romfile_loader.h reads it.  An entry has 128 bytes, little-endian.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

from attrs import define, field

ENTRY_LENGTH: Final = 128
NAME_LENGTH: Final = 56


class Zone(enum.IntEnum):
    """Where firmware allocates a file."""

    HIGH = 1
    """RAM below 4 GiB."""
    FSEG = 2
    """F0000h-FFFFFh, where an RSDP is looked for."""


class Command(enum.IntEnum):
    """The first word of an entry."""

    ALLOCATE = 1
    ADD_POINTER = 2
    ADD_CHECKSUM = 3


@define
class LoaderScript:
    """Commands in the order in which firmware executes them."""

    data: bytearray = field(factory=bytearray)

    def allocate(self, file: str, alignment: int, zone: Zone) -> None:
        """Load a file to a multiple of `alignment`, a power of two."""
        self._add(Command.ALLOCATE, [file], struct.pack("<IB", alignment, zone))

    def add_pointer(self, file: str, offset: int, size: int, target: str) -> None:
        """Add the address of `target` to the `size` bytes at `offset`, which hold an offset in it."""
        self._add(Command.ADD_POINTER, [file, target], struct.pack("<IB", offset, size))

    def add_checksum(self, file: str, offset: int, start: int, length: int) -> None:
        """Set the byte at `offset`, so that `length` bytes from `start` sum up to 0."""
        self._add(Command.ADD_CHECKSUM, [file], struct.pack("<III", offset, start, length))

    def _add(self, command: Command, files: list[str], numbers: bytes) -> None:
        names = b"".join(file.encode().ljust(NAME_LENGTH, b"\0") for file in files)
        entry = command.to_bytes(4, "little") + names + numbers
        self.data += entry.ljust(ENTRY_LENGTH, b"\0")
