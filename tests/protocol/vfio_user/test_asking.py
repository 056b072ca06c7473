"""What a server asks its client: ids, bounds, and how much one message reaches."""

from __future__ import annotations

import json
import struct
from itertools import islice

import pytest

from mmiod.errors import ProtocolError
from mmiod.protocol.vfio_user import Asked, Message, Session, Shape
from mmiod.protocol.vfio_user.asking import IDS, MAX_ASKED
from mmiod.protocol.vfio_user.version import negotiate

HEADER = struct.Struct("<HHIII")


def reply(number: int, command: int, payload: bytes, flags: int = 1) -> Message:
    """One as it came."""
    size = HEADER.size + len(payload)
    header = {"id": number, "command": command, "size": size, "flags": flags, "error": 0}
    return Message(bytearray(HEADER.pack(number, command, size, flags, 0) + payload), header)


def version(**capabilities: object) -> bytes:
    """A client's first payload."""
    return struct.pack("<HH", 0, 1) + json.dumps({"capabilities": capabilities}).encode() + b"\0"


def test_messages_have_the_form_of_the_document() -> None:
    """Header, address, count, and the data of a write; flags say that it is a command."""
    asked = Asked()
    number, message = asked.read(0x1234_5678_9ABC, 4096)
    assert HEADER.pack(number, 11, 32, 0, 0) + struct.pack("<QQ", 0x1234_5678_9ABC, 4096) == message
    number, message = asked.write(16, b"abc")
    assert HEADER.pack(number, 12, 35, 0, 0) + struct.pack("<QQ", 16, 3) + b"abc" == message


def test_an_id_is_not_used_again_while_it_is_waited_for() -> None:
    """However many came and went meanwhile: ids have 16 bits."""
    asked = Asked()
    first, _ = asked.read(0, 1)
    used = set()
    for _ in range(IDS + 1):
        number, _ = asked.write(0, b"x")
        used.add(number)
        assert b"" == asked.answered(reply(number, 12, b"")).data
    assert IDS - 1 == len(used)
    assert first not in used


def test_so_many_are_under_way_and_no_more() -> None:
    """One that is answered makes room."""
    asked = Asked()
    numbers = [asked.read(0, 1)[0] for _ in islice(iter(lambda: asked.full, True), MAX_ASKED + 1)]
    assert MAX_ASKED == len(numbers)
    asked.answered(reply(numbers[3], 11, bytes(17)))
    assert not asked.full


def test_a_reply_fits_its_command() -> None:
    """Else it is an answer to nothing, and what was asked is still waited for."""
    asked = Asked()
    number, _ = asked.read(0, 1)
    with pytest.raises(ProtocolError, match="a reply to command 12, which was not asked"):
        asked.answered(reply(number, 12, b""))
    assert b"\7" == asked.answered(reply(number, 11, bytes(16) + b"\7")).data
    with pytest.raises(ProtocolError, match="which was not asked"):
        asked.answered(reply(number, 11, bytes(17)))


@pytest.mark.parametrize(
    ("capabilities", "reach"),
    [
        ({"pgsizes": 4096, "max_data_xfer_size": 1 << 20}, 1 << 20),
        ({"write_multiple": True}, 1 << 20),
        ({"pgsizes": 4096, "max_data_xfer_size": 1 << 30}, 1 << 20),
        ({"pgsizes": 4096, "max_data_xfer_size": 1000}, 1000),
        ({"max_msg_fds": 1, "max_data_xfer_size": 1 << 20, "migration": {"pgsize": 4096}}, 0),
        ({}, 0),
    ],
)
def test_a_client_says_what_a_message_reaches(capabilities: dict[str, object], reach: int) -> None:
    """Its size, and ours at most; nothing of one that takes none."""
    assert reach == negotiate(version(**capabilities))[1]
    session = Session(Shape((0,) * 9, (0,) * 5))
    payload = version(**capabilities)
    session.receive(HEADER.pack(1, 1, 16 + len(payload), 0, 0) + payload, [])
    assert session.take() is None
    assert reach == session.reach


@pytest.mark.parametrize("size", [0, -1, "1024", 1.5, True, None])
def test_a_size_that_is_none_is_refused(size: object) -> None:
    """Nothing could be moved in messages of it."""
    with pytest.raises(ProtocolError, match="version max_data_xfer_size"):
        negotiate(version(pgsizes=4096, max_data_xfer_size=size))
