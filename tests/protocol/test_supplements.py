from __future__ import annotations

import struct

import pytest

from mmiod.protocol.exit import NUMBERS
from mmiod.protocol.exit.supplements import pack_translations, pack_writes, parse_exit, parse_writes
from mmiod.values import Intent
from tests.protocol.messages import refusal

ERROR = NUMBERS["error"]


def head(kind: int, length: int, reserved: int = 0) -> bytes:
    """A supplement's head."""
    return struct.pack("<HHI", kind, reserved, length)


def translation(gva: int = 0x1000, gpa: int = 0x2000, intent: int = 0, reserved: int = 0) -> bytes:
    """A translation supplement."""
    return head(1, 32) + struct.pack("<QQII", gva, gpa, intent, reserved)


def test_items_come_back_in_order() -> None:
    """Writes keep their order and their odd lengths, translations their intent."""
    writes = [(0x10, b"a"), (0x10, b"bcdefghi"), (0x20, b"j" * 15)]
    translations = {(0x1000, Intent.READ): 0x5000, (0x1000, Intent.WRITE): 0x6000}

    assert writes == parse_writes(pack_writes(writes))
    assert (translations, writes) == parse_exit(pack_translations(translations) + pack_writes(writes))


@pytest.mark.parametrize(
    ("tail", "code", "name", "reason"),
    [
        (b"\0" * 4, "RANGE", "supplement", "ends within a supplement's head"),
        (head(2, 7), "RANGE", "supplement.length", "8 bytes are left"),
        (head(2, 24), "RANGE", "supplement.length", "8 bytes are left"),
        (head(2, 17) + bytes(9), "RANGE", "supplement.length", "17 bytes are left"),
        (head(2, 0xFFFF_FFFF), "RANGE", "supplement.length", "8 bytes are left"),
        (head(0, 8), "RANGE", "supplement.kind", "no such supplement"),
        (head(4, 8), "RANGE", "supplement.kind", "no such supplement"),
        (head(3, 8), "CAPABILITY", "supplement.kind", "need capability VECTORS"),
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


@pytest.mark.parametrize(("tail", "reason"), [(translation(), "translates nothing"), (head(3, 8), "VECTORS")])
def test_completions_bring_memory_only(tail: bytes, reason: str) -> None:
    """A completion neither translates nor, yet, brings vector registers."""
    error = refusal(lambda: parse_writes(tail))

    assert "supplement.kind" == error.name
    assert reason in error.reason


def test_memory_may_end_at_the_top() -> None:
    """The last byte of the address space is one."""
    assert [((1 << 64) - 2, b"xy")] == parse_writes(pack_writes([((1 << 64) - 2, b"xy")]))
