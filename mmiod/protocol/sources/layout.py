"""Structures that others have laid out: tables of offsets, and views of bytes by field name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from attrs import define, frozen

from mmiod.errors import ProtocolError
from mmiod.protocol.exit.codec import MALFORMED

_SIZES: Final = {"u8": 1, "u16": 2, "u32": 4, "u64": 8}
_FIELD: Final = re.compile(r"(0x[0-9a-f]+|\d+)\s+(u\d+)(?:\[(\d+)\])?\s+(\S+)$")


@frozen
class Layout:
    """A structure: its name, as errors call it, and (offset, bytes) of each field that matters here."""

    name: str
    length: int
    """Bytes that must be there."""
    fields: Mapping[str, tuple[int, int]]

    def view(self, body: bytes) -> View:
        """A copy of a structure, to be read and edited.

        Raises:
            ProtocolError: if it is too short.
        """
        if len(body) < self.length:
            reason = f"a structure of at least {self.length} bytes"
            raise ProtocolError(MALFORMED, self.name, len(body), reason)
        return View(self, bytearray(body))

    def within(self, outer: View, at: int) -> View:
        """A view of this structure at `at` in another one: edits go to the same bytes.

        Raises:
            ProtocolError: if the outer one ends before it does.
        """
        if len(outer.data) < at + self.length:
            reason = f"{self.name} ends at {at + self.length}"
            raise ProtocolError(MALFORMED, outer.layout.name, len(outer.data), reason)
        return View(self, outer.data, at)


@define
class View:
    """Bytes of a structure: numbers by `view[name]`, little-endian; arrays by `octets`."""

    layout: Layout
    data: bytearray
    base: int = 0

    def __getitem__(self, name: str) -> int:
        return int.from_bytes(self.octets(name), "little")

    def __setitem__(self, name: str, value: int) -> None:
        offset, size = self.layout.fields[name]
        at = self.base + offset
        self.data[at : at + size] = value.to_bytes(size, "little")

    def octets(self, name: str) -> bytes:
        """A field as bytes."""
        offset, size = self.layout.fields[name]
        return bytes(self.data[self.base + offset : self.base + offset + size])


def layout(name: str, text: str, length: int = 0) -> Layout:
    """A layout from lines of `offset type name`, where a type is `u8`, ..., `u64` or an array of one.

    `length` is by default the end of the last field.
    """
    fields = dict(_field(line.strip()) for line in text.strip().splitlines())
    return Layout(name, length or max(offset + size for offset, size in fields.values()), fields)


def _field(line: str) -> tuple[str, tuple[int, int]]:
    found = _FIELD.match(line)
    if found is None:
        raise ValueError(line)
    offset, type_, count, name = found.groups()
    return name, (int(offset, 0), _SIZES[type_] * int(count or 1))
