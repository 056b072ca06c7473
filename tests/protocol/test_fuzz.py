"""Whatever arrives: an event or a ProtocolError that names a field, nothing else."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings, strategies as st

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import (
    Client,
    Error,
    Offer,
    Session,
    SourceExit,
    encode_exit,
    encode_source,
    pack,
    read,
    replies,
)
from mmiod.protocol.exit.codec import Form
from mmiod.protocol.exit.events import Arrived
from mmiod.protocol.exit.exits import PostedWrite, encode_posted
from mmiod.values import RawExit
from tests.protocol.messages import damaged, fields_of, forms, to_client, to_daemon

ALL = (1 << 10) - 1


def refused(action: Callable[[], object]) -> ProtocolError | None:
    """The ProtocolError of `action`, None if it works; anything else fails the test."""
    try:
        action()
    except ProtocolError as error:
        return error
    return None


def attempt(action: Callable[[], object]) -> None:
    """It works or is refused by an error that is whole enough to be sent."""
    error = refused(action)
    if error is None:
        return
    reply = read(replies.error(error))
    assert isinstance(reply, Error)
    assert error.name
    assert error.reason
    assert (error.name, error.reason, error.subject) == (reply.name, reply.reason, reply.subject)


def opened() -> Session:
    """A session that grants everything, past its WELCOME."""
    session = Session(Offer(ALL, 1, 1, 8, 8, 8))
    session.receive(Client("vm0", 4, optional=ALL).hello())
    session.welcome(bytes(16))
    return session


@given(damaged(), st.integers(0, 7))
@settings(max_examples=500)
def test_damaged_messages(data: bytes, descriptors: int) -> None:
    """Datagrams cut, filled and overwritten, with any descriptors, in any state."""
    attempt(lambda: Session(Offer(ALL, 1, 1, 8, 8, 8)).receive(data, descriptors))
    attempt(lambda: opened().receive(data, descriptors))
    attempt(lambda: Client("vm0", 4).receive(data))


@given(st.binary(max_size=80))
@settings(max_examples=200)
def test_noise(data: bytes) -> None:
    """Bytes that were never a message."""
    attempt(lambda: read(data))


@given(st.data(), forms)
@settings(max_examples=400)
def test_fields_of_any_value(data: st.DataObject, form: Form) -> None:
    """A well-framed message may hold any numbers at all."""
    fields = data.draw(fields_of(form))
    tail = data.draw(st.binary(max_size=32)) if form.layout.tail else b""
    attempt(lambda: read(pack(form.layout.name, 0, tail, **fields)))


@given(to_daemon | to_client)
def test_messages_in_order_are_read(data: bytes) -> None:
    """The strategies that are damaged above are in order before: the fuzz starts from sense."""
    assert refused(lambda: read(data)) is None


@given(damaged(to_daemon))
@settings(max_examples=300)
def test_what_is_read_is_what_was_sent(data: bytes) -> None:
    """An exit that is read means the same bytes again, so none of it was overlooked."""
    event = None if refused(lambda: read(data)) else read(data)
    if isinstance(event, PostedWrite):
        assert data == encode_posted(event)
    if isinstance(event, Arrived) and isinstance(event.exit, SourceExit):
        again = read(encode_source(event.exit, event.guest_ns))
        assert isinstance(again, Arrived)
        assert (event.exit, event.guest_ns) == (again.exit, again.guest_ns)
    elif isinstance(event, Arrived) and not isinstance(event.exit, RawExit | SourceExit):
        assert data == encode_exit(event.exit, event.guest_ns)
