"""`mmioctl attach`: a terminal on a stream, with a real pty at one end and the real backend at the other."""

from __future__ import annotations

import os
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest
import trio
from attrs import define, field

from mmiod.core.backends.sockets import UnixBackend
from mmiod.core.ports import StreamQueue
from mmiod.ctl.__main__ import main
from mmiod.machine.ports import BackendStatus
from tests.control.small_daemon import SmallDaemon, served

ROOT = Path(__file__).parents[2]
PATIENCE_S = 20


@define(eq=False)
class Terminal:
    """A terminal that `mmioctl` runs in."""

    process: trio.Process
    ours: int
    theirs: int
    shown: bytearray = field(factory=bytearray)

    @property
    def raw(self) -> bool:
        """Whether the terminal passes every key."""
        return not termios.tcgetattr(self.theirs)[3] & (termios.ECHO | termios.ICANON | termios.ISIG)

    async def shows(self, text: bytes) -> None:
        """Wait for text."""
        with trio.fail_after(PATIENCE_S):
            while text not in self.shown:
                self.shown += await trio.to_thread.run_sync(os.read, self.ours, 4096, abandon_on_cancel=True)

    async def ends(self) -> tuple[int, str]:
        """Exit code and what went to standard error."""
        assert self.process.stderr is not None
        remarks = b"".join([data async for data in self.process.stderr])
        return await self.process.wait(), remarks.decode()


@asynccontextmanager
async def attached(path: Path, stream: str) -> AsyncIterator[Terminal]:
    """`mmioctl attach` in a terminal of its own."""
    ours, theirs = os.openpty()
    command = [sys.executable, "-m", "mmiod.ctl", "--socket", str(path), "attach", stream]
    async with trio.open_nursery() as nursery:
        start = partial(
            trio.run_process,
            stdin=theirs,
            stdout=theirs,
            stderr=PIPE,
            check=False,
            cwd=ROOT,
            start_new_session=True,
        )
        terminal = Terminal(await nursery.start(start, command), ours, theirs)
        try:
            yield terminal
        finally:
            os.close(ours)
            os.close(theirs)


def with_backend(spec: str, where: str) -> SmallDaemon:
    """A daemon whose `vm0/uart0` has a stream."""
    daemon = SmallDaemon()
    status = BackendStatus(spec, where, lost=7)
    daemon.machines["vm0"].backends["uart0", "serial"] = StreamQueue(status)
    return daemon


@pytest.mark.parametrize("name", ["uart0", "uart0.serial", "vm0/uart0", "vm0/uart0.serial"])
async def test_keys_and_output_pass_as_they_are_until_the_escape(tmp_path: Path, name: str) -> None:
    """Ctrl-C goes to the guest, Ctrl-] ends it with code 0, and the terminal is as before."""
    backend = UnixBackend(tmp_path / "serial")
    daemon = with_backend("unix:serial", backend.where)
    async with (
        served(daemon, tmp_path / "control"),
        backend.open() as link,
        attached(tmp_path / "control", name) as terminal,
    ):
        await link.send_all(b"login: \r\n")
        await terminal.shows(b"login: \r\n")
        assert terminal.raw
        os.write(terminal.ours, b"\x03root\r")
        typed = b""
        while len(typed) < 6:
            typed += await link.receive_some(100)
        os.write(terminal.ours, b"last\x1dnot this")
        assert b"last" == await link.receive_some(100)
        status, remarks = await terminal.ends()
        assert (0, b"\x03root\r", False) == (status, typed, terminal.raw)
    assert "attached to vm0/uart0.serial; Ctrl-] ends" in remarks
    assert b"login: \r\n" == terminal.shown


async def test_second_terminal_is_turned_away(tmp_path: Path) -> None:
    """One client at a time: the other is told so, with code 3."""
    backend = UnixBackend(tmp_path / "serial")
    daemon = with_backend("unix:serial", backend.where)
    async with served(daemon, tmp_path / "control"), backend.open() as link:
        first = await trio.open_unix_socket(backend.where)
        await first.send_all(b"x")
        assert b"x" == await link.receive_some(1)
        async with attached(tmp_path / "control", "uart0") as terminal:
            status, remarks = await terminal.ends()
        await first.aclose()
    assert 3 == status
    assert "vm0/uart0.serial has ended: somebody else is attached, or the daemon has gone" in remarks


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "uart0",
            'vm0/uart0.serial has backend "pty", which is at /dev/null: only unix:PATH can be attached',
        ),
        ("uart1", "uart1 is not one stream that has a backend; there are: vm0/uart0.serial"),
    ],
)
async def test_what_cannot_be_attached_is_said(
    tmp_path: Path, name: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong name or a backend of another kind: a sentence and code 1."""
    arguments = ["--socket", str(tmp_path / "control"), "attach", name]
    async with served(with_backend("pty", "/dev/null"), tmp_path / "control"):
        status = await trio.to_thread.run_sync(main, arguments)
    assert (1, f"mmioctl: {message}\n") == (status, capsys.readouterr().err)


async def test_devices_list_backends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a stream leads, what was lost on it and why it is not open."""
    daemon = with_backend("pty", "/dev/pts/7")
    daemon.machines["vm0"].backends["uart0", "serial"].status.failure = "no ptys"
    async with served(daemon, tmp_path / "control"):
        await trio.to_thread.run_sync(main, ["--socket", str(tmp_path / "control"), "devices"])
    table = capsys.readouterr().out.split("\n\n")[1].splitlines()
    assert ["STREAM", "BACKEND", "WHERE", "LOST", "FAILURE"] == table[0].split()
    assert ["vm0/uart0.serial", "pty", "/dev/pts/7", "7", "no", "ptys"] == table[1].split()
