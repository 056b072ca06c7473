"""Backends that are Unix sockets: one client at a time, a connection of ours, datagrams."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Final

import trio
from attrs import define, field

from mmiod.core.backends.faces import Link
from mmiod.core.listening import bind, keep

MAX_DATAGRAM: Final = 65_536
_GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)


@define(eq=False)
class UnixBackend:
    """A listening socket; whoever connects has the stream, and others are turned away meanwhile."""

    path: Path
    framed = False
    inherited: dict[str, int] = field(factory=dict)
    _listener: trio.socket.SocketType | None = None
    _client: trio.SocketStream | None = None
    _came: trio.Event = field(factory=trio.Event)

    @property
    def where(self) -> str:
        """The socket."""
        return str(self.path)

    @property
    def owns(self) -> str:
        """The socket."""
        return f"unix:{self.path}"

    @property
    def attached(self) -> bool:
        """Whether there is a client."""
        return self._client is not None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Link]:
        """Listen; the link outlives its clients."""
        with ExitStack() as stack:
            self._listener = listener = trio.socket.from_stdlib_socket(self._listening(stack))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._accept, listener)
                try:
                    yield self
                finally:
                    self._leave()
                    self._listener = None
                    nursery.cancel_scope.cancel()

    def _listening(self, stack: ExitStack) -> socket.socket:
        client = self.inherited.pop("client", None)
        if client is not None:
            self._client = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=client)))
            self._came.set()
        listener = self.inherited.pop("listener", None)
        return (
            bind(stack, self.path, socket.SOCK_STREAM)
            if listener is None
            else keep(stack, self.path, listener)
        )

    def descriptors(self) -> dict[str, int]:
        """The socket and its client."""
        found = {
            "listener": self._listener,
            "client": self._client.socket if self._client is not None else None,
        }
        return {name: sock.fileno() for name, sock in found.items() if sock is not None}

    async def _accept(self, listener: trio.socket.SocketType) -> None:
        while True:
            sock, _ = await listener.accept()
            if self._client is not None:
                sock.close()
                continue
            self._client = trio.SocketStream(sock)
            self._came.set()

    async def _present(self) -> trio.SocketStream:
        while self._client is None:
            await self._came.wait()
        return self._client

    def _leave(self) -> None:
        if self._client is not None:
            self._client.socket.close()
            self._client, self._came = None, trio.Event()

    async def send_all(self, data: bytes) -> None:
        """Send all of it."""
        while data:
            data = data[await self.send_some(data) :]

    async def send_some(self, data: bytes) -> int:
        """Wait for a client and send; what it does not take before it leaves is lost."""
        client = await self._present()
        try:
            return await client.socket.send(data)
        except (OSError, *_GONE):
            if client is self._client:
                self._leave()
            return len(data)

    async def receive_some(self, max_bytes: int) -> bytes:
        """Bytes of the present client, or of the next one."""
        while True:
            client = await self._present()
            try:
                data = await client.receive_some(max_bytes)
            except _GONE:
                data = b""
            if data:
                return bytes(data)
            if client is self._client:
                self._leave()


@define(eq=False)
class ConnectBackend:
    """A connection to a listening socket."""

    path: Path
    where = ""
    owns = ""
    framed = False
    attached = True
    inherited: dict[str, int] = field(factory=dict)
    _stream: trio.SocketStream | None = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Link]:
        """Connect."""
        async with await self._connect() as stream:
            self._stream = stream
            try:
                yield _Connection(stream)
            finally:
                self._stream = None

    async def _connect(self) -> trio.SocketStream:
        connection = self.inherited.pop("connection", None)
        if connection is None:
            return await trio.open_unix_socket(str(self.path))
        return trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=connection)))

    def descriptors(self) -> dict[str, int]:
        """The connection."""
        return {} if self._stream is None else {"connection": self._stream.socket.fileno()}


@define(eq=False)
class _Connection:
    stream: trio.SocketStream

    async def send_all(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def send_some(self, data: bytes) -> int:
        return await self.stream.socket.send(data)

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)


@define(eq=False)
class DatagramBackend:
    """A datagram socket: each piece that the device sends is a datagram to the socket at `path`.

    What that one sends back are bytes for the device.
    """

    path: Path
    where = ""
    owns = ""
    framed = True
    attached = True

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Link]:
        """Bind to a name that the kernel gives, so that we can be answered."""
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        bound.bind("")
        with trio.socket.from_stdlib_socket(bound) as sock:
            await sock.connect(str(self.path))
            yield _Datagrams(sock)


@define(eq=False)
class _Datagrams:
    sock: trio.socket.SocketType
    _rest: bytes = b""

    async def send_all(self, data: bytes) -> None:
        await self.sock.send(data)

    async def receive_some(self, max_bytes: int) -> bytes:
        while not self._rest:
            self._rest = await self.sock.recv(MAX_DATAGRAM)
        data, self._rest = self._rest[:max_bytes], self._rest[max_bytes:]
        return data
