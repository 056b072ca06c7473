"""A thread for calls that wait: what comes back, and what a cancellation does not do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trio.testing

from mmiod.core.backends.own_thread import OwnThread


@pytest.fixture(name="own")
def _own() -> Iterator[OwnThread]:
    """One that is closed in the end."""
    own = OwnThread()
    yield own
    own.close()


async def test_calls_are_done_in_one_thread_that_is_not_ours(own: OwnThread) -> None:
    """Each gives its result to who asked for it."""
    threads: set[int] = set()

    def call(number: int) -> bytes:
        threads.add(threading.get_ident())
        return b"%d" % number

    assert [b"0", b"1", b"2"] == [await own.do(lambda number=number: call(number)) for number in range(3)]  # type: ignore[misc]
    assert 1 == len(threads - {threading.get_ident()}) == len(threads)


async def test_what_a_call_raises_is_raised_and_the_next_one_is_done(own: OwnThread) -> None:
    """A broken disk is no broken thread."""

    def broken() -> bytes:
        raise OSError(5, "broken")

    with pytest.raises(OSError, match="broken"):
        await own.do(broken)
    assert b"fine" == await own.do(lambda: b"fine")


async def test_cancelled_call_is_waited_for(own: OwnThread) -> None:
    """What may have been written is never taken for what was not: the result comes all the same."""
    may_end, results = threading.Event(), []

    def call() -> bytes:
        may_end.wait()
        return b"written"

    async def ask() -> None:
        results.append(await own.do(call))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
        await _blocked_shielded()
        assert not results
        may_end.set()
    assert [b"written"] == results
    assert b"next" == await own.do(lambda: b"next")


async def test_nothing_begins_once_cancelled(own: OwnThread) -> None:
    """A request that was not begun is not in doubt."""
    begun: list[int] = []

    def call() -> bytes:
        begun.append(1)
        return b""

    with trio.CancelScope() as scope:
        scope.cancel()
        await own.do(call)
    assert scope.cancelled_caught
    assert not begun


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
