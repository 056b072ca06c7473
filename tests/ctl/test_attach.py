"""`mmioctl attach`: a terminal on a stream, with a real pty at one end and the real backend at the other."""

from __future__ import annotations

import os
import signal
import socket
import sys
import termios
import tty
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from subprocess import PIPE

import pytest
import trio
from attrs import define, field

from mmiod.core.backends.faces import Link
from mmiod.core.backends.sockets import UnixBackend
from mmiod.core.backends.terminals import PtyBackend
from mmiod.core.ports import StreamQueue
from mmiod.ctl import attach
from mmiod.ctl.__main__ import main
from mmiod.machine.ports import BackendStatus
from tests.control.small_daemon import SmallDaemon, served

ROOT = Path(__file__).parents[2]
PATIENCE_S = 60


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


@asynccontextmanager
async def opened(directory: Path, kind: str) -> AsyncIterator[tuple[SmallDaemon, Link]]:
    """A real backend of this kind, and a daemon whose `vm0/uart0` has it."""
    backend = UnixBackend(directory / "serial") if kind == "unix" else PtyBackend(directory / "serial")
    async with backend.open() as link:
        daemon = with_backend(f"{kind}:serial", backend.where)
        async with served(daemon, directory / "control"):
            yield daemon, link


@pytest.mark.parametrize("kind", ["unix", "pty"])
@pytest.mark.parametrize("name", ["uart0", "uart0.serial", "vm0/uart0", "vm0/uart0.serial"])
async def test_keys_and_output_pass_as_they_are_until_the_escape(
    tmp_path: Path, name: str, kind: str
) -> None:
    """Ctrl-C goes to the guest, Ctrl-] ends it with code 0, and the terminal is as before."""
    async with (
        opened(tmp_path, kind) as (_, link),
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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
async def test_signal_that_ends_it_leaves_the_terminal_as_it_was(
    tmp_path: Path, number: signal.Signals
) -> None:
    """The shell behind it would else have no echo."""
    async with opened(tmp_path, "pty") as (_, link), attached(tmp_path / "control", "uart0") as terminal:
        await link.send_all(b"x")
        await terminal.shows(b"x")
        assert terminal.raw
        terminal.process.send_signal(number)
        status, _ = await terminal.ends()
        assert (128 + number, False) == (status, terminal.raw)


@pytest.mark.parametrize("kind", ["unix", "pty"])
async def test_end_of_input_ends_it(tmp_path: Path, kind: str) -> None:
    """What was piped in is all sent, what has been answered is shown, and a script goes on, with code 0."""
    command = [sys.executable, "-m", "mmiod.ctl", "--socket", str(tmp_path / "control"), "attach", "uart0"]
    async with opened(tmp_path, kind) as (_, link), trio.open_nursery() as nursery:
        start = partial(trio.run_process, stdin=PIPE, stdout=PIPE, stderr=PIPE, check=False, cwd=ROOT)
        process: trio.Process = await nursery.start(start, command)
        assert process.stdin is not None
        assert process.stdout is not None
        await process.stdin.send_all(b"help\r")
        assert b"help\r" == await link.receive_some(100)
        await link.send_all(b"no help\r\n")
        await process.stdin.aclose()
        with trio.fail_after(PATIENCE_S):
            shown = b"".join([data async for data in process.stdout])
            assert (0, b"no help\r\n") == (await process.wait(), shown)


async def test_answers_behind_the_end_of_input_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as there is time, here an hour; a far end that closes is not waited for."""
    monkeypatch.setattr(attach, "LINGER_S", 3600.0)
    shown, sink = os.pipe()
    near, far = socket.socketpair()
    with near, far, trio.fail_after(PATIENCE_S):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, attach._linger, near.fileno(), sink)
            for answer in (b"no ", b"help"):
                far.send(answer)
                assert answer == await trio.to_thread.run_sync(os.read, shown, 100)
            far.close()
    os.close(shown)
    os.close(sink)


async def test_end_of_input_ends_a_stream_that_never_falls_silent(tmp_path: Path) -> None:
    """The time for answers is one from the end of input, not from the last answer."""
    command = [sys.executable, "-m", "mmiod.ctl", "--socket", str(tmp_path / "control"), "attach", "uart0"]

    async def talk(link: Link) -> None:
        while True:
            await link.send_all(b"x" * 1000)

    async with opened(tmp_path, "unix") as (_, link), trio.open_nursery() as nursery:
        nursery.start_soon(talk, link)
        with trio.fail_after(PATIENCE_S):
            done = await trio.run_process(command, stdin=b"", capture_stdout=True, cwd=ROOT)
        assert done.stdout
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("closed", ["<&-", ">&-"])
async def test_no_input_or_output_at_all_is_said(tmp_path: Path, closed: str) -> None:
    """A service may have neither: code 1."""
    command = f"exec '{sys.executable}' -m mmiod.ctl --socket '{tmp_path}/control' attach uart0 {closed}"
    async with opened(tmp_path, "unix"):
        done = await trio.run_process(["sh", "-c", command], check=False, capture_stderr=True, cwd=ROOT)
    expected = "mmioctl: standard input or output is closed; nothing to attach\n"
    assert (1, expected) == (done.returncode, done.stderr.decode())


async def test_terminal_that_closes_ends_it(tmp_path: Path) -> None:
    """The daemon has gone, with it the pseudo terminal: code 3, which a script tells from Ctrl-]."""
    far, near = os.openpty()
    tty.setraw(near)
    daemon = with_backend("pty", os.ttyname(near))
    async with served(daemon, tmp_path / "control"), attached(tmp_path / "control", "uart0") as terminal:
        os.write(far, b"x")
        await terminal.shows(b"x")
        os.close(near)
        os.close(far)
        status, remarks = await terminal.ends()
        assert (3, False) == (status, terminal.raw)
    assert "vm0/uart0.serial has ended: somebody else is attached, or the daemon has gone" in remarks


async def test_second_terminal_on_a_pty_is_turned_away(tmp_path: Path) -> None:
    """Each would get a part of what the device sends: the other is told so, with code 1."""
    async with opened(tmp_path, "pty") as (_, link), attached(tmp_path / "control", "uart0") as first:
        await link.send_all(b"x")
        await first.shows(b"x")
        async with attached(tmp_path / "control", "uart0") as second:
            status, remarks = await second.ends()
        os.write(first.ours, b"\x1d")
        assert 0 == (await first.ends())[0]
    assert 1 == status
    assert f"vm0/uart0.serial, which is at {tmp_path}/serial: somebody else is attached" in remarks


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
    ("spec", "where", "there"),
    [
        ("stdio", "", ""),
        ("file:log", "", ""),
        ("process:cat", "", ""),
        ("pty", "/dev/null", ", which is at /dev/null"),
        ("unix:x", "/nowhere", ", which is at /nowhere"),
    ],
)
async def test_backend_that_cannot_be_attached_is_said(
    tmp_path: Path, spec: str, where: str, there: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it is, and what could be: a sentence and code 1."""
    arguments = ["--socket", str(tmp_path / "control"), "attach", "uart0"]
    async with served(with_backend(spec, where), tmp_path / "control"):
        status = await trio.to_thread.run_sync(main, arguments)
    message = f'vm0/uart0.serial has backend "{spec}"{there}: only pty and unix:PATH can be attached'
    assert (1, f"mmioctl: {message}\n") == (status, capsys.readouterr().err)


async def test_stream_that_is_not_there_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And which there are."""
    arguments = ["--socket", str(tmp_path / "control"), "attach", "uart1"]
    async with served(with_backend("pty", ""), tmp_path / "control"):
        status = await trio.to_thread.run_sync(main, arguments)
    message = "'uart1' is no stream that has a backend; there are: vm0/uart0.serial"
    assert (1, f"mmioctl: {message}\n") == (status, capsys.readouterr().err)


async def test_socket_that_nobody_listens_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the kernel says, in a sentence, and code 1."""
    path = tmp_path / "serial"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with served(with_backend("unix:serial", str(path)), tmp_path / "control"):
        status = await trio.to_thread.run_sync(
            main, ["--socket", str(tmp_path / "control"), "attach", "uart0"]
        )
    message = f"vm0/uart0.serial, which is at {path}: Connection refused"
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
