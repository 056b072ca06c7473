"""One connection to the daemon: a blocking SOCK_SEQPACKET socket.

Traps of SOCK_SEQPACKET that shape this module: a connect to a full backlog fails with
EAGAIN when the socket does not block; an empty message is the end; a peer that died
with unread data makes the first receive fail with ECONNRESET while its last messages
can still be read behind it.
"""

from __future__ import annotations

import array
import errno
import select
import socket
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from attrs import define, field

from mmiod.protocol.exit.table import MAX_MESSAGE

MAX_DESCRIPTORS: Final = 1
"""What the daemon sends along with a message."""
_INT: Final = array.array("i").itemsize
_ANCILLARY: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * _INT)


class Broken(Exception):
    """This connection has ended."""


Connect = Callable[[], socket.socket]


def connect_to(path: str) -> Connect:
    """Connections to the daemon's socket at `path`."""

    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(path)
        except OSError as error:
            connection.close()
            if error.errno is None:  # Python's own word on a path that is too long
                error.errno, error.strerror = errno.ENAMETOOLONG, str(error)
            error.filename = path
            raise
        return connection

    return connect


class Alarm(Protocol):
    """Ends a CPU's run when a message arrives."""

    def watch(self, connection: socket.socket) -> None:
        """Ring for messages on this connection."""

    def silence(self) -> None:
        """Stop ringing for what has arrived so far, which is read now."""


@define(eq=False)
class Wire:
    """A connection that is open."""

    socket: socket.socket
    _buffer: bytearray = field(factory=lambda: bytearray(MAX_MESSAGE))

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a message, and descriptors with it, which stay ours.

        Raises:
            Broken: nobody is there.
        """
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))]
        try:
            self.socket.sendmsg([message], rights if descriptors else [])
        except (BrokenPipeError, ConnectionResetError, ConnectionAbortedError) as error:
            raise Broken from error

    def receive(self) -> tuple[bytes, list[int]]:
        """The next message and its descriptors, which are ours now.

        Raises:
            Broken: the daemon has left.
        """
        try:
            size, ancillary = self._receive()
        except ConnectionResetError:
            size, ancillary = self._last_words()
        if not size:
            raise Broken
        found = array.array("i")
        for _, _, data in ancillary:
            found.frombytes(data[: len(data) // _INT * _INT])
        return bytes(memoryview(self._buffer)[:size]), list(found)

    def close(self) -> None:
        """Leave."""
        self.socket.close()

    def ready(self) -> bool:
        """Whether something has arrived."""
        return bool(select.select([self.socket], [], [], 0)[0])

    def _receive(self) -> tuple[int, list[tuple[int, int, bytes]]]:
        size, ancillary, _, _ = self.socket.recvmsg_into([self._buffer], _ANCILLARY, socket.MSG_CMSG_CLOEXEC)
        return size, ancillary

    def _last_words(self) -> tuple[int, list[tuple[int, int, bytes]]]:
        try:
            return self._receive()
        except ConnectionResetError:
            return 0, []
