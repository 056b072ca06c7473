"""A daemon in a process of its own, whose functions outlive its program."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio
from attrs import define

from tests.attach.functions import Client
from tests.functional.boots import ROOT, toml

PATIENCE_S = 120
MMIOD = ("-m", "mmiod")
_START = """\
from mmiod.upgrade import upgrader
upgrader.MAX_START_S = upgrader.TRIAL_S
from mmiod.__main__ import main
raise SystemExit(main())
"""
PATIENT = ("-c", _START)
"""The same, for clients that do not give a connection up: on a host where no start is soon over, too."""


@define(eq=False)
class Served:
    """A daemon under way."""

    directory: Path
    process: trio.Process

    async def ctl(self, *arguments: str) -> tuple[int, str]:
        """`mmioctl`: its status, and what it prints."""
        command = [sys.executable, "-m", "mmiod.ctl", "--socket", str(self.directory / "control"), *arguments]
        done = await trio.run_process(
            command, capture_stdout=True, capture_stderr=True, check=False, cwd=ROOT
        )
        return done.returncode, (done.stdout + done.stderr).decode()

    async def upgrade(self) -> dict[str, Any]:
        """What the next program says; on a busy host the daemon may have to be asked again."""
        status, said = await self.ctl("--json", "upgrade")
        while status and "the host is busy" in said:
            status, said = await self.ctl("--json", "upgrade")
        assert 0 == status, said + (self.directory / "log").read_text()
        found: dict[str, Any] = json.loads(said)
        return found

    async def qemu_arguments(self, memory: str) -> list[str]:
        """What `mmioctl qemu-args` prints."""
        status, said = await self.ctl("--json", "qemu-args", "--memory", memory)
        assert 0 == status, said
        found: list[str] = json.loads(said)
        return found

    def events(self, name: str) -> list[dict[str, Any]]:
        """What is in the log, of this name; the daemon may be in the middle of the next line."""
        lines = (self.directory / "log").read_text().rpartition("\n")[0].splitlines()
        events = [json.loads(line) for line in lines if line.startswith("{")]
        return [event for event in events if event["event"] == name]

    def descriptors(self) -> dict[str, int]:
        """How many are open, by what they are."""
        found: dict[str, int] = {}
        folder = Path(f"/proc/{self.process.pid}/fd")
        for descriptor in folder.iterdir():
            with suppress(FileNotFoundError):  # it was closed meanwhile
                kind = re.sub(r"[0-9]+", "", descriptor.readlink().name)
                found[kind] = found.get(kind, 0) + 1
        return found

    async def has(self, expected: dict[str, int]) -> None:
        """Wait until these are open and no others: of a `mmioctl` that has ended the daemon hears later."""
        with trio.move_on_after(PATIENCE_S):
            while expected != self.descriptors():  # noqa: ASYNC110  # it tells nobody
                await trio.sleep(0.02)
        assert expected == self.descriptors()

    def maps(self) -> int:
        """How many mappings of guest memory there are."""
        return Path(f"/proc/{self.process.pid}/maps").read_text().count("/memfd:")


@asynccontextmanager
async def serving(
    directory: Path, devices: dict[str, Any], program: tuple[str, ...] = PATIENT, **daemon: object
) -> AsyncIterator[Served]:
    """A daemon in a process of its own, with a VM "guest" behind vfio-user."""
    tables = {
        "daemon": {"control": "control", "plugins": ["."], **daemon},
        "vm": [{"name": "guest", "machine": "guest.toml", "protocol": "vfio-user", "socket": "functions"}],
    }
    (directory / "guest.toml").write_text(toml({"devices": devices}))
    (directory / "mmiod.toml").write_text(toml(tables))
    with (directory / "log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            [sys.executable, *program, "serve", "--config", str(directory / "mmiod.toml")],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            stderr=log,
        )
    served = Served(directory, process)
    try:
        with trio.fail_after(PATIENCE_S):
            while not served.events("daemon_started"):
                assert process.poll() is None, (directory / "log").read_text()
                await trio.sleep(0.02)
        yield served
        process.terminate()
        with trio.fail_after(PATIENCE_S):
            assert 0 == await process.wait()
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


@asynccontextmanager
async def attached(served: Served, name: str) -> AsyncIterator[Client]:
    """A client of a function."""
    with trio.socket.socket(socket.AF_UNIX) as sock:
        await sock.connect(str(served.directory / "functions" / name))
        client = Client(sock)
        assert not (await client.hello()).failed
        yield client
