"""The two channels of a running swtpm: TPM 2.0 commands, and big-endian control commands beside them.

Specification: swtpm(8), swtpm_ioctls(8) and tpm_ioctl.h of swtpm 0.7.

What a TPM keeps goes with its VM as *state blobs*, as swtpm gives them: `permanent` (seeds,
NV memory), `volatile` (PCRs, sessions, what was loaded) and `savestate` (of TPM2_Shutdown).
A part of a saved state is `state_flags` (is it encrypted by swtpm's key?) and the blob, or
nothing if there is none.  They are set while the TPM stands (CMD_STOP), and CMD_INIT
takes them up; a CMD_INIT that stands for a reset deletes what is volatile instead.
"""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Mapping
from typing import Final

import trio
from attrs import define, field

from mmiod.core.backends.faces import BackendFailed, RequestRefused
from mmiod.core.backends.processes import ending
from mmiod.machine.ports import Keeping

CMD_INIT, CMD_SET_LOCALITY, CMD_CANCEL_TPM_CMD = 2, 5, 9
CMD_GET_STATEBLOB, CMD_SET_STATEBLOB, CMD_STOP, CMD_SET_DATAFD = 12, 13, 14, 16
INIT_FLAG_DELETE_VOLATILE: Final = 1
BLOB_TYPES: Final = {"permanent": 1, "volatile": 2, "savestate": 3}
"""In the order in which they are set."""
TPM_RETRY: Final = 0x800
"""To CMD_GET_STATEBLOB: there is no such state."""
MAX_PART: Final = 1 << 20
KEEPING: Final = Keeping("swtpm", 1, dict.fromkeys(BLOB_TYPES, MAX_PART))
"""Schema 1: `state_flags` as u32, big-endian, then the blob."""
MAX_RESPONSE: Final = 4096
"""Bytes that a TPM answers at most: swtpm's own buffer."""
HEADER_LENGTH: Final = 10
CONTROL_S: Final = 10.0
"""For the answer to a control command; CMD_INIT reads the state from disk."""
ENDING_S: Final = 2.0
"""Between the end of a channel and that of the program and of its words."""
MAX_SAID: Final = 4096


