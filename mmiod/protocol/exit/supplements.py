"""Supplements: the items in the tail of EXIT_RAW, DONE and FAULT.

Each is a `supplement` head and a body, padded with zeros to 8 bytes.  EXIT_RAW carries
what a need-translation or need-memory asked for; DONE and FAULT carry the writes to
RAM that only the hypervisor reaches.

Specification: docs/protocol.md, "Supplements".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from mmiod.errors import ProtocolError
from mmiod.protocol.exit.codec import ERROR, MALFORMED, check, structure
from mmiod.protocol.exit.table import LAYOUTS, NUMBERS
from mmiod.values import Intent

KIND: Final = NUMBERS["supplement_kind"]
TRANSLATION: Final = KIND["TRANSLATION"]
MEMORY: Final = KIND["MEMORY"]
KINDS: Final = frozenset(number for _, number, _ in KIND.members)
CAPABILITY: Final = ERROR["CAPABILITY"]

INTENTS: Final = tuple(Intent)
PAGE_OFFSET: Final = 0xFFF
LAST: Final = (1 << 64) - 1

_HEAD: Final = structure("supplement")
_TRANSLATION: Final = structure("supplement_translation")
_MEMORY: Final = structure("supplement_memory")
_HEAD_RESERVED: Final = next(m for m in LAYOUTS["supplement"].members if m.name == "reserved")
_TRANSLATION_RESERVED: Final = next(
    m for m in LAYOUTS["supplement_translation"].members if m.name == "reserved"
)


def parse(tail: bytes) -> Iterator[tuple[int, bytes]]:
    """Take a tail apart into (kind, body).

    Raises:
        ProtocolError: MALFORMED or RANGE, naming the field of `supplement`.
    """
    at = 0
    while at < len(tail):
        left = len(tail) - at
        check(left >= _HEAD.size, "supplement", left, "the tail ends within a supplement's head")
        kind, length = _HEAD.unpack_from(tail, at)
        padded = -(-length // 8) * 8
        check(_HEAD.size <= length and padded <= left, "supplement.length", length, f"{left} bytes are left")
        check(kind in KINDS, "supplement.kind", kind, "no such supplement")
        _check_zero(tail, at + _HEAD_RESERVED.offset, _HEAD_RESERVED.size, "supplement.reserved")
        _check_zero(tail, at + length, padded - length, "supplement padding")
        yield kind, tail[at + _HEAD.size : at + length]
        at += padded


def _check_zero(data: bytes, start: int, size: int, name: str) -> None:
    value = int.from_bytes(data[start : start + size], "little")
    if value:
        raise ProtocolError(MALFORMED, name, value, "a reserved field is zero")


def parse_exit(tail: bytes) -> tuple[dict[tuple[int, Intent], int], list[tuple[int, bytes]]]:
    """The translations and the memory that an EXIT_RAW brings along."""
    translations: dict[tuple[int, Intent], int] = {}
    memory: list[tuple[int, bytes]] = []
    for kind, body in parse(tail):
        if kind == TRANSLATION:
            key, gpa = _translation(body)
            check(key not in translations, "supplement_translation.gva", key[0], "it is translated twice")
            translations[key] = gpa
        elif kind == MEMORY:
            memory.append(_memory(body))
        else:
            raise _no_registers(kind)
    return translations, memory


def parse_writes(tail: bytes) -> list[tuple[int, bytes]]:
    """The writes to guest RAM that a DONE or FAULT asks for, in order."""
    writes = []
    for kind, body in parse(tail):
        check(kind != TRANSLATION, "supplement.kind", kind, "a completion translates nothing")
        if kind != MEMORY:
            raise _no_registers(kind)
        writes.append(_memory(body))
    return writes


def _no_registers(kind: int) -> ProtocolError:
    return ProtocolError(CAPABILITY, "supplement.kind", kind, "register supplements need capability VECTORS")


def _translation(body: bytes) -> tuple[tuple[int, Intent], int]:
    length = len(body) + _HEAD.size
    check(
        len(body) == _TRANSLATION.size,
        "supplement.length",
        length,
        f"a translation has {_TRANSLATION.size} + 8",
    )
    gva, gpa, intent = _TRANSLATION.unpack(body)
    _check_zero(
        body, _TRANSLATION_RESERVED.offset, _TRANSLATION_RESERVED.size, "supplement_translation.reserved"
    )
    check(intent < len(INTENTS), "supplement_translation.intent", intent, "0 read, 1 write, 2 execute")
    check(not gva & PAGE_OFFSET, "supplement_translation.gva", gva, "it is the address of a page")
    check(not gpa & PAGE_OFFSET, "supplement_translation.gpa", gpa, "it is the address of a page")
    return (gva, INTENTS[intent]), gpa


def _memory(body: bytes) -> tuple[int, bytes]:
    size = len(body) - _MEMORY.size
    check(size > 0, "supplement.length", len(body) + _HEAD.size, "memory has an address and a byte at least")
    (gpa,) = _MEMORY.unpack_from(body)
    check(gpa <= LAST - size + 1, "supplement_memory.gpa", gpa, f"{size} bytes from there pass 2^64")
    return gpa, body[_MEMORY.size :]


def _item(kind: int, body: bytes) -> bytes:
    length = _HEAD.size + len(body)
    return _HEAD.pack(kind, length) + body + bytes(-length % 8)


def pack_writes(memory: Iterable[tuple[int, bytes]]) -> bytes:
    """Memory supplements for (gpa, bytes) pairs."""
    return b"".join(_item(MEMORY, _MEMORY.pack(gpa) + data) for gpa, data in memory)


def pack_translations(translations: Mapping[tuple[int, Intent], int]) -> bytes:
    """Translation supplements for {(gva page, intent): gpa page}."""
    return b"".join(
        _item(TRANSLATION, _TRANSLATION.pack(gva, gpa, intent)) for (gva, intent), gpa in translations.items()
    )
