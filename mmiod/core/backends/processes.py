"""A backend that is a program: its standard input and output are the stream."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import trio
from attrs import define

from mmiod.core.backends.faces import BackendFailed, Link

GRACE_S: Final = 2.0
"""Between SIGTERM and SIGKILL."""


@define(eq=False)
class ProcessBackend:
    """A program, found in PATH; one that ends is started again."""

    command: tuple[str, ...]
    where = ""
    owns = ""
    framed = False
    attached = True

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Link]:
        """Start it; in the end it gets SIGTERM, and SIGKILL if that does not help."""
        process = await trio.lowlevel.open_process(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        try:
            yield _Program(process)
        finally:
            await end(process)


@define(eq=False)
class _Program:
    process: trio.Process

    async def send_all(self, data: bytes) -> None:
        assert self.process.stdin is not None
        await self.process.stdin.send_all(data)

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        assert self.process.stdout is not None
        data = await self.process.stdout.receive_some(max_bytes)
        if not data:
            raise BackendFailed(ending(await self.process.wait()))
        return data


async def end(process: trio.Process) -> None:
    """Make sure that a program has ended."""
    with trio.CancelScope(shield=True):
        process.terminate()
        with trio.move_on_after(GRACE_S):
            await process.wait()
        process.kill()
        await process.wait()


def ending(status: int) -> str:
    """What a program's exit status says."""
    return (
        f"it ended with status {status}" if status >= 0 else f"it was ended by {signal.Signals(-status).name}"
    )
