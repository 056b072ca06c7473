from __future__ import annotations

import struct

import pytest
from attrs import fields_dict
from hypothesis import given, strategies as st

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import NUMBERS, Claim, Claims, Intr, Request, Reset, pack, read, replies
from mmiod.protocol.exit.codec import BY_NAME, FORMS
from mmiod.protocol.exit.events import Error, Hello, Map
from mmiod.protocol.exit.readers import CONTROL, PAGES, RANGES, READERS
from tests.protocol.messages import claims, patch, refusal

CODES = NUMBERS["error"]
MAP = pack("MAP", serial=9, slot=2, gpa=0x1000, length=0x1000)
HELLO = pack("HELLO", version_min=1, version_max=1, vcpus=1, bitness=64, physical_bits=48, vm="vm0")


def test_every_message_has_a_reader() -> None:
    """Nothing in the table is left to chance."""
    assert set(FORMS) == set(READERS)


@pytest.mark.parametrize("name", CONTROL)
def test_events_have_the_fields_and_flags_of_their_message(name: str) -> None:
    """An event's attributes are the message's fields, then its flags; none is forgotten."""
    form = BY_NAME[name]
    bits = NUMBERS.get(f"{form.name}_flag")
    flags = [flag.lower() for flag, _, _ in bits.members] if bits else []

    assert sorted([leaf.name for leaf in form.leaves] + flags) == sorted(fields_dict(CONTROL[name]))


def test_ranges_name_fields_that_are_there() -> None:
    """A misspelt name in the tables of ranges would check nothing."""
    every = {f"{form.name}.{leaf.name}" for form in FORMS.values() for leaf in form.leaves}

    assert set() == (set(RANGES) - {"serial"} | PAGES) - every


def test_map_arrives_with_its_flags() -> None:
    """Flags are attributes of the event."""
    read_only = NUMBERS["map_flag"]["READ_ONLY"]

    assert Map(9, 2, 0x1000, 0x1000, 0, read_only=True, no_descriptor=False) == read(
        patch(MAP, "header.flags", read_only)
    )


def test_all_ones_is_the_machine() -> None:
    """RESET and REQUEST of the whole machine say so with all ones on the wire, None here."""
    assert Reset(1, None) == read(pack("RESET", serial=1, vcpu=0xFFFF_FFFF))
    assert Request(2, None, 0) == read(replies.request(2))
    assert struct.pack("<IHHIIQ", 24, 73, 0, 2, 0xFFFF_FFFF, 0) == replies.request(2)


def test_levels_are_bools() -> None:
    """A level is 0 or 1 on the wire, False or True here."""
    assert Intr(3, level=True) == read(replies.intr(3, level=True))


def test_error_arrives_with_all_it_says() -> None:
    """The reply to an error has code, field, value and reason; a negative value keeps its 64 bits."""
    refused = ProtocolError(8, "exit_decoded.stride", -2, "-1, 0 or 1", subject=5)
    wire = Error(8, True, 5, (1 << 64) - 2, "exit_decoded.stride", "-1, 0 or 1")

    assert wire == read(replies.error(refused))


@given(st.lists(claims, max_size=5), st.integers(0, 9))
def test_claims_survive_the_wire(ranges: list[Claim], serial: int) -> None:
    """The address map arrives as it is, the whole of a 64-bit space included."""
    assert [Claims(serial, 0, tuple(ranges))] == [read(data) for data in replies.claims(serial, ranges)]


def test_claims_are_split_to_fit() -> None:
    """2500 claims take three messages; each says how many are still to come."""
    ranges = [Claim(0, base << 12, 0x1000, 0, f"device{base}") for base in range(2500)]

    parts = [read(data) for data in replies.claims(3, ranges)]

    assert all(isinstance(part, Claims) for part in parts)
    told = [part for part in parts if isinstance(part, Claims)]
    assert [1477, 454, 0] == [part.remaining for part in told]
    assert ranges == [claim for part in told for claim in part.claims]


