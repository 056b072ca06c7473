"""Backends of a TPM: a swtpm of our own, or one that somebody else runs.

Specification: swtpm(8) and swtpm_ioctls(8): commands and responses of TPM 2.0 on the data
channel without framing, big-endian control commands beside it.

Request `initialize` is CMD_INIT, which each reset of the VM needs: after a TPM2_Startup
the TPM refuses another one until then.  swtpm gets no `startup-clear`, which would be such
a first one.  Request `execute` is a byte of locality and a command; its reply comes in as
many pieces as the TPM likes.  A swtpm that died has lost what was measured, so a new one
refuses commands until the next `initialize`.
"""

from __future__ import annotations

import array
import socket
import struct
import subprocess
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import trio
from attrs import define, field

from mmiod.core.backends.faces import BackendFailed, RequestRefused, ServiceLink
from mmiod.core.backends.processes import end, ending

CMD_INIT, CMD_SET_LOCALITY, CMD_CANCEL_TPM_CMD, CMD_SET_DATAFD = 2, 5, 9, 16
MAX_RESPONSE: Final = 4096
"""Bytes that a TPM answers at most: swtpm's own buffer."""
HEADER_LENGTH: Final = 10
CONTROL_S: Final = 10.0
"""For the answer to a control command; CMD_INIT reads the state from disk."""
PROGRAM: Final = "swtpm"
MAX_SAID: Final = 4096
KINDS: Final = frozenset({"initialize", "execute"})


@define(eq=False)
class Swtpm:
    """The two channels of a running swtpm; `process` if it is ours."""

    control: trio.SocketStream
    data: trio.SocketStream
    process: trio.Process | None = None
    said: bytearray = field(factory=bytearray)
    """The end of what it wrote to standard error."""
    _initialized: bool = False
    _locality: int = 0
    _turn: trio.Lock = field(factory=trio.Lock)
    """Of the control channel."""

    async def perform(self, kind: str, data: bytes) -> bytes:
        """`initialize`, or `execute`."""
        if kind == "initialize":
            await self.command(CMD_INIT, struct.pack(">I", 0))
            self._initialized, self._locality = True, 0
            return b""
        if not self._initialized:
            raise RequestRefused("the TPM was started anew and needs a reset first")
        if data[0] != self._locality:
            await self.command(CMD_SET_LOCALITY, data[:1])
            self._locality = data[0]
        try:
            await self.data.send_all(data[1:])
            return await self._response()
        except trio.BrokenResourceError as error:
            raise BackendFailed(await self._ending()) from error

    async def query(self, kind: str, data: bytes) -> bytes | None:  # noqa: ARG002
        """A TPM keeps no response."""
        await trio.lowlevel.checkpoint()
        return None

    async def cancel(self) -> None:
        """The command under way ends with TPM_RC_CANCELED, if the TPM can do that."""
        await self.command(CMD_CANCEL_TPM_CMD)

    async def watch(self) -> None:
        """Tell the end of our own; that of another's shows at the next request."""
        if self.process is None:
            await trio.sleep_forever()
        raise BackendFailed(await self._ending())

    async def command(self, number: int, body: bytes = b"", descriptor: int | None = None) -> None:
        """A control command; the answer is a 32-bit result."""
        async with self._turn:
            rights = (
                [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _array(descriptor))]
            )
            await self.control.socket.sendmsg([struct.pack(">I", number) + body], rights)
            with trio.move_on_after(CONTROL_S):
                (result,) = struct.unpack(">I", await self._exactly(self.control, 4))
                if result:
                    raise RequestRefused(f"swtpm's control command {number} gave {result:#x}")
                return
        raise BackendFailed(f"no answer to control command {number} within {CONTROL_S} s")

    async def _response(self) -> bytes:
        header = await self._exactly(self.data, HEADER_LENGTH)
        length = int.from_bytes(header[2:6], "big")
        if not HEADER_LENGTH <= length <= MAX_RESPONSE:
            raise BackendFailed(f"a response says that it has {length} bytes")
        return header + await self._exactly(self.data, length - HEADER_LENGTH)

    async def _exactly(self, stream: trio.SocketStream, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            data = await stream.receive_some(count - len(found))
            if not data:
                raise BackendFailed(await self._ending())
            found += data
        return bytes(found)

    async def _ending(self) -> str:
        if self.process is None:
            return "it closed the connection"
        status = ending(await self.process.wait())
        lines = self.said.decode("utf-8", "replace").splitlines()
        return f"{status}: {lines[-1]}" if lines else status

    async def listen(self) -> None:
        """Keep the end of what it says."""
        assert self.process is not None
        assert self.process.stderr is not None
        async for data in self.process.stderr:
            self.said += data
            del self.said[:-MAX_SAID]


def _array(descriptor: int) -> array.array[int]:
    return array.array("i", [descriptor])


@define(eq=False)
class SwtpmBackend:
    """Starts a swtpm with a state directory of its own; without one, its state ends with it."""

    directory: Path | None = None
    kinds = KINDS

    @property
    def owns(self) -> str:
        """The state directory."""
        return f"swtpm:{self.directory}" if self.directory is not None else ""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ServiceLink]:
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
                await tpm.command(CMD_SET_DATAFD, descriptor=data_theirs.fileno())
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

    @property
    def owns(self) -> str:
        """The data socket: swtpm serves one client."""
        return f"swtpm:{self.data}"

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ServiceLink]:
        """Connect."""
        async with (
            await trio.open_unix_socket(str(self.control)) as control,
            await trio.open_unix_socket(str(self.data)) as data,
        ):
            yield Swtpm(control, data)


def _stream(sock: socket.socket) -> trio.SocketStream:
    return trio.SocketStream(trio.socket.from_stdlib_socket(sock))
