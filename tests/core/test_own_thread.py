"""A thread for calls that wait: what comes back, and what a cancellation does not do."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from mmiod.core.backends import own_thread
from mmiod.core.backends.own_thread import PATIENCE_NS, OwnThread

MUCH_NS = 60_000_000_000


@pytest.fixture(name="own")
def _own() -> Iterator[OwnThread]:
    """One that is closed in the end."""
    own = OwnThread()
    yield own
    own.close()


async def done(own: OwnThread, call: Callable[[], bytes]) -> bytes:
    """What a call gives."""
    own.begin(call)
    return await own.end()


async def test_calls_are_done_in_one_thread_that_is_not_ours(own: OwnThread) -> None:
    """Each gives its result to who asked for it."""
    threads: set[int] = set()

    def call(number: int) -> bytes:
        threads.add(threading.get_ident())
        return b"%d" % number

    assert [b"0", b"1", b"2"] == [await done(own, lambda number=number: call(number)) for number in range(3)]  # type: ignore[misc]
    assert 1 == len(threads - {threading.get_ident()}) == len(threads)


async def test_what_a_call_raises_is_raised_and_the_next_one_is_done(own: OwnThread) -> None:
    """A broken disk is no broken thread."""

    def broken() -> bytes:
        raise OSError(5, "broken")

    with pytest.raises(OSError, match="broken"):
        await done(own, broken)
    assert b"fine" == await done(own, lambda: b"fine")


async def test_cancelled_call_is_waited_for(own: OwnThread) -> None:
    """What may have been written is never taken for what was not: the result comes all the same."""
    may_end, results = threading.Event(), []

    def call() -> bytes:
        may_end.wait()
        return b"written"

    async def ask() -> None:
        results.append(await done(own, call))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        await _blocked_shielded()
        assert not results
        may_end.set()
    assert [b"written"] == results
    assert b"next" == await done(own, lambda: b"next")


def test_a_call_that_ends_in_time_is_not_waited_for_elsewhere(own: OwnThread) -> None:
    """Its result is there, or what it raised."""
    own.patience.budget_ns = MUCH_NS

    def broken() -> bytes:
        raise OSError(5, "broken")

    own.begin(lambda: b"soon")
    assert b"soon" == own.soon()
    own.begin(broken)
    with pytest.raises(OSError, match="broken"):
        own.soon()
    assert not own.busy


async def test_a_call_that_takes_longer_goes_on(own: OwnThread) -> None:
    """It is not begun again, and its result is told."""
    may_end, begun = threading.Event(), []

    def call() -> bytes:
        begun.append(1)
        may_end.wait()
        return b"written"

    own.begin(call)
    assert own.soon() is None
    assert own.busy
    may_end.set()
    assert b"written" == await own.end()
    assert [1] == begun


async def test_patience_is_for_calls_that_end_soon(own: OwnThread, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each that takes long halves it, until there is none; one that does not restores it."""
    clock = [0]
    monkeypatch.setattr(own_thread, "monotonic_ns", lambda: clock[0])

    async def budget_behind(taken_ns: int) -> int:
        own.begin(lambda: b"")
        clock[0] += taken_ns
        await own.end()
        return own.patience.budget_ns

    assert PATIENCE_NS == own.patience.budget_ns
    assert [PATIENCE_NS // 2, PATIENCE_NS // 4] == [await budget_behind(2 * PATIENCE_NS) for _ in range(2)]
    assert 0 == [await budget_behind(2 * PATIENCE_NS) for _ in range(4)][-1]
    assert PATIENCE_NS == await budget_behind(PATIENCE_NS)


def test_nothing_is_left_of_it() -> None:
    """Neither descriptors nor a thread."""
    before = _descriptors(), _threads()
    own = OwnThread()
    assert 2 == len(_descriptors() - before[0])
    assert 1 == len(_threads() - before[1])
    own.close()
    assert before == (_descriptors(), _threads())


def _descriptors() -> set[str]:
    """Eventfds of this process."""
    every = Path("/proc/self/fd").iterdir()
    return {each.name for each in every if each.is_symlink() and "eventfd" in str(each.readlink())}


def _threads() -> set[threading.Thread]:
    """Those of links."""
    return {thread for thread in threading.enumerate() if thread.name == "mmiod-link"}


async def _blocked_shielded() -> None:
    """Let the cancelled task come to where it waits again."""
    with trio.CancelScope(shield=True):
        await trio.testing.wait_all_tasks_blocked()
