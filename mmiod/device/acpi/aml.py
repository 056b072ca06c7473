"""AML, the bytecode of ACPI's namespace: the terms that declare things.

Specification: ACPI 6.5, chapter 20; resource descriptors 6.4, device IDs 6.1.5.  Every
function gives the bytes of one term; terms are put together by giving them to another.

Not here: paths, control flow, operators and fields.  What these tables describe is fixed.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from typing import Final

_SEGMENT: Final = re.compile("[A-Z_][A-Z0-9_]{0,3}")
_PACKAGE_ELEMENTS_MAX: Final = 255

_ZERO, _ONE, _NAME, _STRING = b"\x00", b"\x01", b"\x08", b"\x0d"
_SCOPE, _BUFFER, _PACKAGE = b"\x10", b"\x11", b"\x12"
_DEVICE: Final = b"\x5b\x82"
_INTEGERS: Final = ((b"\x0a", 1), (b"\x0b", 2), (b"\x0c", 4), (b"\x0e", 8))
"""Prefixes of constants, and their bytes."""


def integer(value: int) -> bytes:
    """A constant in its shortest form (20.2.3); below 2^64."""
    if value in {0, 1}:
        return _ONE if value else _ZERO
    for prefix, size in _INTEGERS:
        if 0 <= value < 1 << 8 * size:
            return prefix + value.to_bytes(size, "little")
    raise ValueError(f"{value:#x} is no AML integer")


def string(text: str) -> bytes:
    """ASCII without NUL (20.2.3)."""
    return _STRING + text.encode("ascii") + b"\0"


def segment(name: str) -> bytes:
    """A name, of one segment; a short one is filled up with `_` (20.2.2)."""
    if not _SEGMENT.fullmatch(name):
        raise ValueError(f"{name!r} is no AML name: one to four of A-Z, _ and, not first, 0-9")
    return name.ljust(4, "_").encode()


def _with_length(content: bytes) -> bytes:
    """PkgLength, which counts itself, and what it is the length of (20.2.4)."""
    length = len(content)
    if length + 1 < 1 << 6:
        return bytes([length + 1]) + content
    for more in (1, 2, 3):
        total = length + 1 + more
        if total < 1 << 4 + 8 * more:
            return bytes([more << 6 | total & 0xF]) + (total >> 4).to_bytes(more, "little") + content
    raise ValueError(f"{length} bytes are too long for a package")


def name(given: str, value: bytes) -> bytes:
    """`Name (given, value)`."""
    return _NAME + segment(given) + value


def scope(given: str, *terms: bytes) -> bytes:
    """`Scope (given) {terms}`."""
    return _SCOPE + _with_length(segment(given) + b"".join(terms))


def device(given: str, *terms: bytes) -> bytes:
    """`Device (given) {terms}`."""
    return _DEVICE + _with_length(segment(given) + b"".join(terms))


def package(elements: Iterable[bytes]) -> bytes:
    """`Package () {elements}`, at most 255."""
    given = list(elements)
    if len(given) > _PACKAGE_ELEMENTS_MAX:
        raise ValueError(f"{len(given)} elements; a package has up to {_PACKAGE_ELEMENTS_MAX}")
    return _PACKAGE + _with_length(bytes([len(given)]) + b"".join(given))


def buffer(data: bytes) -> bytes:
    """`Buffer () {data}`."""
    return _BUFFER + _with_length(integer(len(data)) + data)


def eisa_id(text: str) -> bytes:
    """A device ID such as `PNP0A03` as an integer: three letters of 5 bits, four hex digits."""
    first, second, third = (ord(letter) - 0x40 for letter in text[:3])
    packed = (first << 10 | second << 5 | third) << 16 | int(text[3:], 16)
    return integer(int.from_bytes(packed.to_bytes(4, "big"), "little"))


# --- resource templates (6.4) ----------------------------------------------------------

_END_TAG: Final = b"\x79\x00"
"""With checksum 0: "treat as if the checksum succeeded" (6.4.2.9)."""
_MEMORY, _IO, _BUS = 0, 1, 2
_FIXED_PRODUCER: Final = 0x0C
"""Minimum and maximum are fixed, decoded positively, produced for children (6.4.3.5)."""
_READ_WRITE, _ENTIRE_RANGE = 1, 3
_WORD, _DWORD = (b"\x88", "<5H"), (b"\x87", "<5I")


def resources(*descriptors: bytes) -> bytes:
    """`ResourceTemplate () {descriptors}`."""
    return buffer(b"".join(descriptors) + _END_TAG)


def io_ports(base: int, length: int) -> bytes:
    """`IO (Decode16, ...)`: ports of a device (6.4.2.5)."""
    return struct.pack("<BBHHBB", 0x47, 1, base, base, 1, length)


def irq(number: int) -> bytes:
    """`IRQNoFlags`: an edge-triggered, active-high interrupt of the 8259s (6.4.2.1)."""
    return struct.pack("<BH", 0x22, 1 << number)


def memory32(base: int, length: int) -> bytes:
    """`Memory32Fixed (ReadWrite, ...)` (6.4.3.4)."""
    return struct.pack("<BHBII", 0x86, 9, _READ_WRITE, base, length)


def bus_window(first: int, last: int) -> bytes:
    """`WordBusNumber`: the buses below a bridge."""
    return _window(_WORD, _BUS, 0, first, last)


def io_window(first: int, last: int) -> bytes:
    """`WordIO`: ports that a bridge passes on."""
    return _window(_WORD, _IO, _ENTIRE_RANGE, first, last)


def memory_window(first: int, last: int) -> bytes:
    """`DWordMemory`: memory that a bridge passes on, read-write, not cacheable."""
    return _window(_DWORD, _MEMORY, _READ_WRITE, first, last)


def _window(form: tuple[bytes, str], kind: int, flags: int, first: int, last: int) -> bytes:
    """An address space descriptor (6.4.3.5): granularity, minimum, maximum, translation, length."""
    tag, layout = form
    body = bytes([kind, _FIXED_PRODUCER, flags]) + struct.pack(layout, 0, first, last, 0, last - first + 1)
    return tag + len(body).to_bytes(2, "little") + body
