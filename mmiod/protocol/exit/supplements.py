"""Supplements: the items in the tail of EXIT_RAW, DONE and FAULT.

Each is a `supplement` head and a body, padded with zeros to 8 bytes.  EXIT_RAW carries
what a need-translation, need-memory or need-registers asked for; DONE and FAULT carry
the writes to RAM that only the hypervisor reaches, and segment and vector registers that changed.

Specification: docs/protocol.md, "Supplements".
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from attrs import define, field

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import vectors
from mmiod.protocol.exit.codec import MALFORMED, check, structure
from mmiod.protocol.exit.table import LAYOUTS, NUMBERS
from mmiod.values import GS, Delta, ExtendedState, Intent, Segment, VectorDelta

KIND: Final = NUMBERS["supplement_kind"]
TRANSLATION: Final = KIND["TRANSLATION"]
MEMORY: Final = KIND["MEMORY"]
REGISTERS: Final = KIND["REGISTERS"]
VECTOR: Final = KIND["VECTOR"]
SEGMENT: Final = KIND["SEGMENT"]
OF_SOURCES: Final = frozenset({KIND["CODE"], KIND["VCPU"]})
KINDS: Final = frozenset(number for _, number, _ in KIND.members)

INTENTS: Final = tuple(Intent)
PAGE_OFFSET: Final = 0xFFF
LAST: Final = (1 << 64) - 1

_HEAD: Final = structure("supplement")
_TRANSLATION: Final = structure("supplement_translation")
_MEMORY: Final = structure("supplement_memory")
_SEGMENT: Final = structure("supplement_segment")
_HEAD_RESERVED: Final = next(m for m in LAYOUTS["supplement"].members if m.name == "reserved")
_TRANSLATION_RESERVED: Final = next(
    m for m in LAYOUTS["supplement_translation"].members if m.name == "reserved"
)


@define
class Supplied:
    """What the supplements of an EXIT_RAW bring along."""

    translations: dict[tuple[int, Intent], int] = field(factory=dict)
    memory: list[tuple[int, bytes]] = field(factory=list)
    extended: ExtendedState | None = None


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
        check_zero(tail, at + _HEAD_RESERVED.offset, _HEAD_RESERVED.size, "supplement.reserved")
        check_zero(tail, at + length, padded - length, "supplement padding")
        yield kind, tail[at + _HEAD.size : at + length]
        at += padded


def check_zero(data: bytes, start: int, size: int, name: str) -> None:
    """Padding and reserved fields are zero."""
    value = int.from_bytes(data[start : start + size], "little")
    if value:
        raise ProtocolError(MALFORMED, name, value, "a reserved field is zero")


def parse_exit(tail: bytes) -> Supplied:
    """What an EXIT_RAW brings along."""
    supplied = Supplied()
    for kind, body in parse(tail):
        if kind == TRANSLATION:
            key, gpa = _translation(body)
            known = key in supplied.translations
            check(not known, "supplement_translation.gva", key[0], "it is translated twice")
            supplied.translations[key] = gpa
        elif kind == MEMORY:
            supplied.memory.append(_memory(body))
        else:
            check(kind not in OF_SOURCES, "supplement.kind", kind, "it belongs to EXIT_SOURCE")
            check(kind == REGISTERS, "supplement.kind", kind, "it belongs to a completion")
            check(not supplied.extended, "supplement.kind", kind, "registers are supplied once")
            supplied.extended = vectors.parse_state(body)
    return supplied


def parse_delta(delta: Delta, tail: bytes) -> Delta:
    """Add to `delta` what the supplements of a DONE or FAULT tell, in order."""
    for kind, body in parse(tail):
        if kind == MEMORY:
            delta.memory.append(_memory(body))
        elif kind == SEGMENT:
            number, segment = _segment(body)
            check(number not in delta.segments, "supplement_segment.number", number, "it is loaded twice")
            delta.segments = {**delta.segments, number: segment}
        else:
            check(kind == VECTOR, "supplement.kind", kind, "it belongs to an exit")
            delta.vectors = delta.vectors or VectorDelta()
            vectors.add_change(delta.vectors, body)
    return delta


def _translation(body: bytes) -> tuple[tuple[int, Intent], int]:
    length = len(body) + _HEAD.size
    check(
        len(body) == _TRANSLATION.size,
        "supplement.length",
        length,
        f"a translation has {_TRANSLATION.size} + 8",
    )
    gva, gpa, intent = _TRANSLATION.unpack(body)
    check_zero(
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


def _segment(body: bytes) -> tuple[int, Segment]:
    size = _SEGMENT.size
    check(len(body) == size, "supplement.length", len(body) + _HEAD.size, f"a segment has {size} + 8")
    number, *parts = _SEGMENT.unpack(body)
    check(number <= GS, "supplement_segment.number", number, f"segments are 0..{GS}")
    check_zero(body, 4, 4, "supplement_segment.reserved")
    return number, Segment(*parts)


def pack_item(kind: int, body: bytes) -> bytes:
    """One supplement, padded."""
    length = _HEAD.size + len(body)
    return _HEAD.pack(kind, length) + body + bytes(-length % 8)


def pack_writes(memory: Iterable[tuple[int, bytes]]) -> bytes:
    """Memory supplements for (gpa, bytes) pairs."""
    return b"".join(pack_item(MEMORY, _MEMORY.pack(gpa) + data) for gpa, data in memory)


def pack_delta(delta: Delta) -> bytes:
    """The supplements of a DONE or FAULT with this delta."""
    tail = pack_writes(delta.memory)
    for number, one in delta.segments.items():
        tail += pack_item(SEGMENT, _SEGMENT.pack(number, one.base, one.limit, one.selector, one.attributes))
    if delta.vectors:
        tail += b"".join(pack_item(VECTOR, body) for body in vectors.pack_delta(delta.vectors))
    return tail


def pack_registers(state: ExtendedState | None) -> bytes:
    """The register supplement of an exit, if registers are supplied."""
    return pack_item(REGISTERS, vectors.pack_state(state)) if state else b""


def pack_exit(supplied: Supplied) -> bytes:
    """The supplements of an exit that brings these along."""
    return (
        pack_translations(supplied.translations)
        + pack_writes(supplied.memory)
        + pack_registers(supplied.extended)
    )


def pack_translations(translations: Mapping[tuple[int, Intent], int]) -> bytes:
    """Translation supplements for {(gva page, intent): gpa page}."""
    return b"".join(
        pack_item(TRANSLATION, _TRANSLATION.pack(gva, gpa, intent))
        for (gva, intent), gpa in translations.items()
    )