LAST_PAGE = (1 << 64) - 0x1000
TWO_PAGES = patch(MAP, "length", 0x2000)
CLAIM = replies.claims(1, [Claim(1, 0x80, 1, 0, "debug")])[0]


@pytest.mark.parametrize(
    ("data", "code", "name", "reason"),
    [
        (patch(MAP, "serial", 0), "RANGE", "map.serial", "1..0xffffffff"),
        (patch(MAP, "length", 0), "RANGE", "map.length", "1..0xffffffffffffffff"),
        (patch(MAP, "length", 0x800), "RANGE", "map.length", "a multiple of 4096"),
        (patch(MAP, "gpa", 0x1001), "RANGE", "map.gpa", "a multiple of 4096"),
        (patch(MAP, "offset", 0x10), "RANGE", "map.offset", "a multiple of 4096"),
        (patch(TWO_PAGES, "gpa", LAST_PAGE), "RANGE", "map.length", "passes 2^64"),
        (patch(TWO_PAGES, "offset", LAST_PAGE), "RANGE", "map.offset", "pass 2^64"),
        (pack("REMAP", serial=1, gpa=5), "RANGE", "remap.gpa", "a multiple of 4096"),
        (pack("RESTORE", serial=1), "RANGE", "restore.length", "1.."),
        (pack("SHARE", serial=1, slots=1, length=5), "RANGE", "share.length", "a multiple of 4096"),
        (patch(HELLO, "version_min", 0), "RANGE", "hello.version_min", "1..0xffff"),
        (patch(HELLO, "vcpus", 0), "RANGE", "hello.vcpus", "1..0xffffffff"),
        (patch(HELLO, "bitness", 16), "RANGE", "hello.bitness", "32 or 64"),
        (patch(HELLO, "physical_bits", 53), "RANGE", "hello.physical_bits", "32..0x34"),
        (patch(HELLO, "physical_bits", 31), "RANGE", "hello.physical_bits", "32..0x34"),
        (patch(HELLO, "shared_mask", 1), "RANGE", "hello.shared_mask", "no bits within a page"),
        (pack("INTR", level=2), "RANGE", "intr.level", "0..0x1"),
        (pack("SET_LEVEL", level=2), "RANGE", "set_level.level", "0..0x1"),
        (pack("REQUEST", kind=5), "RANGE", "request.kind", "1..0x4"),
        (pack("ERROR", code=0), "RANGE", "error.code", "1..0xe"),
        (pack("ERROR", code=1, fatal=2), "RANGE", "error.fatal", "0..0x1"),
        (patch(CLAIM, "count", 2), "MALFORMED", "claims.count", "64 bytes follow, 64 for each"),
        (CLAIM[:40] + b"\x04" + CLAIM[41:], "RANGE", "claim.space", "0 MMIO, 1 PIO"),
        (CLAIM[:41] + b"\x05" + CLAIM[42:], "RANGE", "claim.policy", "0..4"),
        (CLAIM[:42] + b"\x01" + CLAIM[43:], "MALFORMED", "claim.reserved", "is zero"),
        (CLAIM[:44] + b"\x01" + CLAIM[45:], "MALFORMED", "claim.reserved2", "is zero"),
        (CLAIM[:48] + b"\x01" + CLAIM[49:], "MALFORMED", "claim.owner", "printable ASCII"),
    ],
)
def test_errors_name_the_field(data: bytes, code: str, name: str, reason: str) -> None:
    """Control messages hold only what their field allows."""
    error = refusal(lambda: read(data))

    assert (CODES[code], name) == (error.code, error.name)
    assert reason in error.reason


def test_ends_of_ranges_are_within_them() -> None:
    """A slot may end at 2^64, an address may have 52 bits."""
    top = read(patch(patch(MAP, "gpa", LAST_PAGE), "offset", LAST_PAGE))
    widest = read(patch(HELLO, "physical_bits", 52))

    assert isinstance(top, Map)
    assert (LAST_PAGE, LAST_PAGE) == (top.gpa, top.offset)
    assert isinstance(widest, Hello)
    assert 52 == widest.physical_bits
