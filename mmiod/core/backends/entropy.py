"""Random bytes as a stream: the host's, or for tests those that follow from a seed."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random

import trio
from attrs import define

from mmiod.core.backends.faces import Link


@define(eq=False)
class EntropyBackend:
    """As many bytes as the device takes; `seed` makes them the same each time, and no secret."""

    seed: str = ""
    where = ""
    owns = ""
    framed = False
    attached = True

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Link]:
        """There is nothing to open."""
        yield _Source(Random(self.seed).randbytes if self.seed else os.urandom)  # noqa: S311  # for tests


@define(eq=False)
class _Source:
    draw: Callable[[int], bytes]

    async def send_all(self, data: bytes) -> None:  # noqa: ARG002  # the device's bytes add nothing
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int) -> bytes:
        await trio.lowlevel.checkpoint()
        return self.draw(max_bytes)
