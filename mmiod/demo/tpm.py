"""The demo's TPM: a swtpm of its own, what firmware said to it, and whether log and PCRs agree.

The event log is read from guest RAM, whose memfd is the demo's, and the PCRs by a second
client of the same swtpm, when the daemon has ended.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from mmiod.ctl.event_log import LogError, find, parse

SWTPM: Final = "swtpm"
SHA256: Final = 0x000B
PCRS: Final = range(8)
"""Those of firmware."""
HEADER: Final = struct.Struct(">HII")
READ_PCRS: Final = HEADER.pack(0x8001, 20, 0x17E) + struct.pack(">IHB3s", 1, SHA256, 3, b"\xff\0\0")
"""TPM2_PCR_Read of PCR 0-7 (TPM 2.0 Library, Part 3)."""
DIGESTS: Final = HEADER.size + 4 + 10 + 4
"""Where the first digest is in its response: behind a counter, one selection and their number."""
CODE: Final = range(6, 10)
"""Of a response, big-endian."""
PATIENCE_S: Final = 10.0

Object = Mapping[str, Any]


@define
class Conversation:
    """What firmware reads from the CRB interface after each command."""

    commands: int = 0
    successes: int = 0
    _buffer: int = 0
    _code: dict[int, int] = field(factory=dict)

    def take(self, access: Object) -> None:
        """One access of any device."""
        if access["device"] != "tpm":
            return
        if access["register"] == "ctrl_start" and access["direction"] == "write":
            self.commands += 1
            self._buffer = access["address"] & ~0xFFF | 0x80
            self._code.clear()
        elif access["register"] == "data_buffer" and access["direction"] == "read":
            self._read(access["address"] - self._buffer, access["size"], access["value"])

    def _read(self, offset: int, size: int, value: int) -> None:
        before = len(self._code)
        read = dict(enumerate(value.to_bytes(size, "little"), offset))
        self._code.update((at, byte) for at, byte in read.items() if at in CODE)
        if before < len(CODE) == len(self._code):
            self.successes += not any(self._code.values())


@define
class Tpm:
    """A running swtpm, and the guest RAM that its log is in."""

    directory: Path
    memory: int
    """A descriptor."""

    @classmethod
    def start(cls, stack: ExitStack, directory: Path, memory: int) -> Tpm | None:
        """Start it; None if it is not installed."""
        if shutil.which(SWTPM) is None:
            return None
        found = cls(directory, memory)
        state = directory / "tpm-state"
        state.mkdir()
        with _listening(found.data) as data, _listening(found.control) as control:
            channels = [
                f"--server=type=unixio,fd={data.fileno()}",
                f"--ctrl=type=unixio,fd={control.fileno()}",
            ]
            process = subprocess.Popen(
                [SWTPM, "socket", "--tpm2", f"--tpmstate=dir={state}", *channels],
                pass_fds=(data.fileno(), control.fileno()),
                stderr=subprocess.DEVNULL,
            )
        stack.callback(process.wait)
        stack.callback(process.kill)
        return found

    @property
    def data(self) -> Path:
        """Its socket of commands."""
        return self.directory / "tpm"

    @property
    def control(self) -> Path:
        """Its socket of control commands."""
        return self.directory / "tpm-control"

    def verdict(self, said: Conversation) -> str:
        """One line: commands, log, PCRs."""
        answered = "all answered 0" if said.successes == said.commands else f"{said.successes} answered 0"
        try:
            log = parse(find(partial(_read, self.memory)))
        except LogError as error:
            return f"TPM: {said.commands} commands, {answered}; {error}."
        expected = [log.replay(SHA256).get(number, bytes(32)) for number in PCRS]
        agree = "agree" if expected == self._pcrs() else "do NOT agree"
        events = f"event log with {len(log.events)} events in guest RAM"
        return f"TPM: {said.commands} commands, {answered}; {events}; PCR 0-7 and the log {agree}."

    def _pcrs(self) -> list[bytes]:
        """As swtpm has them."""
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rwb") as tpm:
            connection.settimeout(PATIENCE_S)
            connection.connect(str(self.data))
            tpm.write(READ_PCRS)
            tpm.flush()
            header = tpm.read(HEADER.size)
            response = header + tpm.read(HEADER.unpack(header)[1] - HEADER.size)
        return [digest for _, digest in struct.iter_unpack(">H32s", response[DIGESTS:])]


@contextmanager
def _listening(path: Path) -> Iterator[socket.socket]:
    """Before swtpm runs, so that nobody has to wait until it listens."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


def _read(descriptor: int, gpa: int, length: int) -> bytes:
    return os.pread(descriptor, length, gpa)
