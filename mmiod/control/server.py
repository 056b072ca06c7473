"""The control socket's server: each client has a task, and at most one call at a time.

A stream is polled, never pushed: while a client does not read, its task waits in
`send_all`, and what it misses is counted by the recorder's serials.  No client can
hold anything of the daemon but its own buffers.
"""

from __future__ import annotations

from collections.abc import Awaitable
from contextlib import closing, suppress
from typing import Final

import structlog
import trio
from attrs import AttrsInstance, define, field

from mmiod.control import messages
from mmiod.control.interface import CONVERTER, Stream, fail, structure
from mmiod.control.meant import NAME
from mmiod.control.service import Service
from mmiod.control.varlink import (
    MAX_FRAME,
    Call,
    Failure,
    Malformed,
    encode_failure,
    encode_reply,
    parse_call,
)

MAX_CLIENTS: Final = 64
POLL_S: Final = 0.05
"""Between two looks of a stream at what is new."""
CATCH_UP_S: Final = 0.005
"""The same while a stream is behind: it gets about a tenth of the core's time, and loses the rest."""


class Gone(Exception):
    """The client closed its connection, or it broke."""


@define(eq=False)
class Client:
    """One connection."""

    stream: trio.abc.Stream
    service: Service
    call: str = ""
    """The method that is being answered."""
    _received: bytearray = field(factory=bytearray)

    async def serve(self) -> None:
        """Answer calls, one after another, until the client has gone."""
        try:
            while True:
                call = parse_call(await self._next_frame())
                self.call = call.method
                await self._answer(call)
                self.call = ""
        except (Gone, trio.BrokenResourceError):
            return

    async def _answer(self, call: Call) -> None:
        try:
            command = self.service.find(call)
            outcome = command.handler(structure(command.request, call.parameters))
            if isinstance(outcome, Awaitable):
                outcome = await outcome
        except Failure as failure:
            if not call.oneway:
                await self.stream.send_all(encode_failure(failure))
            return
        if command.streams:
            await self._pour(outcome)
        elif not call.oneway:
            await self.stream.send_all(encode_reply(CONVERTER.unstructure(outcome)))

    async def _pour(self, stream: Stream) -> None:
        """Send what a stream has, for as long as the client is there."""
        with closing(stream):
            while True:
                replies = stream()
                await stream.ready()
                for reply in replies:
                    await self.stream.send_all(encode_reply(CONVERTER.unstructure(reply), continues=True))
                with trio.move_on_after(CATCH_UP_S if stream.behind else POLL_S):
                    await self._receive()

    async def _next_frame(self) -> bytes:
        """A call's bytes, without the NUL at its end."""
        while (end := self._received.find(0)) < 0:
            await self._receive()
        frame = bytes(self._received[:end])
        del self._received[: end + 1]
        return frame

    async def _receive(self) -> None:
        data = await self.stream.receive_some(4096)
        if not data:
            raise Gone
        self._received += data
        if len(self._received) > MAX_FRAME:
            raise Malformed(f"more than {MAX_FRAME} bytes of calls are waiting")


@define(eq=False)
class Server:
    """Serves on listening sockets that others made."""

    service: Service
    clients: set[Client] = field(factory=set)

    async def run(self, listeners: list[trio.SocketListener]) -> None:
        """Serve until cancelled."""
        await trio.serve_listeners(self._serve, listeners)

    def waiting(self, method: str) -> list[int]:
        """The connections on which an answer of this method is waited for."""
        return [
            client.stream.socket.fileno()
            for client in self.clients
            if client.call == method and isinstance(client.stream, trio.SocketStream)
        ]

    async def go_on(self, stream: trio.SocketStream, reply: AttrsInstance) -> None:
        """Give the answer to a call that another server of this socket took, and serve on."""
        with suppress(trio.BrokenResourceError):
            await stream.send_all(encode_reply(CONVERTER.unstructure(reply)))
        await self._serve(stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        log = structlog.get_logger()
        client = Client(stream, self.service)
        self.clients.add(client)
        try:
            if len(self.clients) > MAX_CLIENTS:
                log.warning("control_client_refused", limit=MAX_CLIENTS)
                refusal = fail(NAME, messages.TooManyClients(MAX_CLIENTS))
                await stream.send_all(encode_failure(refusal))
                return
            await client.serve()
        except Malformed as error:
            log.warning("control_call_refused", reason=str(error))
        finally:
            self.clients.discard(client)
            await trio.aclose_forcefully(stream)
