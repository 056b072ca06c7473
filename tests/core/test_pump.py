"""The core task's loop."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest
import trio

from mmiod.core.pump import Pump


@pytest.fixture(name="pump")
def _pump() -> Iterator[Pump]:
    """A pump that no task runs."""
    pump = Pump(threading.Event())
    yield pump
    pump._epoll.close()
    os.close(pump._wake)


@pytest.fixture(name="pairs")
def _pairs() -> Iterator[list[tuple[socket.socket, socket.socket]]]:
    """Three connections: our end and the peer's."""
    pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(3)]
    yield pairs
    for ends in pairs:
        for end in ends:
            end.close()


Pairs = list[tuple[socket.socket, socket.socket]]


def test_a_flood_on_one_connection_leaves_the_others_their_turn(pump: Pump, pairs: Pairs) -> None:
    """One message of each ready connection at a time, whatever else is waiting there."""
    order: list[int] = []
    for number, (ours, theirs) in enumerate(pairs):
        for _ in range(20 if number == 0 else 2):
            theirs.send(b"x")

        def take(_events: int, ours: socket.socket = ours, number: int = number) -> None:
            ours.recv(16)
            order.append(number)

        pump.register(ours.fileno(), take)
    while pump.turn():
        pass
    assert [20, 2, 2] == [order.count(number) for number in range(3)]
    assert {0: 2, 1: 2, 2: 2} == {number: order[:6].count(number) for number in range(3)}


def test_callbacks_register_and_unregister_each_other(pump: Pump, pairs: Pairs) -> None:
    """A callback takes the next one, ready in the same poll, away, and adds another."""
    called: list[str] = []
    (first, _), (second, _), (third, _) = pairs
    for _, theirs in pairs:
        theirs.send(b"x")

    def take_third(_events: int) -> None:
        called.append("third")
        third.recv(16)

    def meet(name: str, ours: socket.socket, other: socket.socket) -> Callable[[int], None]:
        def take(_events: int) -> None:
            called.append(name)
            ours.recv(16)
            pump.unregister(other.fileno())
            if third.fileno() not in pump._callbacks:
                pump.register(third.fileno(), take_third)

        return take

    pump.register(first.fileno(), meet("first", first, second))
    pump.register(second.fileno(), meet("second", second, first))
    while pump.turn():
        pass
    assert 2 == len(called)
    assert "third" == called[1]


def test_unregistering_twice_is_nothing(pump: Pump, pairs: Pairs) -> None:
    """A connection that closes on two paths does no harm."""
    ours = pairs[0][0]
    pump.register(ours.fileno(), lambda _: None)
    pump.unregister(ours.fileno())
    pump.unregister(ours.fileno())
    pump.unregister(12345)


def test_soon_runs_after_the_callbacks_of_its_turn(pump: Pump, pairs: Pairs) -> None:
    """Once, in order, and what it asks for itself in the same turn still."""
    done: list[str] = []
    ours, theirs = pairs[0]
    theirs.send(b"x")

    def one() -> None:
        done.append("one")
        pump.soon(lambda: done.append("three"))

    def take(_events: int) -> None:
        ours.recv(16)
        pump.soon(one)
        pump.soon(lambda: done.append("two"))
        done.append("callback")

    pump.register(ours.fileno(), take)
    while pump.turn():
        pass
    assert ["callback", "one", "two", "three"] == done


def test_a_turn_ends_although_there_is_more_to_do(pump: Pump, monkeypatch: pytest.MonkeyPatch) -> None:
    """An action that calls for itself for ever gives the other tasks their checkpoint."""
    now = 0

    def clock() -> int:
        nonlocal now
        now += 100_000
        return now

    monkeypatch.setattr("mmiod.core.pump.monotonic_ns", clock)
    count = 0

    def again() -> None:
        nonlocal count
        count += 1
        pump.soon(again)

    again()
    assert pump.turn()
    assert 1 < count < 10


async def test_soon_ends_a_park() -> None:
    """Another task's action runs although no descriptor is ready; then the loop parks again."""
    pump, ran = Pump(threading.Event()), trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        await trio.testing.wait_all_tasks_blocked()
        assert not pump.working.is_set()
        pump.soon(ran.set)
        with trio.fail_after(20):
            await ran.wait()
        await trio.testing.wait_all_tasks_blocked()
        assert not pump.working.is_set()
        nursery.cancel_scope.cancel()


async def test_first_turns_are_under_the_watchdogs_eyes() -> None:
    """What waits already when the loop begins: a hook may hang before the loop has ever parked."""
    pump, seen = Pump(threading.Event()), []
    pump.soon(lambda: seen.append(pump.working.is_set()))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert [True] == seen


async def test_message_ends_a_park(pairs: Pairs) -> None:
    """A descriptor that becomes ready is served."""
    pump, came = Pump(threading.Event()), trio.Event()
    ours, theirs = pairs[0]

    def take(_events: int) -> None:
        ours.recv(16)
        came.set()

    pump.register(ours.fileno(), take)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        await trio.testing.wait_all_tasks_blocked()
        theirs.send(b"x")
        with trio.fail_after(20):
            await came.wait()
        nursery.cancel_scope.cancel()


def test_work_of_another_task_is_seen_by_the_watchdog(pump: Pump) -> None:
    """`working` is set while the action runs, and as it was before afterwards, also if it raises."""
    seen: list[bool] = []

    def fail() -> None:
        raise ZeroDivisionError

    pump.work(lambda: seen.append(pump.working.is_set()))
    assert ([True], False) == (seen, pump.working.is_set())
    with pytest.raises(ZeroDivisionError):
        pump.work(fail)
    assert not pump.working.is_set()
    pump.working.set()
    pump.work(lambda: None)
    assert pump.working.is_set()


async def test_descriptors_are_closed_at_the_end() -> None:
    """A pump that is cancelled leaves no descriptor, and may still be told to forget one."""
    pump = Pump(threading.Event())
    descriptors = {pump._epoll.fileno(), pump._wake}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pump.run)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    for descriptor in descriptors:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)
    pump.unregister(pump._wake)
