"""Backends of a TPM: a swtpm of our own, or one that somebody else runs.

Specification: swtpm(8).

Request `initialize` is CMD_INIT, which each reset of the VM needs: after a TPM2_Startup
the TPM refuses another one until then.  swtpm gets no `startup-clear`, which would be such
a first one.  Request `execute` is a byte of locality and a command; its reply comes in as
many pieces as the TPM likes.  A swtpm that died has lost what was measured, so a new one
refuses commands until the next `initialize`, or until it gets a saved state.
"""

from __future__ import annotations

import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import trio
from attrs import define

from mmiod.core.backends.faces import BackendFailed, KeepingLink, RequestRefused
from mmiod.core.backends.processes import end
from mmiod.core.backends.swtpm_channels import CMD_SET_DATAFD, KEEPING, Swtpm

PROGRAM: Final = "swtpm"
KINDS: Final = frozenset({"initialize", "execute"})


@define(eq=False)
class SwtpmBackend:
    """Starts a swtpm with a state directory of its own; without one, its state ends with it."""

    directory: Path | None = None
    kinds = KINDS
    keeping = KEEPING

    @property
    def owns(self) -> str:
        """The state directory."""
        return f"swtpm:{self.directory}" if self.directory is not None else ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[KeepingLink]:
        """Start it, joined by two socket pairs: when we are gone, so is it (`--terminate`)."""
        with ExitStack() as stack:
            state = self.directory
            if state is None:
                state = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-swtpm-")))
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
            control, theirs = (stack.enter_context(end) for end in socket.socketpair())
            data, data_theirs = (stack.enter_context(end) for end in socket.socketpair())
            async with _started(state, theirs) as process, trio.open_nursery() as nursery:
                tpm = Swtpm(_stream(control), _stream(data), process)
                nursery.start_soon(tpm.listen)
                try:
                    await tpm.command(CMD_SET_DATAFD, descriptor=data_theirs.fileno())
                except RequestRefused as refusal:
                    raise BackendFailed(str(refusal)) from refusal
                data_theirs.close()
                yield tpm
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def _started(state: Path, control: socket.socket) -> AsyncIterator[trio.Process]:
    process = await trio.lowlevel.open_process(
        [
            *(PROGRAM, "socket", "--tpm2", "--terminate"),
            *("--tpmstate", f"dir={state}"),
            *("--ctrl", f"type=unixio,clientfd={control.fileno()}"),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        pass_fds=(control.fileno(),),
    )
    control.close()  # else its end would not show
    try:
        yield process
    finally:
        await end(process)


@define(eq=False)
class SwtpmSocketBackend:
    """A swtpm that listens on Unix sockets (`--server` and `--ctrl`), started by somebody else."""

    data: Path
    control: Path
    kinds = KINDS
    keeping = KEEPING

    @property
    def owns(self) -> str:
        """The data socket: swtpm serves one client."""
        return f"swtpm:{self.data}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[KeepingLink]:
        """Connect."""
        async with (
            await trio.open_unix_socket(str(self.control)) as control,
            await trio.open_unix_socket(str(self.data)) as data,
        ):
            yield Swtpm(control, data)


def _stream(sock: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))
