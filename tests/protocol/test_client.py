from __future__ import annotations

import pytest
from attrs import evolve

from mmiod.protocol.exit import (
    NEW_SESSION,
    NO_DEADLINE,
    NUMBERS,
    Client,
    Completed,
    Hello,
    Intr,
    Map,
    Pause,
    QueryClaims,
    Remap,
    Reset,
    Resume,
    Unmap,
    decode_exit,
    pack,
    read,
    replies,
)
from mmiod.protocol.exit.exits import PostedWrite
from mmiod.values import Access, DecodedExit, Direction, HaltExit, Space, TickExit, Values
from tests.protocol.messages import completed_bytes, refusal

ERROR = NUMBERS["error"]
POST = Access(Space.PIO, Direction.WRITE, 0x80, 1, 0x41)
DONE = Completed(0, 1, Values(), interrupt=False, posted=0, guest_ns=0, deadline_ns=NO_DEADLINE)


def test_each_vcpu_counts_its_own_exits() -> None:
    """Numbers begin with 1 and go up by one per vCPU, whatever number the exit had."""
    client = Client("vm0", 2)

    first = client.exit(TickExit(0, 99), 5)
    other = client.exit(TickExit(1, 0))
    client.receive(completed_bytes(DONE))
    second = client.exit(DecodedExit(0, 0, Space.PIO, Direction.READ, 0x64, 1))

    assert (TickExit(0, 1), 5) == decode_exit(first)
    assert (TickExit(1, 1), 0) == decode_exit(other)
    assert (DecodedExit(0, 2, Space.PIO, Direction.READ, 0x64, 1), 0) == decode_exit(second)


def test_a_second_exit_before_the_completion_is_the_clients_defect() -> None:
    """A vCPU cannot leave the guest twice."""
    client = Client("vm0", 1)
    client.exit(HaltExit(0, 0))

    with pytest.raises(AssertionError, match="vCPU 0 has exit 1 outstanding"):
        client.exit(HaltExit(0, 0))


def test_what_is_unanswered_is_sent_again_byte_for_byte() -> None:
    """Posted writes that no completion has acknowledged, in order, then the exit."""
    client = Client("vm0", 2)
    posts = [client.post(0, POST, n) for n in range(3)]
    exit_ = client.exit(TickExit(0, 0))

    assert [*posts, exit_] == client.unanswered(0)
    assert [] == client.unanswered(1)

    client.receive(completed_bytes(evolve(DONE, posted=2)))

    assert posts[2:] == client.unanswered(0)
    assert PostedWrite(0, 3, 2, POST) == read(posts[2])


@pytest.mark.parametrize(
    ("done", "code", "name", "reason"),
    [
        (evolve(DONE, sequence=2), "SEQUENCE", "completion.sequence", "vCPU 0 awaits 1"),
        (evolve(DONE, sequence=0), "SEQUENCE", "completion.sequence", "vCPU 0 awaits 1"),
        (evolve(DONE, vcpu=1), "SEQUENCE", "completion.sequence", "vCPU 1 awaits nothing"),
        (evolve(DONE, vcpu=2), "RANGE", "completion.vcpu", "there are 2"),
    ],
)
def test_completions_belong_to_an_exit(done: Completed, code: str, name: str, reason: str) -> None:
    """A completion of another exit, or of none, is the daemon's mistake."""
    client = Client("vm0", 2)
    client.exit(TickExit(0, 0))

    error = refusal(lambda: client.receive(completed_bytes(done)))

    assert (ERROR[code], name, reason) == (error.code, error.name, error.reason)


def test_a_completion_answers_once() -> None:
    """The same completion twice is one too many."""
    client = Client("vm0", 1)
    client.exit(TickExit(0, 0))

    assert DONE == client.receive(completed_bytes(DONE))
    assert "vCPU 0 awaits nothing" == refusal(lambda: client.receive(completed_bytes(DONE))).reason


def test_a_completion_that_a_reset_overtook_settles_nothing() -> None:
    """It may arrive even after the vCPU's next exit went out; that one stays outstanding."""
    client = Client("vm0", 1)
    client.exit(TickExit(0, 0))
    client.reset(0)
    assert [] == client.unanswered(0)
    after = client.exit(TickExit(0, 0))

    client.receive(completed_bytes(DONE))

    assert [after] == client.unanswered(0)
    assert evolve(DONE, sequence=2) == client.receive(completed_bytes(evolve(DONE, sequence=2)))


def test_reset_of_the_machine_drops_every_exit() -> None:
    """What is outstanding on any vCPU will not be answered."""
    client = Client("vm0", 2)
    client.exit(TickExit(0, 0))
    client.exit(TickExit(1, 0))

    client.reset()

    assert [] == client.unanswered(0) + client.unanswered(1)


def test_requests_carry_serials() -> None:
    """Each request has a number of its own, which the answer repeats."""
    client = Client("vm0", 2)
    sent = [
        client.map(3, 0x1000, 0x2000, offset=0x3000, read_only=True),
        client.map(4, 0, 0x1000, descriptor=False),
        client.unmap(3),
        client.remap(4, 0x8000),
        client.reset(1),
        client.reset(),
        client.pause(),
        client.resume(),
        client.query_claims(),
    ]

    assert [
        Map(1, 3, 0x1000, 0x2000, 0x3000, read_only=True, no_descriptor=False),
        Map(2, 4, 0, 0x1000, 0, read_only=False, no_descriptor=True),
        Unmap(3, 3),
        Remap(4, 4, 0x8000),
        Reset(5, 1),
        Reset(6, None),
        Pause(7),
        Resume(8),
        QueryClaims(9),
    ] == [read(data) for _, data in sent]
    assert list(range(1, 10)) == [serial for serial, _ in sent]


def test_hello_of_a_new_session_and_of_a_channel() -> None:
    """The token is zero until WELCOME gives one, which later connections name."""
    client = Client("vm0", 2, vendor="test", physical_bits=40)
    first = read(client.hello())
    client.receive(pack("WELCOME", version=1, token=b"t" * 16, capabilities=3))
    channel = read(client.hello(join=True))

    assert isinstance(first, Hello)
    assert isinstance(channel, Hello)
    assert ("vm0", "test", 2, 40, NEW_SESSION, False) == (
        first.vm,
        first.vendor,
        first.vcpus,
        first.physical_bits,
        first.token,
        first.join,
    )
    assert (b"t" * 16, True, 3) == (channel.token, channel.join, client.capabilities)


def test_events_arrive_as_values() -> None:
    """What the daemon says unasked reaches the caller."""
    assert Intr(1, level=True) == Client("vm0", 2).receive(replies.intr(1, level=True))


@pytest.mark.parametrize("name", ["HELLO", "EXIT_TICK", "MAP"])
def test_messages_have_a_direction(name: str) -> None:
    """What goes to the daemon does not come from it."""
    error = refusal(lambda: Client("vm0", 1).receive(pack(name)))

    assert (ERROR["UNKNOWN_TYPE"], f"{name} goes to the daemon") == (error.code, error.reason)
