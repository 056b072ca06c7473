"""A stock QEMU and a stock kernel, fetched by `.ci/stock`, on devices of this daemon."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any

import trio
from attrs import define, field

from mmiod import config, daemon
from mmiod.core.ports import RequestQueue, Signal
from mmiod.daemon import Daemon
from mmiod.demo.initrd import compressed
from mmiod.service.limiter import RateLimiter
from mmiod.service.notify import Notifier
from tests.functional.boots import ROOT, toml

PATIENCE_S = 200
MEMORY = "256M"


@cache
def stock() -> Path:
    """Where QEMU, kernel and busybox are."""
    found = subprocess.run([ROOT / ".ci" / "stock"], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


@define(eq=False)
class Server:
    """A daemon with one VM "guest" whose functions have sockets."""

    directory: Path
    daemon: Daemon
    events: list[tuple[str, dict[str, object]]] = field(factory=list)
    changed: Signal = field(factory=Signal)

    def __attrs_post_init__(self) -> None:
        """Keep the machine's events."""
        machine = self.daemon.machines["guest"]
        notify = machine.notify

        def noting(event: str, **fields: object) -> None:
            self.events.append((event, fields))
            self.changed.set()
            notify(event, **fields)

        machine.notify = noting

    def of(self, name: str) -> list[dict[str, object]]:
        """The events of a name."""
        return [fields for event, fields in self.events if event == name]

    async def wait_for(self, name: str, count: int) -> None:
        """Wait until there are so many events of a name."""
        with trio.fail_after(PATIENCE_S):
            while len(self.of(name)) < count:
                await self.changed.wait()

    @property
    def functions(self) -> Any:  # noqa: ANN401  # what the test looks at is not the daemon's face
        """The attachments of its functions, by device."""
        return self.daemon.functions("guest")

    async def arguments(self) -> list[str]:
        """What `mmioctl qemu-args` prints."""
        command = [sys.executable, "-m", "mmiod.ctl", "--socket", str(self.directory / "control"), "--json"]
        done = await trio.run_process(
            [*command, "qemu-args", "--memory", MEMORY], capture_stdout=True, cwd=ROOT
        )
        found: list[str] = json.loads(done.stdout)
        return found


@asynccontextmanager
async def serving(directory: Path, devices: Mapping[str, Any]) -> AsyncIterator[Server]:
    """The daemon, in this process."""
    tables = {
        "daemon": {
            "control": "control",
            "recorder_capacity": 1 << 20,
            "log_level": "warning",
            "access_deadline_ms": 4000,
        },
        "vm": [
            {"name": "guest", "machine": "guest.toml", "protocol": "vfio-user", "socket": "functions"},
        ],
    }
    (directory / "guest.toml").write_text(toml({"devices": dict(devices)}))
    (directory / "mmiod.toml").write_text(toml(tables))
    built = daemon.build(config.load(directory / "mmiod.toml"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daemon.serve, built, Notifier(), RateLimiter(), {})
        await built.started.wait()
        try:
            yield Server(directory, built)
        finally:
            built.stopping.set()


@define(eq=False)
class Qemu:
    """A QEMU under way, its standard input and output, and its errors."""

    process: trio.Process
    errors: Path
    _pending: bytes = b""
    lines: list[str] = field(factory=list)

    async def ends(self) -> int:
        """Wait for its end; the exit status."""
        with trio.fail_after(PATIENCE_S):
            return await self.process.wait()

    async def line(self) -> str:
        """The next line of its output; an error if it has ended."""
        assert self.process.stdout is not None
        with trio.fail_after(PATIENCE_S):
            while b"\n" not in self._pending:
                more = await self.process.stdout.receive_some()
                assert more, self.errors.read_text()
                self._pending += more
        found, _, self._pending = self._pending.partition(b"\n")
        self.lines.append(found.decode())
        return self.lines[-1]

    async def qtest(self, command: str) -> str:
        """One command of qtest's, and what it gives; interrupts that come before it are in `lines`."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(f"{command}\n".encode())
        while not (answer := await self.line()).startswith(("OK", "FAIL", "ERR")):
            assert answer.startswith("IRQ"), answer
        assert answer.startswith("OK"), answer
        return answer[3:]


@asynccontextmanager
async def running(directory: Path, *arguments: str) -> AsyncIterator[Qemu]:
    """QEMU without any device that is not asked for."""
    command = [str(stock() / "qemu"), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"]
    errors = directory / "qemu.err"
    with errors.open("wb") as stderr:
        process = await trio.lowlevel.open_process(
            [*command, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr
        )
    try:
        yield Qemu(process, errors)
    finally:
        with trio.CancelScope(shield=True):
            process.kill()
            await process.wait()


@define(eq=False)
class Qmp:
    """QEMU's control connection."""

    stream: trio.SocketStream
    _pending: bytes = b""

    async def ask(self, command: str, **arguments: object) -> None:
        """Send a command."""
        await self.stream.send_all(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")

    async def sees(self, event: str) -> None:
        """Wait for an event; an error that comes before it is one."""
        with trio.fail_after(PATIENCE_S):
            while (found := json.loads(await self._line())).get("event") != event:
                assert "error" not in found, found

    async def _line(self) -> bytes:
        while b"\n" not in self._pending:
            more = await self.stream.receive_some()
            assert more, "QEMU has closed it"
            self._pending += more
        line, _, self._pending = self._pending.partition(b"\n")
        return line


@asynccontextmanager
async def controlling(path: Path) -> AsyncIterator[Qmp]:
    """A QEMU that listens there."""
    async with await trio.open_unix_socket(str(path)) as stream:
        qmp = Qmp(stream)
        await qmp.ask("qmp_capabilities")
        yield qmp


# --- images ---------------------------------------------------------------------------------


@define(eq=False)
class Asked:
    """How often images are asked for what, by backend and kind."""

    counts: Counter[tuple[str, str]] = field(factory=Counter)
    changed: Signal = field(factory=Signal)

    def __getitem__(self, kind: str) -> int:
        """Of all images."""
        return sum(count for (_, known), count in self.counts.items() if known == kind)

    def note(self, queue: RequestQueue, kind: str) -> None:
        """One more."""
        self.counts[queue.status.backend, kind] += 1
        self.changed.set()

    async def reaches(self, count: int, *kinds: str) -> None:
        """Wait until there were so many requests of these kinds."""
        with trio.fail_after(PATIENCE_S):
            while sum(self[kind] for kind in kinds) < count:
                await self.changed.wait()


def disk(directory: Path, name: str, mib: int) -> str:
    """A backend that is a new image without content."""
    with (directory / name).open("wb") as image:
        image.truncate(mib << 20)
    return f"block:{name}"


# --- a guest ----------------------------------------------------------------------------------


def kernel(directory: Path, script: str, modules: Sequence[str] = ()) -> list[str]:
    """Arguments for the stock kernel with a guest that is busybox and this script.

    `modules` are loaded first, in this order.  `no_timer_check`, as on a busy host the ticks that
    the kernel waits for may come late, and then it says that no timer works.
    """
    image = directory / "initrd"
    image.write_bytes(compressed(stock(), script, modules))
    line = "console=ttyS0 loglevel=4 tsc=unstable no_timer_check panic=-1"
    return ["-kernel", str(stock() / "vmlinuz"), "-initrd", str(image), "-append", line]


def interrupts(console: str, driver: str) -> int:
    """What /proc/interrupts counts for a driver, on all CPUs."""
    [line] = [line for line in console.splitlines() if line.rstrip().endswith(driver)]
    return sum(map(int, takewhile(str.isdigit, line.split()[1:])))
