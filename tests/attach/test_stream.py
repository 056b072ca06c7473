"""One connection's bytes: what is read in a row, and what ends that."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import termios
import threading
from collections.abc import Callable, Iterator

import pytest
from attrs import define, field

from mmiod.attach import descriptors
from mmiod.attach.pause import IN_A_ROW, MAX_PAUSE
from mmiod.attach.stream import CHUNK, Stream
from mmiod.core.pump import Pump
from mmiod.errors import ProtocolError


@define(eq=False)
class Peer:
    """A client that sends what it has next as soon as it is answered, as one on our CPU does."""

    end: socket.socket
    stream: Stream = field(init=False)
    left: int = 0
    """Chunks that it still has."""
    chunks: list[bytes] = field(factory=list)
    """What came of it."""
    found: int = 0
    """Descriptors among that."""
    looks: int = 0
    """Times that something was asked for."""
    reasons: list[str] = field(factory=list)
    meanwhile: Callable[[], None] = lambda: None
    """Called with each chunk."""

    def speak(self, *given: int) -> None:
        """Send a chunk, if there is one left."""
        if self.left and self.stream.open:
            self.left -= 1
            socket.send_fds(self.end, [b"%d" % self.left], given)

    def received(self, chunk: bytes, found: list[int]) -> None:
        """Be answered."""
        self.chunks.append(chunk)
        self.found += len(found)
        descriptors.close(found)
        self.meanwhile()
        self.speak()

    def took(self, chunk: bytes) -> None:
        """Be answered by the lane."""
        self.received(chunk, [])

    def ready(self, chunks: int) -> int:
        """Have so many, and let one turn read of them: how often it looked."""
        self.left, self.looks = chunks, 0
        self.speak()
        self.stream._ready(select.EPOLLIN)
        return self.looks

    @property
    def queued(self) -> int:
        """Bytes that the kernel still has for us."""
        room = bytearray(4)
        fcntl.ioctl(self.stream.sock, termios.FIONREAD, room)
        return int.from_bytes(room, "little")


@pytest.fixture(name="peer")
def _peer() -> Iterator[Peer]:
    """A connection; nothing runs the pump."""
    pump = Pump(threading.Event())
    theirs, ours = socket.socketpair()
    peer = Peer(theirs)
    peer.stream = stream = Stream(ours, pump, 1, peer.received, peer.reasons.append)
    receive = stream._receive_some

    def counted(*arguments: int) -> tuple[bytes, list[tuple[int, int, bytes]], int, object]:
        peer.looks += 1
        return receive(*arguments)

    stream._receive_some = counted
    stream.plain = peer.took
    yield peer
    stream.close("the test ends")
    theirs.close()
    pump._epoll.close()
    os.close(pump._wake)


def test_who_comes_back_at_once_is_read_in_a_row(peer: Peer) -> None:
    """But not for ever: others have their turn."""
    assert IN_A_ROW == peer.ready(100)
    assert [b"%d" % number for number in range(99, 99 - IN_A_ROW, -1)] == peer.chunks
    assert 2 == peer.queued, "the next one: all others were taken out"


def test_looks_in_vain_become_rare(peer: Peer) -> None:
    """Who takes longer is looked for by the epoll only, for twice as many chunks each time."""
    looks = [peer.ready(1) for _ in range(200)]
    in_vain = [place for place, count in enumerate(looks) if count > 1]
    assert {1, 2} == set(looks)
    assert [0, 2, 6, 14, 30, 62, 62 + MAX_PAUSE + 1] == in_vain[:7]


def test_look_that_paid_is_repeated(peer: Peer) -> None:
    """One in vain behind such a run costs one pause."""
    assert [2, 1, IN_A_ROW, 2, 1, IN_A_ROW] == [
        peer.ready(chunks) for chunks in (1, 1, IN_A_ROW, 1, 1, IN_A_ROW)
    ]


def test_descriptor_in_a_row_is_not_lost(peer: Peer) -> None:
    """It may come with any message, and comes once; so do the bytes around it."""
    given = os.eventfd(0)
    peer.meanwhile = lambda: peer.speak(given)
    peer.ready(9)
    while peer.queued:
        peer.stream._ready(select.EPOLLIN)
    os.close(given)
    assert (b"876543210", 0) == (b"".join(peer.chunks), peer.left)
    assert 4 == peer.found


def test_descriptor_behind_a_full_chunk_comes_once(peer: Peer) -> None:
    """Linux shows it to a look that is full, too, though none of its bytes."""
    given = os.eventfd(0)
    peer.end.send(bytes(CHUNK))
    socket.send_fds(peer.end, [b"!"], [given])
    os.close(given)
    while peer.queued:
        peer.stream._ready(select.EPOLLIN)
    assert (bytes(CHUNK) + b"!", 1) == (b"".join(peer.chunks), peer.found)
    assert b"!" == peer.chunks[-1]


@pytest.mark.parametrize("order", range(1 << 5))
def test_out_of_band_data_does_no_harm(peer: Peer, order: int) -> None:
    """Looked at and taken out it is data like any other: else the kernel would skip it in one of the two."""
    urged = 0

    def urge() -> None:
        nonlocal order, urged
        order, urgent = divmod(order, 2)
        urged += urgent
        if urgent:
            peer.end.send(b"!", socket.MSG_OOB)

    peer.meanwhile = urge
    urge()
    peer.left = 12
    peer.speak()
    while peer.queued:
        peer.stream._ready(select.EPOLLIN)
    data = b"".join(peer.chunks)
    assert (b"11109876543210", 0) == (data.replace(b"!", b""), peer.queued)
    assert urged == data.count(b"!")


@pytest.mark.parametrize("end", ["hold", "close"])
def test_row_ends_where_nothing_is_to_be_read(peer: Peer, end: str) -> None:
    """An answer has to wait, or the connection was bad."""
    ends = {"hold": lambda: peer.stream.hold(True), "close": lambda: peer.stream.close("bad")}
    peer.meanwhile = ends[end]
    assert 1 == peer.ready(5)
    assert ["bad"] * (end == "close") == peer.reasons


def test_row_ends_where_the_peer_takes_no_answer(peer: Peer) -> None:
    """What it was sent waits, and then nothing more is asked of it."""
    peer.meanwhile = lambda: peer.stream.send(bytes(1 << 20))
    assert 1 == peer.ready(5)
    assert 0 < len(peer.stream.unsent) < 1 << 20


def test_lane_has_what_came_first(peer: Peer) -> None:
    """What it leaves goes on, nothing included; None is the end of it; descriptors are not for it."""
    leaves: list[bytes | None] = [b"rest", b"", None]
    peer.stream.plain = lambda _chunk: leaves.pop(0)
    for _ in range(3):
        peer.left = 1
        peer.speak()
        peer.stream._ready(select.EPOLLIN)
    assert ([b"rest", b""], []) == (peer.chunks, leaves)
    given = os.eventfd(0)
    peer.left = 1
    peer.speak(given)
    os.close(given)
    peer.stream._ready(select.EPOLLIN)
    assert ([b"rest", b"", b"0"], 1) == (peer.chunks, peer.found)


@pytest.mark.parametrize("chunks", [1, 3, IN_A_ROW])
def test_end_behind_what_is_in_a_row_is_an_end(peer: Peer, chunks: int) -> None:
    """Who says that it is done gets all its answers and an end: a reset would say that some were not read."""

    def answer() -> None:
        peer.stream.send(b"!")
        if not peer.left:
            peer.end.shutdown(socket.SHUT_WR)

    peer.meanwhile = answer
    peer.ready(chunks)
    while peer.stream.open:
        peer.stream._ready(select.EPOLLIN)
    assert ["the client closed the connection"] == peer.reasons
    assert b"!" * chunks == peer.end.recv(100)
    assert b"" == peer.end.recv(100)


def test_refusal_in_a_row_is_an_end(peer: Peer) -> None:
    """So does who sends what is wrong: all that was looked at counts as read."""

    def refuse(_chunk: bytes, _found: list[int]) -> None:
        raise ProtocolError(0, "message", 0, "it is wrong")

    peer.stream.plain = lambda chunk: chunk
    peer.stream.receive = refuse
    peer.ready(1)
    assert ["it is wrong"] == [reason[-11:] for reason in peer.reasons]
    assert b"" == peer.end.recv(100)
