"""`mmioctl break` with a running daemon, its hypervisors and its real clock."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from attrs import define

from mmiod.attach.shared import OFFERED
from mmiod.protocol.exit import MAX_MESSAGE, Client, Completed, Welcome
from mmiod.values import READ, WRITE, DecodedExit, Space, Values
from tests.functional.boots import ROOT

CONFIG = """\
[daemon]
control = "{directory}/control"
[[vm]]
name = "vm"
machine = "{machine}"
socket = "{directory}/vm.exit"
[[vm]]
name = "other"
machine = "{machine}"
socket = "{directory}/other.exit"
"""
SCRATCH = 0x3FF
PATIENCE_S = 60
SOURCE = ROOT / "tests" / "attach" / "published.c"
STRICT = ("gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-O1", "-pthread", "-I", str(ROOT / "include"))


@define(eq=False)
class Guest:
    """A hypervisor with one vCPU that waits for each exit, or looks whether it is answered."""

    client: Client
    sock: socket.socket

    def begin(self, value: int | None = None) -> None:
        """An access of the scratch register: a write of `value`, or a read."""
        direction, data = (READ, b"") if value is None else (WRITE, bytes([value]))
        self.sock.send(self.client.exit(DecodedExit(0, 0, Space.PIO, direction, SCRATCH, 1, data=data)))

    def end(self) -> int:
        """What it brought."""
        completed = self.client.receive(self.sock.recv(MAX_MESSAGE))
        assert isinstance(completed, Completed)
        assert isinstance(completed.completion, Values)
        return int.from_bytes(completed.completion.data, "little")

    def access(self, value: int | None = None) -> int:
        """Both."""
        self.begin(value)
        return self.end()


@contextmanager
def attached(directory: Path, name: str) -> Iterator[Guest]:
    """A hypervisor of a VM."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.settimeout(PATIENCE_S)
        sock.connect(str(directory / f"{name}.exit"))
        guest = Guest(Client(name, 1), sock)
        sock.send(guest.client.hello())
        assert isinstance(guest.client.receive(sock.recv(MAX_MESSAGE)), Welcome)
        yield guest


@define(eq=False)
class Mmiod:
    """A daemon with two VMs, and `mmioctl`s."""

    directory: Path
    process: subprocess.Popen[str]

    def event(self, name: str, **fields: object) -> None:
        """Wait for an event in its log."""
        assert self.process.stderr is not None
        for text in self.process.stderr:
            line = json.loads(text)
            if line["event"] == name and fields.items() <= line.items():
                return
        raise AssertionError(f"the daemon ended without {name}")

    def looking(self, *arguments: str) -> subprocess.Popen[str]:
        """`mmioctl break` or `watch`, once it is in force."""
        command = [sys.executable, "-m", "mmiod.ctl", "--socket", str(self.directory / "control")]
        pipe = subprocess.PIPE
        found = subprocess.Popen([*command, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        assert found.stderr is not None
        assert found.stderr.readline().startswith(("stopping", "watching"))
        return found


@pytest.fixture
def mmiod(tmp_path: Path) -> Iterator[Mmiod]:
    """Two PCs."""
    config = tmp_path / "mmiod.toml"
    config.write_text(CONFIG.format(directory=tmp_path, machine=ROOT / "config" / "machines" / "pc.toml"))
    command = [sys.executable, "-m", "mmiod", "serve", "--config", str(config)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        found = Mmiod(tmp_path, process)
        found.event("daemon_started")
        yield found
        process.terminate()
        process.communicate()
    assert process.returncode == 0


def told(process: subprocess.Popen[str]) -> str:
    """A line of an `mmioctl`."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def say(process: subprocess.Popen[str], text: str) -> None:
    """A line for it."""
    assert process.stdin is not None
    process.stdin.write(text + "\n")
    process.stdin.flush()


def test_vcpu_stands_while_another_vm_runs(mmiod: Mmiod) -> None:
    """Continued, answered, and let go by a client that is killed; each access is made once, or not at all."""
    at = mmiod.directory
    with (
        attached(at, "vm") as guest,
        attached(at, "other") as other,
        mmiod.looking("break", "vm/uart0.scr", "write") as talk,
    ):
        other.access(0x22)
        guest.begin(0x33)
        assert told(talk) == "#1 vm/0 uart0 SCR <- 0x33 pio:0x3ff 1B"
        assert [0x22] * 100 == [other.access() for _ in range(100)]
        say(talk, "c")
        guest.end()
        assert told(talk) == "#1 continued"
        assert guest.access() == 0x33
        guest.begin(0x44)
        told(talk)
        say(talk, "0")
        guest.end()
        assert told(talk) == "#2 answered by 0x0"
        assert guest.access() == 0x33
        guest.begin(0x55)
        told(talk)
        talk.kill()
        guest.end()
        assert guest.access() == 0x55
        guest.access(0x66)
        assert guest.access() == 0x66


def test_nobody_decides(mmiod: Mmiod) -> None:
    """The access goes on by itself, is made, and `mmioctl` says so."""
    arguments = ("break", "vm/uart0", "--timeout", "0.2", "--count", "1")
    with attached(mmiod.directory, "vm") as guest, mmiod.looking(*arguments) as talk:
        assert guest.access(0x77) == 0
        assert re.fullmatch("#1 .* SCR <- 0x77 .*", told(talk))
        assert told(talk) == "#1 went on by itself: its time was over"
        assert talk.wait(PATIENCE_S) == 0
        assert guest.access() == 0x77


def test_daemon_that_ends_lets_go(mmiod: Mmiod) -> None:
    """SIGTERM while an access stands: it is made and answered before the connection ends."""
    with attached(mmiod.directory, "vm") as guest, mmiod.looking("break", "vm/uart0", "read") as talk:
        guest.access(0x12)
        guest.begin()
        told(talk)
        mmiod.process.terminate()
        assert guest.end() == 0x12
        assert talk.wait(PATIENCE_S) == 3
        assert mmiod.process.wait(PATIENCE_S) == 0


@pytest.fixture
def looking(mmiod: Mmiod) -> Iterator[subprocess.Popen[str]]:
    """A hypervisor in C that reads the scratch register whenever it is told to."""
    program = mmiod.directory / "published"
    subprocess.run([*STRICT, str(SOURCE), "-o", str(program)], check=True)
    command = [str(program), str(mmiod.directory / "vm.exit"), "vm", "asked"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as found:
        yield found
        found.kill()


def messages(looking: subprocess.Popen[str]) -> int:
    """How many messages it needs to read the register."""
    say(looking, "")
    return int(told(looking))


@pytest.mark.needs("gcc")
@pytest.mark.skipif(not OFFERED, reason="x86-64 only")
@pytest.mark.parametrize(("reason", "arguments"), [("break", ["vm/uart0.lcr"]), ("watch", ["vm==vm"])])
def test_publication_is_withdrawn(
    mmiod: Mmiod, looking: subprocess.Popen[str], reason: str, arguments: list[str]
) -> None:
    """While somebody breaks or watches each access comes here, and an event says so; then none again."""
    assert messages(looking) == 0
    with mmiod.looking(reason, *arguments) as talk:
        assert messages(looking) == 1
        mmiod.event("publication_withdrawn", vm="vm", device="uart0", reason=reason)
        talk.kill()
    for _ in range(10_000):
        if not messages(looking):
            return
    raise AssertionError("it is not published again")
