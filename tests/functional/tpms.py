"""A VM with a TPM: the real daemon in this process, its driver, TPM 2.0 commands, a proxy of swtpm."""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio
from attrs import define, field
from structlog.testing import capture_logs

from mmiod import config, daemon
from mmiod.protocol.exit import Ack, Client
from mmiod.service.limiter import RateLimiter
from mmiod.service.notify import Notifier
from mmiod.values import READ, WRITE, DecodedExit, Space
from tests.attach.peers import Guest
from tests.functional.boots import Tables, toml

BASE = 0xFED4_0000
LOC_CTRL, REQ, STS, START, BUFFER = 0x08, 0x40, 0x44, 0x4C, 0x80
MAX_POLLS = 200_000
PATIENCE_S = 60
ACCEPTS = 0x10000

SHA256 = 0x000B
PASSWORD = struct.pack(">IHBH", 0x4000_0009, 0, 0, 0)
"""An authorization by the empty password (TPM_RS_PW)."""


# --- commands: TPM 2.0 Library, Part 3 ----------------------------------------------------------


def command(code: int, body: bytes = b"", tag: int = 0x8001) -> bytes:
    """Header and body."""
    return struct.pack(">HII", tag, 10 + len(body), code) + body


STARTUP = command(0x144, b"\0\0")
SELF_TEST = command(0x143, b"\1")
GET_RANDOM = command(0x17B, struct.pack(">H", 16))


def extend(pcr: int, digest: bytes) -> bytes:
    """TPM2_PCR_Extend of the SHA-256 bank."""
    digests = struct.pack(">IH", 1, SHA256) + digest
    return command(0x182, struct.pack(">II", pcr, len(PASSWORD)) + PASSWORD + digests, 0x8002)


def read_pcr(pcr: int) -> bytes:
    """TPM2_PCR_Read of the SHA-256 bank."""
    return command(0x17E, struct.pack(">IHB", 1, SHA256, 3) + (1 << pcr).to_bytes(3, "little"))


def code(response: bytes) -> int:
    """A response's code; its length is what it says."""
    _, length, found = struct.unpack(">HII", response[:10])
    assert length == len(response)
    return int(found)


# --- the VM -------------------------------------------------------------------------------------


@define(eq=False)
class TpmGuest:
    """A guest's driver of the CRB interface, and of a UART on another vCPU."""

    guest: Guest
    events: list[dict[str, object]]

    async def get(self, register: int, size: int = 4) -> int:
        """Read a register of locality 0."""
        done = await self.guest.exit(DecodedExit(0, 0, Space.MMIO, READ, BASE + register, size))
        return int.from_bytes(done.completion.data, "little")  # type: ignore[union-attr]

    async def put(self, register: int, value: int, size: int = 4) -> None:
        """Write a register of locality 0."""
        data = value.to_bytes(size, "little")
        await self.guest.exit(DecodedExit(0, 0, Space.MMIO, WRITE, BASE + register, size, data=data))

    async def start(self, data: bytes) -> None:
        """Begin a command as the PTP says."""
        await self.put(LOC_CTRL, 1)
        await self.put(REQ, 1)
        for offset in range(0, len(data), 4):
            piece = data[offset : offset + 4]
            for at, byte in enumerate(piece):
                await self.put(BUFFER + offset + at, byte, 1)
        await self.put(START, 1)

    async def finish(self) -> bytes:
        """Poll for the response, as a driver without interrupts does."""
        for _ in range(MAX_POLLS):
            if not await self.get(START):
                break
        else:
            raise AssertionError("the TPM does not answer")
        length = int.from_bytes((await self.get(BUFFER, 8)).to_bytes(8, "little")[2:6], "big")
        data = [await self.get(BUFFER + offset, 1) for offset in range(length)]
        await self.put(REQ, 2)
        return bytes(data)

    async def execute(self, data: bytes) -> bytes:
        """A command and its response."""
        await self.start(data)
        return await self.finish()

    async def reset(self) -> None:
        """Reset the machine."""
        await self.guest.send(self.guest.client.reset()[1])
        await self.guest.expect(Ack)

    def named(self, name: str) -> list[dict[str, object]]:
        """The log's events of this name."""
        return [event for event in self.events if event["event"] == name]

    async def waits_for(self, name: str) -> dict[str, object]:
        """The first event of this name; every round trip lets the daemon go on."""
        with trio.fail_after(PATIENCE_S):
            while not self.named(name):
                await self.get(STS)
        return self.named(name)[0]


