"""What stands between a hypervisor and the daemon: it takes over amid exits, ends the session, or hides
what the daemon can do.
"""

from __future__ import annotations

import array
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio
from attrs import define, field

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import MAX_MESSAGE, NUMBERS, replies
from mmiod.protocol.exit.codec import BY_NAME
from mmiod.protocol.exit.table import MESSAGES

COMPLETIONS: Final = range(BY_NAME["VALUES"].type, BY_NAME["REPLY"].type + 1)
HELLO: Final = BY_NAME["HELLO"].type
OPTIONAL: Final = next(member.offset for member in MESSAGES[HELLO].members if member.name == "optional")
RIGHTS: Final = socket.CMSG_SPACE(3 * 4)
"""SHARE of one vCPU has most."""
Key = tuple[int, int]
"""vCPU and sequence number of an exit."""


@define(eq=False)
class Between:
    """Passes messages and descriptors on.

    The first completion of each exit is withheld, and RESUMED is sent in its place, as by a
    daemon that took over: the hypervisor has to send the exit again.
    """

    upstream: Path
    takes_over: bool = True
    without: tuple[str, ...] = ()
    """Capabilities that a hypervisor wants if it can have them, and does not get."""
    over: bool = False
    """From now on the session is no more."""
    withheld: set[Key] = field(factory=set)
    repeated: set[Key] = field(factory=set)
    """Exits whose second completion was passed on."""
    connections: list[trio.socket.SocketType] = field(factory=list)

    async def serve(self, listener: trio.socket.SocketType) -> None:
        """Take connections, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                client, _ = await listener.accept()
                nursery.start_soon(self._connection, client)

    def end(self) -> None:
        """Let the session be over: connections close, and no later one goes on with it."""
        self.over = True
        for connection in self.connections:
            connection.shutdown(socket.SHUT_RDWR)

    async def _connection(self, client: trio.socket.SocketType) -> None:
        with client, trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
            if self.over:
                await client.recv(MAX_MESSAGE)
                gone = ProtocolError(NUMBERS["error"]["IDENTITY"], "hello.token", 0, "no such session")
                await client.send(replies.error(gone))
                return
            await daemon.connect(str(self.upstream))
            self.connections.append(client)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pass, client, daemon)
                await self._pass(daemon, client)
                nursery.cancel_scope.cancel()
            self.connections.remove(client)

    async def _pass(self, source: trio.socket.SocketType, sink: trio.socket.SocketType) -> None:
        """Until one of them closes."""
        while True:
            try:
                message, ancillary, _, _ = await source.recvmsg(MAX_MESSAGE, RIGHTS)
                if not message:
                    sink.shutdown(socket.SHUT_RDWR)
                    return
                await sink.sendmsg([self._instead(message)], ancillary)
            except OSError:
                return
            for _, _, descriptors in ancillary:
                for descriptor in array.array("i", descriptors):
                    os.close(descriptor)

    def _instead(self, message: bytes) -> bytes:
        type_ = int.from_bytes(message[4:6], "little")
        if type_ == HELLO:
            return self._wanting_less(message)
        if type_ not in COMPLETIONS or not self.takes_over:
            return message
        key = int.from_bytes(message[8:12], "little"), int.from_bytes(message[16:24], "little")
        if key not in self.withheld:
            self.withheld.add(key)
            return replies.resumed(2)
        self.repeated.add(key)
        return message

    def _wanting_less(self, hello: bytes) -> bytes:
        wanted = int.from_bytes(hello[OPTIONAL : OPTIONAL + 8], "little")
        wanted &= ~sum(NUMBERS["capability"][name] for name in self.without)
        return hello[:OPTIONAL] + wanted.to_bytes(8, "little") + hello[OPTIONAL + 8 :]

    async def take_over(self) -> None:
        """Send RESUMED amid whatever goes on."""
        for connection in self.connections:
            await connection.send(replies.resumed(2))


@asynccontextmanager
async def between(
    path: Path, upstream: Path, *, takes_over: bool = True, without: tuple[str, ...] = ()
) -> AsyncIterator[Between]:
    """One that listens at `path`."""
    relay = Between(upstream, takes_over, without)
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        await listener.bind(str(path))
        listener.listen()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(relay.serve, listener)
            yield relay
            nursery.cancel_scope.cancel()
