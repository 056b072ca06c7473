"""Both sides with a TPM: each has a swtpm of its own, ours in answer to an access that awaits it."""

from __future__ import annotations

import array
import socket
import struct
import subprocess
import time
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from attrs import define, field

from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.host import InlineHost
from mmiod.machine.ports import BackendStatus, Keeping
from mmiod.values import Space
from tests.functional.tpms import listening
from tests.qemu.sides import PATIENCE_S, Ours, Reference, ours, reference

BASE: Final = 0xFED40000
CMD_INIT, CMD_SET_LOCALITY, CMD_SET_DATAFD = 2, 5, 16


@contextmanager
def swtpm(directory: Path, model: str) -> Iterator[tuple[str, ...]]:
    """A TPM without a state, and QEMU's options for it."""
    directory.mkdir()
    control = directory / "control"
    with _started(directory, f"type=unixio,path={control}"):
        deadline = time.monotonic() + PATIENCE_S
        while str(control) not in listening():
            assert time.monotonic() < deadline
        chardev = ("-chardev", f"socket,id=control,path={control}")
        yield (*chardev, "-tpmdev", "emulator,id=t,chardev=control", "-device", f"{model},tpmdev=t")


@contextmanager
def _started(directory: Path, control: str, *descriptors: int) -> Iterator[None]:
    command = ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={directory}", "--ctrl", control]
    with subprocess.Popen([*command, "--flags", "not-need-init"], pass_fds=descriptors) as process:
        try:
            yield
        finally:
            process.kill()


@define(eq=False)
class Tpm:
    """Service `tpm` of our device: what it asks is done when `settle` is called."""

    control: socket.socket
    data: socket.socket
    host: InlineHost
    status: BackendStatus = field(factory=lambda: BackendStatus("swtpm"))
    keeping: Keeping | None = None
    kept: Mapping[str, bytes] | None = None
    refusal: str | None = None
    _asked: deque[tuple[int, str, bytes]] = field(factory=deque)

    @property
    def busy(self) -> bool:
        """Whether something was asked."""
        return bool(self._asked)

    def ask(self, number: int, kind: str, data: bytes) -> None:
        """Keep it."""
        self._asked.append((number, kind, data))

    def cancel(self, number: int) -> None:
        """Too late: it is done at once."""

    def disown(self, last: int) -> None:
        """Nobody fails."""

    def fetch(self) -> None:
        """Nobody saves."""

    def put_back(self, parts: Mapping[str, bytes]) -> None:
        """Nobody restores."""

    def settle(self) -> None:
        """Do what was asked."""
        while self._asked:
            number, kind, data = self._asked.popleft()
            reply = self._initialize() if kind == "initialize" else self._execute(data)
            self.host.reply("tpm", number, reply)

    def command(self, number: int, body: bytes, *descriptors: int) -> None:
        """A control command."""
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] * bool(descriptors)
        self.control.sendmsg([struct.pack(">I", number) + body], rights)
        assert bytes(4) == self.control.recv(4)

    def _initialize(self) -> bytes:
        self.command(CMD_INIT, struct.pack(">I", 1))
        return b""

    def _execute(self, data: bytes) -> bytes:
        self.command(CMD_SET_LOCALITY, data[:1])
        self.data.sendall(data[1:])
        response = self.data.recv(4096)
        while len(response) < int.from_bytes(response[2:6], "big"):
            response += self.data.recv(4096)
        return response


@contextmanager
def both(directory: Path, name: str) -> Iterator[tuple[Reference, Ours]]:
    """QEMU and ours with the interface `name`, `crb` or `tis`."""
    with ExitStack() as stack:
        options = stack.enter_context(swtpm(directory / "theirs", f"tpm-{name}"))
        qemu = stack.enter_context(reference(directory, *options))
        placed = {"localities": Placement(Space.MMIO, BASE)}
        machine = ours({name: DeviceDescription(f"tpm/{name}", at=placed)})
        (directory / "ours").mkdir()
        control, theirs = (stack.enter_context(end) for end in socket.socketpair())
        data, far = (stack.enter_context(end) for end in socket.socketpair())
        descriptor = theirs.fileno()
        stack.enter_context(_started(directory / "ours", f"type=unixio,clientfd={descriptor}", descriptor))
        tpm = Tpm(control, data, machine.machine.hosts[name])
        tpm.command(CMD_SET_DATAFD, b"", far.fileno())
        machine.machine.services[name, "tpm"] = tpm
        machine.settle = tpm.settle
        machine.machine.reset()
        tpm.settle()
        yield qemu, machine
