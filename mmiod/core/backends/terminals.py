"""Backends that are terminals: a new pseudo terminal, the daemon's standard input and output."""

from __future__ import annotations

import os
import tty
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import trio
from attrs import define, field

from mmiod.core.backends.faces import BackendFailed, Link


@define(eq=False)
class PtyBackend:
    """A pseudo terminal in raw mode; `where` is the path of the side that a program opens.

    We keep that side open too, so that a program may come and go.
    """

    link: Path | None = None
    """A symbolic link to it, under a name that stays."""
    where: str = ""
    framed = False
    attached = True
    inherited: dict[str, int] = field(factory=dict)
    _open: dict[str, int] = field(factory=dict)

    @property
    def owns(self) -> str:
        """The link."""
        return f"pty:{self.link}" if self.link is not None else ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Link]:
        """Make one."""
        with ExitStack() as stack:
            ours, theirs = self._pair()
            stack.callback(os.close, theirs)
            stream = trio.lowlevel.FdStream(ours)
            name = os.ttyname(theirs)
            if self.link is not None:
                _point(self.link, name)
                stack.callback(self.link.unlink, missing_ok=True)
            self.where = str(self.link or name)
            self._open = {"ours": ours, "theirs": theirs}
            stack.callback(self._open.clear)
            async with stream:
                yield _Terminal(stream)

    def _pair(self) -> tuple[int, int]:
        """Both sides: those that there are, in the mode that their user chose, or new ones."""
        if self.inherited:
            return self.inherited.pop("ours"), self.inherited.pop("theirs")
        ours, theirs = os.openpty()
        tty.setraw(theirs)
        return ours, theirs

    def descriptors(self) -> dict[str, int]:
        """Both sides."""
        return dict(self._open)


@define(eq=False)
class _Terminal:
    stream: trio.lowlevel.FdStream

    async def send_all(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def send_some(self, data: bytes) -> int:
        await trio.lowlevel.checkpoint()
        while True:
            try:
                return os.write(self.stream.fileno(), data)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self.stream.fileno())

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)


def _point(link: Path, target: str) -> None:
    """Make or change a symbolic link, in one step; anything else of that name stays."""
    if link.exists() and not link.is_symlink():
        raise BackendFailed(f"{link} is there and no symbolic link")
    link.parent.mkdir(parents=True, exist_ok=True)
    new = link.with_name(f".{link.name}.new")
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)


@define(eq=False)
class StdioBackend:
    """Standard input and output as they are: we do not change modes that others share."""

    where = ""
    owns = "stdio"
    framed = False
    attached = True
    input: int = 0
    output: int = 1

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Link]:
        """There is nothing to open."""
        yield self

    async def send_all(self, data: bytes) -> None:
        """Write in a thread: the descriptor may block, and that is somebody else's choice."""
        while data:
            data = data[await trio.to_thread.run_sync(os.write, self.output, data, abandon_on_cancel=True) :]

    async def receive_some(self, max_bytes: int) -> bytes:
        """Read what is there; after its end nothing comes, and output goes on."""
        try:
            await trio.lowlevel.wait_readable(self.input)
        except PermissionError:  # a file, which epoll does not watch: it is always readable
            await trio.lowlevel.checkpoint()
        data = os.read(self.input, max_bytes)
        if not data:
            await trio.sleep_forever()
        return data
