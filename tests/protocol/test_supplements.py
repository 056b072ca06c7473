from __future__ import annotations

import struct

import pytest

from mmiod.protocol.exit import NUMBERS
from mmiod.protocol.exit.supplements import (
    pack_delta,
    pack_registers,
    pack_translations,
    pack_writes,
    parse_delta,
    parse_exit,
)
from mmiod.values import Delta, ExtendedState, Intent, RegisterSet, Segment, VectorDelta
from tests.protocol.messages import refusal

ERROR = NUMBERS["error"]


def head(kind: int, length: int, reserved: int = 0) -> bytes:
    """A supplement's head."""
    return struct.pack("<HHI", kind, reserved, length)


def translation(gva: int = 0x1000, gpa: int = 0x2000, intent: int = 0, reserved: int = 0) -> bytes:
    """A translation supplement."""
    return head(1, 32) + struct.pack("<QQII", gva, gpa, intent, reserved)


def registers(sets: int, data: bytes) -> bytes:
    """A register supplement."""
    return head(3, 16 + len(data)) + struct.pack("<II", sets, 0) + data


def vector(file: int, number: int, data: bytes) -> bytes:
    """A supplement with a changed vector register."""
    return head(4, 16 + len(data)) + struct.pack("<HHI", file, number, 0) + data


def segment(number: int, data: bytes, reserved: int = 0) -> bytes:
    """A supplement with a segment register that was loaded."""
    return head(7, 16 + len(data)) + struct.pack("<II", number, reserved) + data


def test_items_come_back_in_order() -> None:
    """Writes keep their order and their odd lengths, translations their intent."""
    writes = [(0x10, b"a"), (0x10, b"bcdefghi"), (0x20, b"j" * 15)]
    translations = {(0x1000, Intent.READ): 0x5000, (0x1000, Intent.WRITE): 0x6000}

    supplied = parse_exit(pack_translations(translations) + pack_writes(writes))

    assert writes == parse_delta(Delta(0, 0), pack_writes(writes)).memory
    assert (translations, writes, None) == (supplied.translations, supplied.memory, supplied.extended)


@pytest.mark.parametrize(
    ("tail", "code", "name", "reason"),
    [
        (b"\0" * 4, "RANGE", "supplement", "ends within a supplement's head"),
        (head(2, 7), "RANGE", "supplement.length", "8 bytes are left"),
        (head(2, 24), "RANGE", "supplement.length", "8 bytes are left"),
        (head(2, 17) + bytes(9), "RANGE", "supplement.length", "17 bytes are left"),
        (head(2, 0xFFFF_FFFF), "RANGE", "supplement.length", "8 bytes are left"),
        (head(0, 8), "RANGE", "supplement.kind", "no such supplement"),
        (head(9, 8), "RANGE", "supplement.kind", "no such supplement"),
        (head(4, 8), "RANGE", "supplement.kind", "belongs to a completion"),
        (registers(0, b""), "RANGE", "supplement_registers.registers", "bits of register_set"),
        (registers(16, b""), "RANGE", "supplement_registers.registers", "bits of register_set"),
        (registers(2, bytes(248)), "RANGE", "supplement.length", "these sets have 272"),
        (registers(10, bytes(1864)), "RANGE", "supplement.length", "these sets have 1872"),
        (head(3, 12) + bytes(8), "RANGE", "supplement.length", "registers have 16 at least"),
        (registers(2, bytes(256)) * 2, "RANGE", "supplement.kind", "supplied once"),
        (head(2, 17, reserved=1) + bytes(16), "MALFORMED", "supplement.reserved", "is zero"),
        (head(2, 17) + bytes(9) + b"\1" + bytes(6), "MALFORMED", "supplement padding", "is zero"),
        (head(2, 16) + bytes(8), "RANGE", "supplement.length", "memory has an address and a byte"),
        (head(2, 12) + bytes(8), "RANGE", "supplement.length", "memory has an address and a byte"),
        (head(2, 18) + b"\xff" * 10 + bytes(6), "RANGE", "supplement_memory.gpa", "pass 2^64"),
        (head(1, 24) + bytes(16), "RANGE", "supplement.length", "a translation has 24 + 8"),
        (translation(gva=0x1001), "RANGE", "supplement_translation.gva", "the address of a page"),
        (translation(gpa=0x2800), "RANGE", "supplement_translation.gpa", "the address of a page"),
        (translation(intent=3), "RANGE", "supplement_translation.intent", "0 read, 1 write"),
        (translation(reserved=1), "MALFORMED", "supplement_translation.reserved", "is zero"),
        (translation() * 2, "RANGE", "supplement_translation.gva", "translated twice"),
    ],
)
def test_errors_name_the_field(tail: bytes, code: str, name: str, reason: str) -> None:
    """An item that does not fit its tail or its kind is refused by name."""
    error = refusal(lambda: parse_exit(tail))

    assert (ERROR[code], name) == (error.code, error.name)
    assert reason in error.reason