@asynccontextmanager
async def tpm_vm(directory: Path, backend: str, plugin: str = "tpm/crb") -> AsyncIterator[TpmGuest]:
    """A daemon with one VM that has a TPM and a UART, and a hypervisor that is attached."""
    machine: Tables = {
        "devices": {
            "tpm": {"plugin": plugin, "at": {"localities": f"mmio:{BASE:#x}"}, "streams": {"tpm": backend}},
            "uart0": {"plugin": "legacy/uart16550", "at": {"ports": "pio:0x3f8"}},
        }
    }
    (directory / "vm.toml").write_text(toml(machine))
    tables: Tables = {
        "daemon": {"control": "control", "log_level": "error"},
        "vm": [{"name": "vm", "machine": "vm.toml", "socket": "vm.exit"}],
    }
    (directory / "mmiod.toml").write_text(toml(tables))
    built = daemon.build(config.load(directory / "mmiod.toml"))
    with capture_logs() as logs:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(daemon.serve, built, Notifier(), RateLimiter(), {})
            while not any(event["event"] == "daemon_started" for event in logs):
                await trio.lowlevel.checkpoint()
            with trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                await sock.connect(str(directory / "vm.exit"))
                guest = Guest(Client("vm", 2, vendor="test"), sock)
                await guest.hello()
                yield TpmGuest(guest, logs)  # type: ignore[arg-type]
            built.stopping.set()


def children(name: str) -> list[int]:
    """Our child processes of this name."""
    return [pid for pid, (parent, found) in _processes() if (parent, found) == (os.getpid(), name)]


def _processes() -> Iterator[tuple[int, tuple[int, str]]]:
    """Number, parent and name of all processes: proc(5), /proc/PID/stat."""
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            name, _, rest = (directory / "stat").read_text().partition("(")[2].rpartition(")")
            yield int(directory.name), (int(rest.split()[1]), name)


# --- a swtpm of our own, with a proxy that has more than one client -----------------------------------


@define(eq=False)
class Proxy:
    """Listens where the daemon looks for swtpm; each command is a connection to the real one."""

    path: Path
    swtpm: Path
    gate: trio.Event = field(factory=trio.Event)
    """Closed, it withholds replies."""
    withheld: trio.Event = field(factory=trio.Event)

    async def run(self, listener: trio.socket.SocketType) -> None:
        """Serve all clients."""
        async with trio.open_nursery() as nursery:
            while True:
                client, _ = await listener.accept()
                nursery.start_soon(self._serve, trio.SocketStream(client))

    async def _serve(self, client: trio.SocketStream) -> None:
        async with client:
            while data := await receive(client):
                async with await trio.open_unix_socket(str(self.swtpm)) as real:
                    await real.send_all(data)
                    response = await receive(real)
                self.withheld.set()
                await self.gate.wait()
                await client.send_all(response[:7])  # swtpm may answer in pieces
                await trio.lowlevel.checkpoint()
                await client.send_all(response[7:])


def listening() -> set[str]:
    """Paths of sockets on which somebody listens: proc(5), /proc/net/unix, flag __SO_ACCEPTCON."""
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return {words[7] for words in lines if len(words) == 8 and int(words[3], 16) & ACCEPTS}


async def receive(stream: trio.SocketStream) -> bytes:
    """One command or response; nothing at the end of the connection."""
    data = bytearray()
    while len(data) < 10 or len(data) < int.from_bytes(data[2:6], "big"):
        piece = await stream.receive_some(4096)
        if not piece:
            return b""
        data += piece
    return bytes(data)


@asynccontextmanager
async def proxied(directory: Path) -> AsyncIterator[Proxy]:
    """A real swtpm on sockets in `directory`: `data` by proxy, `control` straight."""
    (directory / "state").mkdir()
    with subprocess.Popen(  # noqa: ASYNC220  # begun before and ended after all that waits
        [
            *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory / 'state'}"),
            *("--server", f"type=unixio,path={directory / 'real'}"),
            *("--ctrl", f"type=unixio,path={directory / 'tpm-control'}"),
        ],
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            with trio.fail_after(PATIENCE_S):
                while not listening() >= {str(directory / name) for name in ("tpm-control", "real")}:
                    await trio.lowlevel.checkpoint()
            with trio.socket.socket(socket.AF_UNIX) as listener:
                await listener.bind(str(directory / "data"))
                listener.listen()
                proxy = Proxy(directory / "data", directory / "real")
                proxy.gate.set()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(proxy.run, listener)
                    yield proxy
                    nursery.cancel_scope.cancel()
        finally:
            os.kill(process.pid, signal.SIGKILL)