@define(eq=False)
class Swtpm:
    """The two channels of a running swtpm; `process` if it is ours."""

    control: trio.SocketStream
    data: trio.SocketStream
    process: trio.Process | None = None
    said: bytearray = field(factory=bytearray)
    """The end of what it wrote to standard error."""
    _initialized: bool = False
    _locality: int | None = None
    """As it was set; None if we do not know."""
    _heard: trio.Event = field(factory=trio.Event)
    """That was all."""
    _turn: trio.Lock = field(factory=trio.Lock)
    """Of the control channel."""

    # --- requests -----------------------------------------------------------------------------

    async def perform(self, kind: str, data: bytes) -> bytes:
        """`initialize`, or `execute`."""
        if kind == "initialize":
            await self._begin(INIT_FLAG_DELETE_VOLATILE)
            return b""
        self._check_initialized()
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

    async def _begin(self, flags: int) -> None:
        self._initialized = False
        await self.command(CMD_INIT, struct.pack(">I", flags))
        self._initialized, self._locality = True, None

    def _check_initialized(self) -> None:
        if not self._initialized:
            raise RequestRefused("the TPM was started anew and needs a reset first")

    # --- what it keeps ------------------------------------------------------------------------

    async def fetch(self) -> dict[str, bytes]:
        """Its state blobs."""
        self._check_initialized()
        return {name: await self._fetch(kind) for name, kind in BLOB_TYPES.items()}

    async def put_back(self, parts: Mapping[str, bytes]) -> None:
        """Go on as the TPM whose state blobs these are; refused, go on as before."""
        before = await self.fetch() if self._initialized else None
        try:
            await self._set(parts)
        except RequestRefused:
            if before is not None:
                await self._set(before)
            raise

    async def _set(self, parts: Mapping[str, bytes]) -> None:
        await self.command(CMD_STOP)
        for name, kind in BLOB_TYPES.items():
            flags, blob = parts[name][:4], parts[name][4:]
            if blob:
                body = flags + struct.pack(">II", kind, len(blob)) + blob
                await self.command(CMD_SET_STATEBLOB, body, what=f"parts.{name}")
        await self._begin(0)

    async def _fetch(self, kind: int) -> bytes:
        """A part: the answer is result, flags, the length in all, that of what follows."""
        async with self._turn:
            await self._send(CMD_GET_STATEBLOB, struct.pack(">III", 0, kind, 0))
            with trio.move_on_after(CONTROL_S):
                result, flags, total, length = struct.unpack(">4I", await self._exactly(self.control, 16))
                if result == TPM_RETRY:
                    return b""
                if result or total != length or 4 + length > MAX_PART:
                    raise BackendFailed(f"a state blob of {total} bytes in all, {length} here: {result:#x}")
                return struct.pack(">I", flags) + await self._exactly(self.control, length)
        raise BackendFailed(f"no state blob within {CONTROL_S} s")

    # --- channels -----------------------------------------------------------------------------

    async def command(
        self, number: int, body: bytes = b"", what: str = "", descriptor: int | None = None
    ) -> None:
        """A control command; the answer is a 32-bit result."""
        async with self._turn:
            await self._send(number, body, descriptor)
            with trio.move_on_after(CONTROL_S):
                (result,) = struct.unpack(">I", await self._exactly(self.control, 4))
                if result:
                    prefix = f"{what}: " if what else ""
                    raise RequestRefused(f"{prefix}swtpm's control command {number} gave {result:#x}")
                return
        raise BackendFailed(f"no answer to control command {number} within {CONTROL_S} s")

    async def _send(self, number: int, body: bytes, descriptor: int | None = None) -> None:
        """In one piece with its descriptor; a long rest may need several."""
        message = struct.pack(">I", number) + body
        rights = [] if descriptor is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _array(descriptor))]
        try:
            sent = await self.control.socket.sendmsg([message], rights)
            await self.control.send_all(message[sent:])
        except (OSError, trio.BrokenResourceError) as error:
            raise BackendFailed(await self._ending()) from error

    async def _response(self) -> bytes:
        header = await self._exactly(self.data, HEADER_LENGTH)
        length = int.from_bytes(header[2:6], "big")
        if not HEADER_LENGTH <= length <= MAX_RESPONSE:
            raise BackendFailed(f"a response says that it has {length} bytes")
        return header + await self._exactly(self.data, length - HEADER_LENGTH)

    async def _exactly(self, stream: trio.SocketStream, count: int) -> bytes:
        found = bytearray()
        while len(found) < count:
            try:
                data = await stream.receive_some(count - len(found))
            except trio.BrokenResourceError:
                data = b""
            if not data:
                raise BackendFailed(await self._ending())
            found += data
        return bytes(found)

    # --- its end ------------------------------------------------------------------------------

    async def watch(self) -> None:
        """Tell the end of our own; that of another's shows at the next request."""
        if self.process is None:
            await trio.sleep_forever()
        else:
            await self.process.wait()
        raise BackendFailed(await self._ending())

    async def _ending(self) -> str:
        if self.process is None:
            return "it closed the connection"
        status = "it closed a channel"
        with trio.move_on_after(ENDING_S):
            status = ending(await self.process.wait())
            await self._heard.wait()
        lines = [line for line in self.said.decode("utf-8", "replace").splitlines() if line]
        return f"{status}: {lines[-1]}" if lines else status

    async def listen(self) -> None:
        """Keep the end of what it says."""
        assert self.process is not None
        assert self.process.stderr is not None
        async for data in self.process.stderr:
            self.said += data
            del self.said[:-MAX_SAID]
        self._heard.set()


def _array(descriptor: int) -> array.array[int]:
    return array.array("i", [descriptor])