@pytest.mark.parametrize(
    ("tail", "name", "reason"),
    [
        (translation(), "supplement.kind", "belongs to an exit"),
        (registers(2, bytes(256)), "supplement.kind", "belongs to an exit"),
        (head(4, 12) + bytes(8), "supplement.length", "a vector has 16 at least"),
        (vector(4, 0, bytes(8)), "supplement_vector.file", "register_file"),
        (vector(0, 32, bytes(16)), "supplement_vector.number", "this file has 32"),
        (vector(2, 8, bytes(8)), "supplement_vector.number", "this file has 8"),
        (vector(1, 0, bytes(56)), "supplement.length", "64 bytes each"),
        (segment(6, bytes(16)), "supplement_segment.number", "segments are 0..5"),
        (segment(2, bytes(16), 1), "supplement_segment.reserved", "is zero"),
        (segment(2, bytes(8)), "supplement.length", "a segment has 24 + 8"),
        (segment(2, bytes(16)) * 2, "supplement_segment.number", "loaded twice"),
    ],
)
def test_completions_bring_changes_only(tail: bytes, name: str, reason: str) -> None:
    """A completion brings memory and vector registers that fit, nothing else."""
    error = refusal(lambda: parse_delta(Delta(0, 0), tail))

    assert name == error.name
    assert reason in error.reason


def test_sets_as_xsave_stores_them() -> None:
    """The sets follow each other in XSAVE's order; AVX and AVX512 continue the registers of SSE."""
    x87, sse, avx = bytes(range(160)), bytes([1]) * 256, bytes([2]) * 256
    masks, middle, high = bytes([3]) * 64, bytes([4]) * 512, bytes([5]) * 1024
    tail = registers(15, x87 + sse + avx + masks + middle + high)
    low = int.from_bytes(b"\1" * 16 + b"\2" * 16 + b"\4" * 32, "little")
    expected = ExtendedState(
        RegisterSet(15), [low] * 16 + [int.from_bytes(b"\5" * 64)] * 16, [int.from_bytes(b"\3" * 8)] * 8, x87
    )

    assert expected == parse_exit(tail).extended
    assert tail == pack_registers(expected)


def test_a_changed_register_as_written_by_hand() -> None:
    """Each register has its file's size, whatever its value."""
    delta = Delta(0, 0, vectors=VectorDelta({1: 2}, {31: 3}, {7: 4}, bytes(160)))
    by_hand = vector(0, 1, b"\2" + bytes(15)) + vector(1, 31, b"\3" + bytes(63))
    by_hand += vector(2, 7, b"\4" + bytes(7)) + vector(3, 0, bytes(160))

    assert by_hand == pack_delta(delta)
    assert delta == parse_delta(Delta(0, 0), by_hand)


def test_a_loaded_segment_as_written_by_hand() -> None:
    """Number, base, limit, selector and attributes, in the order of the structure."""
    delta = Delta(0, 0, segments={1: Segment(0xFFFF_0000, 0xF_FFFF, 0x10, 0xC09B)})
    by_hand = segment(1, struct.pack("<QIHH", 0xFFFF_0000, 0xF_FFFF, 0x10, 0xC09B))

    assert by_hand == pack_delta(delta)
    assert delta == parse_delta(Delta(0, 0), by_hand)


def test_memory_may_end_at_the_top() -> None:
    """The last byte of the address space is one."""
    writes = [((1 << 64) - 2, b"xy")]

    assert writes == parse_delta(Delta(0, 0), pack_writes(writes)).memory
