"""`mmiod serve --watch`: reload plugins as soon as they are saved.

watchfiles (the extra `watch`) tells of changes in a thread of its own; which plugins have
changed is seen from their files, so that an editor's other files, or a save without a change,
do nothing.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import trio

from mmiod.errors import ConfigError
from mmiod.plugins.question import Rejected
from mmiod.plugins.reload import Reloader

STEP_MS: Final = 50
"""Without a further change, before one counts."""

LOOK_MS: Final = 1000
"""After which one looks without having been told: a save may come before the watch is set up."""

Changes = Callable[[Sequence[Path], threading.Event], Iterator[object]]
"""Yields whenever something may have changed, until the event is set."""


def changes() -> Changes:
    """What watches directories.

    Raises:
        ConfigError: watchfiles is not installed.
    """
    try:
        from watchfiles import PythonFilter, watch  # noqa: PLC0415  # an extra
    except ImportError as error:
        raise ConfigError(["--watch needs watchfiles: pip install 'mmiod[watch]'"]) from error

    def seen(directories: Sequence[Path], stop: threading.Event) -> Iterator[object]:
        yield from watch(
            *directories,
            watch_filter=PythonFilter(),
            step=STEP_MS,
            stop_event=stop,
            rust_timeout=LOOK_MS,
            yield_on_timeout=True,
            raise_interrupt=False,
        )

    return seen


async def follow(reloader: Reloader, seen: Changes) -> None:
    """Reload what is saved, until cancelled."""
    sources = [generation.source for generation in reloader.registry.current.values()]
    directories = sorted({Path(source.path).parent for source in sources})
    stop = threading.Event()

    def run() -> None:
        for _ in seen(directories, stop):
            for name in reloader.changed():
                trio.from_thread.run(reload, name)

    async def reload(name: str) -> None:
        with contextlib.suppress(Rejected):  # the event tells
            await reloader.reload(name)

    try:
        await trio.to_thread.run_sync(run, abandon_on_cancel=True)
    finally:
        stop.set()
