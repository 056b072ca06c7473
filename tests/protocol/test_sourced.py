from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings

from mmiod.protocol.exit import (
    NUMBERS,
    Arrived,
    Client,
    Completed,
    Offer,
    Reply,
    Session,
    SourceExit,
    encode_completion,
    encode_source,
    pack,
    read,
)
from mmiod.protocol.exit.supplements import Supplied, pack_item
from mmiod.values import ExtendedState
from tests.protocol.messages import patch, refusal, source_exits, source_replies, u64

ERROR, SOURCE = NUMBERS["error"], NUMBERS["source"]
CODE, VCPU = NUMBERS["supplement_kind"]["CODE"], NUMBERS["supplement_kind"]["VCPU"]
TOKEN = bytes(range(16))


def arrived(data: bytes) -> SourceExit:
    """What a datagram says."""
    event = read(data)
    assert isinstance(event, Arrived)
    assert isinstance(event.exit, SourceExit)
    return event.exit


@given(source_exits, u64)
@settings(max_examples=100)
def test_exits_of_sources_survive_the_wire(exit_: SourceExit, guest_ns: int) -> None:
    """The structure, and every supplement, arrive as they were sent."""
    event = read(encode_source(exit_, guest_ns))

    assert isinstance(event, Arrived)
    assert (exit_, guest_ns) == (event.exit, event.guest_ns)


@given(source_replies)
@settings(max_examples=100)
def test_replies_survive_the_wire(reply: Reply) -> None:
    """A client gets the structure, and what it has no room for."""
    data = encode_completion(reply, vcpu=1, sequence=2, posted=3, interrupt=True, guest_ns=4, deadline_ns=5)

    assert Completed(1, 2, reply, True, 3, 4, 5) == read(data)


def test_exit_as_written_by_hand() -> None:
    """Five bytes of a structure, three of padding, two instruction bytes."""
    by_hand = struct.pack("<IHHIIQQII", 64, 22, 0, 1, 0, 7, 99, 5, 0) + b"abcde\0\0\0"
    by_hand += struct.pack("<HHI", 5, 0, 10) + b"\x89\x03" + bytes(6)

    assert by_hand == encode_source(SourceExit(1, 7, b"abcde", b"\x89\x03"), 99)


EXIT = encode_source(SourceExit(0, 1, b"abcde"), 0)


def with_tail(*items: bytes) -> bytes:
    """An exit with supplements."""
    data = EXIT + b"".join(items)
    return struct.pack("<I", len(data)) + data[4:]


@pytest.mark.parametrize(
    ("data", "code", "name"),
    [
        (patch(EXIT, "length", 0), "RANGE", "exit_source.length"),
        (patch(EXIT, "length", 9), "RANGE", "exit_source.length"),
        (patch(EXIT, "length", 0xFFFF_FFFF), "RANGE", "exit_source.length"),
        (patch(EXIT, "length", 4), "MALFORMED", "exit_source padding"),
        (patch(EXIT, "exit.sequence", 0), "SEQUENCE", "exit_source.exit.sequence"),
        (with_tail(pack_item(CODE, b"")), "RANGE", "supplement.length"),
        (with_tail(pack_item(CODE, bytes(16))), "RANGE", "supplement.length"),
        (with_tail(pack_item(CODE, b"a"), pack_item(CODE, b"a")), "RANGE", "supplement.kind"),
        (with_tail(pack_item(VCPU, bytes(375))), "RANGE", "supplement.length"),
        (with_tail(pack_item(VCPU, b"\4" + bytes(375))), "RANGE", "supplement_vcpu.cpl"),
        (with_tail(pack_item(VCPU, bytes(5) + b"\1" + bytes(370))), "MALFORMED", "supplement_vcpu.reserved"),
        (with_tail(*[pack_item(VCPU, bytes(376))] * 2), "RANGE", "supplement.kind"),
        (with_tail(pack_item(9, b"")), "RANGE", "supplement.kind"),
    ],
)
def test_errors_name_the_field(data: bytes, code: str, name: str) -> None:
    """A structure that does not fit its datagram, and supplements that are there twice or wrong."""
    error = refusal(lambda: read(data))

    assert (ERROR[code], name) == (error.code, error.name)


@pytest.mark.parametrize("item", [pack_item(CODE, b"a"), pack_item(VCPU, bytes(376))])
def test_supplements_of_sources_belong_to_them(item: bytes) -> None:
    """EXIT_RAW has its bytes and registers in its fixed part."""
    error = refusal(lambda: read(pack("EXIT_RAW", 0, item, **{"exit.sequence": 1})))

    assert ("supplement.kind", "it belongs to EXIT_SOURCE") == (error.name, error.reason)


# --- sessions ----------------------------------------------------------------------------------


def opened(source: str, optional: int = 0) -> tuple[Session, Client]:
    """A session of a source, past its WELCOME."""
    every = sum(1 << bit for _, bit, _ in NUMBERS["capability"].members)
    session = Session(Offer(every, 1, 10**8, 8, 8, 64))
    client = Client("vm", 1, source=SOURCE[source], optional=optional)
    session.receive(client.hello())
    session.welcome(TOKEN)
    return session, client


def test_source_of_the_session_is_hello_s() -> None:
    """A HELLO that names a source is answered by WELCOME, and its exits are taken."""
    session, client = opened("XEN")
    exit_ = SourceExit(0, 0, b"abc")

    event = session.receive(client.exit(exit_))

    assert session.hello is not None
    assert SOURCE["XEN"] == session.hello.source
    assert isinstance(event, Arrived)
    assert SourceExit(0, 1, b"abc") == event.exit


def test_exit_without_a_source_is_refused() -> None:
    """A session whose HELLO named none has nobody to read it."""
    session, client = opened("NONE")

    error = refusal(lambda: session.receive(client.exit(SourceExit(0, 0, b"abc"))))

    assert (ERROR["STATE"], 1) == (error.code, error.subject)


def test_registers_need_their_capability() -> None:
    """Vector registers come with capability VECTORS only, whoever laid out the exit."""
    session, client = opened("KVM")
    exit_ = SourceExit(0, 0, b"abc", supplied=Supplied(extended=ExtendedState()))

    error = refusal(lambda: session.receive(client.exit(exit_)))

    assert ERROR["CAPABILITY"] == error.code or "supplement_registers.registers" == error.name


def test_client_keeps_what_is_unanswered() -> None:
    """An exit of a source is sent again like any other, and a REPLY settles it."""
    _, client = opened("ACRN")
    sent = client.exit(SourceExit(0, 0, b"abc"))
    assert [sent] == client.unanswered(0)

    done = client.receive(
        encode_completion(
            Reply(b"abd"), vcpu=0, sequence=1, posted=0, interrupt=False, guest_ns=0, deadline_ns=0
        )
    )

    assert isinstance(done, Completed)
    assert Reply(b"abd") == done.completion
    assert [] == client.unanswered(0)
