"""One SOCK_SEQPACKET connection: how many datagrams are taken in a turn, and what a bad one ends."""

from __future__ import annotations

import os
import select
import socket
import threading
from collections.abc import Iterator

import pytest
from attrs import define, field

from mmiod.attach import descriptors
from mmiod.attach.connection import Connection
from mmiod.attach.pause import IN_A_ROW, MAX_PAUSE
from mmiod.core.pump import Pump
from mmiod.protocol.exit import Offer, Session


@define
class Peer:
    """A client that sends the next datagram as soon as it is answered."""

    end: socket.socket
    connection: Connection = field(init=False)
    left: int = 0
    taken: list[bytes] = field(factory=list)
    reasons: list[str] = field(factory=list)

    def speak(self) -> None:
        """Send one, if there is one left."""
        if self.left:
            self.left -= 1
            self.end.send(b"%d" % self.left)

    def received(self, _connection: Connection, data: bytes, found: list[int]) -> None:
        """Be answered."""
        descriptors.close(found)
        self.taken.append(data)
        self.speak()

    def turn(self, count: int) -> int:
        """Have so many, the first of them now: how many are taken in one turn."""
        self.left, before = count, len(self.taken)
        self.speak()
        self.connection._ready(select.EPOLLIN)
        return len(self.taken) - before

    def alone(self) -> bool:
        """Send one, and another one only when it was looked for in vain: whether it was."""
        self.turn(1)
        return self.connection._pause > 0 and self.connection._pause == self.connection._vain


@pytest.fixture(name="peer")
def _peer() -> Iterator[Peer]:
    """A connection; nothing runs the pump."""
    pump = Pump(threading.Event())
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    peer = Peer(theirs)

    def closed(_connection: Connection, reason: str) -> None:
        peer.reasons.append(reason)

    peer.connection = Connection(ours, pump, Session(Offer(0, 1, 1, 1, 1, 1)), peer.received, closed)
    yield peer
    peer.connection.close("the test ends")
    theirs.close()
    pump._epoll.close()
    os.close(pump._wake)


def test_who_comes_back_at_once_is_taken_in_a_row(peer: Peer) -> None:
    """But not for ever: others have their turn."""
    assert IN_A_ROW == peer.turn(100)
    assert [b"%d" % number for number in range(99, 99 - IN_A_ROW, -1)] == peer.taken
    assert [] == peer.reasons


def test_looks_in_vain_become_rare(peer: Peer) -> None:
    """Who takes longer is heard by the epoll only, for twice as many datagrams each time."""
    in_vain = [place for place in range(200) if peer.alone()]
    assert [0, 2, 6, 14, 30, 62, 62 + MAX_PAUSE + 1] == in_vain[:7]


def test_one_turn_goes_on_behind_its_connection_by_no_means(peer: Peer) -> None:
    """What handles a datagram may close the connection: the next one is nobody's."""
    peer.connection.receive = lambda connection, _data, _found: connection.close("enough")
    peer.left = 3
    peer.speak()
    peer.speak()
    peer.connection._ready(select.EPOLLIN)
    assert ["enough"] == peer.reasons


def test_the_end_behind_a_datagram_is_seen_in_the_same_turn(peer: Peer) -> None:
    """It was answered, as far as there was anybody."""
    peer.left = 1
    peer.speak()
    peer.end.close()
    peer.connection._ready(select.EPOLLIN)
    assert [b"0"] == peer.taken
    assert 1 == len(peer.reasons)
