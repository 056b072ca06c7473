"""Any datagram, in any state, is an event or one ProtocolError that names its field and can be sent.

What was read is what was sent: written again, it reads as the same event.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import (
    Arrived,
    Client,
    Completed,
    Error,
    Offer,
    PostedWrite,
    Session,
    SourceExit,
    encode_completion,
    encode_exit,
    encode_posted,
    encode_source,
    read,
    replies,
)
from mmiod.protocol.exit.table import MAX_MESSAGE
from mmiod.values import TickExit
from tests.fuzz.datagrams import EVERYTHING, VCPUS, to_client, to_daemon
from tests.fuzz.reader import Reader, written

OFFER: Final = Offer(EVERYTHING, 1, 1, 8, 8, 8)
AS_IT_IS: Final = 0xFF


def seeds() -> list[bytes]:
    """Each datagram in each state."""
    return [
        written(state, 0, 0, data)
        for state, data in [(n, data) for n in (0, 1, 2) for data in to_daemon()]
        + [(3, data) for data in to_client()]
    ]


def run(data: bytes) -> None:
    """The first bytes give the state, the number of descriptors, and whether the size is made right."""
    reader = Reader(data)
    receive = reader.pick((_fresh, _primary, _channel, _client))
    descriptors = reader.number() % 8
    keep = reader.number() == AS_IT_IS
    datagram = reader.rest()[:MAX_MESSAGE]
    if not keep and len(datagram) >= 4:
        datagram = len(datagram).to_bytes(4, "little") + datagram[4:]
    try:
        event = receive(datagram, descriptors)
    except ProtocolError as error:
        _check_error(error)
    else:
        _check_event(event)


def _check_error(error: ProtocolError) -> None:
    reply = read(replies.error(error))
    assert isinstance(reply, Error)
    assert error.name
    assert error.reason
    assert (error.name, error.reason, error.subject, error.fatal) == (
        reply.name,
        reply.reason,
        reply.subject,
        reply.fatal,
    )


def _check_event(event: object) -> None:
    if isinstance(event, Arrived):
        exit_ = event.exit
        if isinstance(exit_, SourceExit):
            again = read(encode_source(exit_, event.guest_ns))
        else:
            again = read(encode_exit(exit_, event.guest_ns))
        assert isinstance(again, Arrived)
        assert (event.exit, event.guest_ns) == (again.exit, again.guest_ns)
    elif isinstance(event, PostedWrite):
        assert event == read(encode_posted(event))
    elif isinstance(event, Completed):
        assert event == read(
            encode_completion(
                event.completion,
                vcpu=event.vcpu,
                sequence=event.sequence,
                posted=event.posted,
                interrupt=event.interrupt,
                guest_ns=event.guest_ns,
                deadline_ns=event.deadline_ns,
            )
        )


# --- states ----------------------------------------------------------------------------------

Receive = Callable[[bytes, int], object]


def _fresh(data: bytes, descriptors: int) -> object:
    return Session(OFFER).receive(data, descriptors)


def _opened(*, join: bool) -> Session:
    session = Session(OFFER)
    token = bytes([1] * 16)
    session.receive(Client("vm", VCPUS, optional=EVERYTHING, token=token).hello(join=join))
    session.welcome(token)
    return session


def _primary(data: bytes, descriptors: int) -> object:
    return _opened(join=False).receive(data, descriptors)


def _channel(data: bytes, descriptors: int) -> object:
    return _opened(join=True).receive(data, descriptors)


def _client(data: bytes, _descriptors: int) -> object:
    client = Client("vm", VCPUS)
    client.exit(TickExit(0, 0))
    return client.receive(data)
