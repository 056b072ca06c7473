from __future__ import annotations

import struct
from functools import partial

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.protocol.exit import MAX_MESSAGE, NUMBERS, frame, pack, subject_of, unpack
from mmiod.protocol.exit.codec import BY_NAME, FORMS, Form, leaves
from mmiod.protocol.exit.table import LAYOUTS
from tests.protocol.messages import fields_of, forms, patch, refusal, resize

ERROR = NUMBERS["error"]


@given(st.data(), forms)
@settings(max_examples=300)
def test_every_message_survives_the_wire(data: st.DataObject, form: Form) -> None:
    """What is packed is unpacked: every field, every flag, the tail; nothing is added."""
    fields = data.draw(fields_of(form))
    flags = data.draw(st.integers(0, form.flags)) & form.flags
    tail = data.draw(st.binary(max_size=64)) if form.layout.tail else b""

    message = unpack(pack(form.layout.name, flags, tail, **fields))

    shown = {**message.numbers, **message.octets}
    expected = {name: value.encode() if isinstance(value, str) else value for name, value in fields.items()}
    assert (form.layout.name, flags, tail) == (message.name, message.flags, message.tail)
    assert expected == shown


def test_map_as_written_by_hand() -> None:
    """MAP is the header and five fields at the places that docs/protocol.md gives."""
    by_hand = struct.pack("<IHHIIQQQ", 40, 4, 1, 7, 2, 0x10_0000, 0x2000, 0x1000)

    assert by_hand == pack("MAP", 1, serial=7, slot=2, gpa=0x10_0000, length=0x2000, offset=0x1000)


def test_hello_as_written_by_hand() -> None:
    """HELLO's texts are padded with NUL, its reserved field is zero."""
    by_hand = struct.pack("<IHHHHIQQ", 120, 1, 1, 1, 1, 2, 3, 4) + b"T" * 16
    by_hand += struct.pack("<QQIBBH", 1 << 47, 5, 0, 64, 48, 0) + b"vm0".ljust(32, b"\0") + bytes(16)

    message = unpack(by_hand)

    assert (message.text("vm"), message.text("vendor"), message.octets["token"]) == ("vm0", "", b"T" * 16)
    assert (message["shared_mask"], message["bitness"], message["physical_bits"]) == (1 << 47, 64, 48)
    assert message.has("JOIN")


def test_message_types_and_names_are_unique() -> None:
    """No two messages share a number, and every field of a message has a name of its own."""
    messages = [layout for layout in LAYOUTS.values() if layout.type is not None]

    assert len(messages) == len({layout.type for layout in messages}) == len(FORMS)
    for layout in messages:
        names = [leaf.name for leaf in leaves(layout)]
        assert len(names) == len(set(names))


def test_leaves_cover_every_byte_once() -> None:
    """The fields of a message, reserved ones too, lie end to end behind the header."""
    for form in FORMS.values():
        at = 8
        for leaf in leaves(form.layout):
            assert at == leaf.offset, (form.name, leaf.name)
            at += leaf.size
        assert at == form.layout.size == form.struct.size


MAP = pack("MAP", serial=9, slot=2, gpa=0x1000, length=0x1000)


@pytest.mark.parametrize(
    ("data", "code", "name", "reason"),
    [
        (b"", "MALFORMED", "header", "shorter than a header"),
        (MAP[:7], "MALFORMED", "header", "shorter than a header"),
        (bytes(MAX_MESSAGE + 1), "MALFORMED", "header", "longer than 65536"),
        (MAP[:-1], "MALFORMED", "header.size", "the datagram has 39 bytes"),
        (MAP + b"\0", "MALFORMED", "header.size", "the datagram has 41 bytes"),
        (patch(MAP, "header.size", 41), "MALFORMED", "header.size", "the datagram has 40 bytes"),
        (patch(MAP, "header.type", 99), "UNKNOWN_TYPE", "header.type", "no such message"),
        (resize(MAP, 32), "MALFORMED", "header.size", "MAP has 40 bytes"),
        (resize(MAP, 48), "MALFORMED", "header.size", "MAP has 40 bytes"),
        (resize(pack("EXIT_RAW"), 432), "MALFORMED", "header.size", "EXIT_RAW has at least 440 bytes"),
        (patch(MAP, "header.flags", 4), "MALFORMED", "header.flags", "MAP has flags 0x3"),
        (patch(pack("UNMAP"), "header.flags", 1), "MALFORMED", "header.flags", "UNMAP has flags 0x0"),
        (patch(pack("PAUSE"), "reserved", 5), "MALFORMED", "pause.reserved", "a reserved field is zero"),
        (
            patch(pack("EXIT_HALT"), "exit.reserved", 1),
            "MALFORMED",
            "exit_halt.exit.reserved",
            "a reserved field is zero",
        ),
    ],
)
def test_frame_names_what_is_wrong(data: bytes, code: str, name: str, reason: str) -> None:
    """Size, type, flags and reserved fields are checked before anything else."""
    error = refusal(lambda: frame(data))

    assert (ERROR[code], name) == (error.code, error.name)
    assert reason in error.reason
    assert error.fatal


@pytest.mark.parametrize("form", FORMS.values(), ids=lambda form: form.layout.name)
def test_every_reserved_field_must_be_zero(form: Form) -> None:
    """One bit anywhere in a reserved field is an error that names the field and its value."""
    for name, *_ in form.reserved:
        error = refusal(partial(frame, patch(pack(form.layout.name), name, 1)))

        assert (ERROR["MALFORMED"], f"{form.name}.{name}", 1) == (error.code, error.name, error.value)


@pytest.mark.parametrize("text", [b"vm\0x", b"v\x07", b"\xff", b"\x7f"])
def test_text_is_printable_ascii_padded_with_nul(text: bytes) -> None:
    """Control characters, other encodings and bytes behind the NUL are refused."""
    hello = pack("HELLO", vm=text)

    error = refusal(lambda: unpack(hello))

    assert (ERROR["MALFORMED"], "hello.vm") == (error.code, error.name)


def test_text_may_fill_its_field() -> None:
    """A text as long as its field needs no NUL; a longer one is cut; what is not ASCII is escaped."""
    assert unpack(pack("HELLO", vm="v" * 33)).text("vm") == "v" * 32
    assert unpack(pack("HELLO", vm="café")).text("vm") == "caf\\xe9"


def test_pack_refuses_fields_that_are_not_there() -> None:
    """A misspelt field is a defect of the caller, not a zero."""
    with pytest.raises(KeyError, match="MAP has no lenght"):
        pack("MAP", lenght=1)


def test_pack_refuses_what_does_not_fit() -> None:
    """Neither a number larger than its field nor a message larger than the limit is sent."""
    with pytest.raises(struct.error):
        pack("INTR", vcpu=1 << 32)
    with pytest.raises(ValueError, match="VALUES of 65537 bytes is longer than 65536"):
        pack("VALUES", 0, bytes(MAX_MESSAGE + 1 - BY_NAME["VALUES"].struct.size))


def test_subject_is_the_sequence_or_serial() -> None:
    """An error names the exit by its sequence and the request by its serial, if it got that far."""
    exit_ = pack("EXIT_TICK", **{"exit.sequence": 77})

    assert [
        subject_of(data) for data in (MAP, exit_, exit_[:20], MAP[:5], pack("EOI", line=3), b"\0" * 40)
    ] == [9, 77, 0, 0, 0, 0]
