"""From a stream to messages: whole ones, with the descriptors that are theirs."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.errors import ProtocolError
from mmiod.protocol.vfio_user.frames import Frames


def message(payload: bytes, number: int = 1) -> bytes:
    """A message of command 9."""
    return struct.pack("<HHIII", number, 9, 16 + len(payload), 0, 0) + payload


def test_descriptors_belong_to_the_last_message_that_begins_in_a_chunk() -> None:
    """As Linux glues them: what came without descriptors is in front (unix(7), measured)."""
    frames = Frames(1000)
    frames.feed(message(b"one") + message(b"two") + message(b"three")[:20], [7])
    frames.feed(message(b"three")[20:] + message(b"four"), [])
    assert [b"one", b"two", b"three", b"four"] == [bytes(found.payload) for found in frames.ready]
    assert [[], [], [7], []] == [found.descriptors for found in frames.ready]


def test_descriptors_of_a_message_whose_header_is_not_whole() -> None:
    """It has begun, so they are its."""
    frames = Frames(1000)
    frames.feed(message(b"one")[:5], [7])
    frames.feed(message(b"one")[5:], [])
    assert [[7]] == [found.descriptors for found in frames.ready]


def test_descriptors_inside_of_a_message_are_an_error() -> None:
    """And they stay the caller's."""
    frames = Frames(1000)
    frames.feed(message(b"one")[:17], [])
    with pytest.raises(ProtocolError, match="inside of a message"):
        frames.feed(message(b"one")[17:], [7])
    assert [] == frames.clear()


@pytest.mark.parametrize("size", [0, 15, 1001, 0xFFFF_FFFF])
def test_an_impossible_size(size: int) -> None:
    """There is no telling where the next message begins."""
    with pytest.raises(ProtocolError, match=rf"header.size is {size:#x}: a message has 16 to 1000 bytes"):
        Frames(1000).feed(struct.pack("<HHIII", 1, 9, size, 0, 0), [])


def test_the_longest_message() -> None:
    """One byte less than what is refused."""
    frames = Frames(1000)
    frames.feed(message(bytes(984)), [])
    assert 1 == len(frames.ready)


def test_clearing_gives_back_all_descriptors() -> None:
    """Those of messages that nobody took, and of the one that is not whole."""
    frames = Frames(1000)
    frames.feed(message(b"one"), [7, 8])
    frames.feed(message(b"two")[:16], [9])
    assert [7, 8, 9] == frames.clear()
    assert [] == frames.clear()


@settings(max_examples=100)
@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 60), max_size=60))
def test_any_cut_gives_the_same_messages(payloads: list[bytes], cuts: list[int]) -> None:
    """Wherever the stream is cut."""
    stream = b"".join(message(payload, number) for number, payload in enumerate(payloads))
    frames = Frames(1000)
    for cut in cuts:
        chunk, stream = stream[:cut], stream[cut:]
        frames.feed(chunk, [])
    frames.feed(stream, [])
    assert list(enumerate(payloads)) == [(found.header["id"], bytes(found.payload)) for found in frames.ready]
