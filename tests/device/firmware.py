"""A firmware that does what the table loader's script says, and nothing else.

QEMU's include/hw/acpi/bios-linker-loader.h and SeaBIOS's src/fw/romfile_loader.c, read anew.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from attrs import define, field


@define
class Firmware:
    """Files placed from 1 MiB on, patched in place."""

    files: Mapping[str, bytes]
    addresses: dict[str, int] = field(factory=dict)
    contents: dict[str, bytearray] = field(factory=dict)
    zones: dict[str, int] = field(factory=dict)
    _next: int = 1 << 20

    def run(self) -> Firmware:
        """Execute all entries."""
        script = self.files["etc/table-loader"]
        assert len(script) % 128 == 0
        for at in range(0, len(script), 128):
            entry = script[at : at + 128]
            (command,) = struct.unpack_from("<I", entry)
            {1: self._allocate, 2: self._add_pointer, 3: self._add_checksum}[command](entry)
        return self

    def _allocate(self, entry: bytes) -> None:
        name, alignment, zone = struct.unpack_from("<56sIB", entry, 4)
        file = _text(name)
        assert file not in self.addresses
        assert alignment & (alignment - 1) == 0
        self._next = -(-self._next // alignment) * alignment
        self.addresses[file], self.zones[file] = self._next, zone
        self.contents[file] = bytearray(self.files[file])
        self._next += len(self.files[file])

    def _add_pointer(self, entry: bytes) -> None:
        name, target, offset, size = struct.unpack_from("<56s56sIB", entry, 4)
        content = self.contents[_text(name)]
        assert offset + size <= len(content)
        value = int.from_bytes(content[offset : offset + size], "little") + self.addresses[_text(target)]
        content[offset : offset + size] = value.to_bytes(size, "little")

    def _add_checksum(self, entry: bytes) -> None:
        name, offset, start, length = struct.unpack_from("<56sIII", entry, 4)
        content = self.contents[_text(name)]
        assert start <= offset < start + length <= len(content)
        content[offset] = (content[offset] - sum(content[start : start + length])) & 0xFF

    def read(self, address: int, length: int) -> bytes:
        """Memory as it is now."""
        for file, base in self.addresses.items():
            if base <= address < base + len(self.contents[file]):
                return bytes(self.contents[file][address - base :][:length])
        raise AssertionError(f"nothing at {address:#x}")

    def table(self, address: int) -> bytes:
        """A table by its address."""
        return self.read(address, int.from_bytes(self.read(address + 4, 4), "little"))

    def tables(self) -> dict[str, bytes]:
        """What XSDT lists, and what the FADT points to."""
        (xsdt,) = struct.unpack("<Q", self.contents["etc/acpi/rsdp"][24:32])
        listed = self.table(xsdt)
        found = {}
        for at in range(36, len(listed), 8):
            table = self.table(int.from_bytes(listed[at : at + 8], "little"))
            found[table[:4].decode()] = table
        facs, dsdt = struct.unpack("<II", found["FACP"][36:44])
        return found | {"XSDT": listed, "FACS": self.table(facs), "DSDT": self.table(dsdt)}


def _text(name: bytes) -> str:
    text, nul, padding = name.partition(b"\0")
    assert nul
    assert not padding.strip(b"\0")
    return text.decode()
