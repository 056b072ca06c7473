"""A session that goes on where another one of the same connection was."""

from __future__ import annotations

import struct

from hypothesis import given, strategies as st

from mmiod.protocol.vfio_user.frames import Frames, Message

LIMIT = 1 << 16


def message(number: int, payload: bytes) -> bytes:
    """A message on the wire."""
    return struct.pack("<HHIII", number, 9, 16 + len(payload), 0, 0) + payload


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=6), st.data())
def test_messages_are_the_same_wherever_the_stream_was_cut(
    payloads: list[bytes], data: st.DataObject
) -> None:
    """In the middle of a header or a payload, or between messages; with what nobody had taken."""
    whole = b"".join(message(number, payload) for number, payload in enumerate(payloads))
    cut = data.draw(st.integers(0, len(whole)))
    before, after = Frames(LIMIT), Frames(LIMIT)
    before.feed(whole[:cut], [7] if cut else [])
    taken = data.draw(st.integers(0, len(before.ready)))
    seen = [before.ready.popleft() for _ in range(taken)]
    left = [Message(bytearray(one.data), descriptors=list(one.descriptors)) for one in before.received]
    after.resume(left)
    after.feed(whole[cut:], [])
    seen += after.ready
    assert [(number, payload) for number, payload in enumerate(payloads)] == [
        (one.header["id"], bytes(one.payload)) for one in seen
    ]
    assert ([7] if cut else []) == [descriptor for one in seen for descriptor in one.descriptors]
