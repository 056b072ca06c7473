"""`--watch`: what tells of saves, and what is done then."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import trio

from mmiod.errors import ConfigError
from mmiod.plugins.watch import changes, follow
from tests.plugins.reloading import Reloading


def test_missing_extra_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line with what to install."""
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    with pytest.raises(ConfigError, match=r"--watch needs watchfiles: pip install 'mmiod\[watch\]'"):
        changes()


async def test_what_changed_is_reloaded_and_a_broken_save_ends_nothing(tmp_path: Path) -> None:
    """Told again and again, nothing happens without a change; the directory is the plugin's."""
    rig = Reloading(tmp_path)
    watched: list[Path] = []
    stopped: list[threading.Event] = []

    def seen(directories: Sequence[Path], stop: threading.Event) -> Iterator[object]:
        watched.extend(directories)
        stopped.append(stop)
        yield "nothing has changed"
        rig.edit("(")
        yield "broken"
        yield "still so"
        rig.edit(rig.text.replace("& 0xFF", "& 0xFF | 0x80"))
        yield "good"

    await follow(rig.reloader, seen)
    assert [tmp_path] == watched
    assert 2 == rig.machine.hosts["a"].generation
    assert 0x80 == rig.access(0x101)
    assert stopped[0].is_set()


async def test_end_of_the_daemon_ends_the_watch(tmp_path: Path) -> None:
    """Cancelled, it tells the thread to stop."""
    rig = Reloading(tmp_path)
    told: list[bool] = []
    waits = trio.Event()

    def seen(_directories: Sequence[Path], stop: threading.Event) -> Iterator[object]:
        trio.from_thread.run_sync(waits.set)
        told.append(stop.wait(20))
        yield from ()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(follow, rig.reloader, seen)
        await waits.wait()
        nursery.cancel_scope.cancel()
    with trio.fail_after(20):
        while not told:
            await trio.lowlevel.checkpoint()
    assert [True] == told
