"""One SOCK_STREAM connection: bytes and descriptors in, bytes out, never waiting.

While the peer does not read what it was answered nothing is read from it, so that what
waits here is the answer to one message at most.
"""

from __future__ import annotations

import array
import select
import socket
import struct
from collections.abc import Callable
from typing import Final

from attrs import define, field

from mmiod.attach import descriptors
from mmiod.core.pump import READABLE, WRITABLE, Pump
from mmiod.errors import ProtocolError

CHUNK: Final = 1 << 16
"""Bytes that are read at once."""
_ROOM: Final = memoryview(bytearray(CHUNK))
"""For all connections: a chunk is copied out before anything else is received."""
_RECEIVE: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_SEND: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_TRUNCATED: Final = int(socket.MSG_CTRUNC)
"""A plain number: `&` with a member of an enum takes 1 us."""
_PEER: Final = struct.Struct("3i")

Receive = Callable[[bytes, list[int]], None]
Closed = Callable[[str], None]


@define(eq=False)
class Stream:
    """A client's connection.

    `receive` gets each chunk with the descriptors that came with it and owns them; a
    `ProtocolError` from it ends the connection.  It is called with nothing when what was to
    be sent is gone.  `closed` is called once, with the reason.
    """

    sock: socket.socket
    pump: Pump
    max_descriptors: int
    """In one chunk; a chunk with more ends the connection."""
    receive: Receive
    closed: Closed
    _unsent: bytearray = field(factory=bytearray)
    peer: tuple[int, int, int] = field(init=False)
    """pid, uid and gid of who connected."""
    _right: tuple[int, int] | None = None
    """How many bytes are before a descriptor that is to be sent, and the descriptor; it stays ours."""
    _held: bool = False
    _blocked: bool = False
    """Watched for room to send: for nearly all replies there is, and no call of epoll's is needed."""
    _open: bool = True
    _space: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Read the peer's credentials and begin to listen."""
        self.sock.setblocking(False)
        self._space = socket.CMSG_SPACE(4 * self.max_descriptors)
        self._blocked = bool(self._unsent)
        credentials = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        self.peer = _PEER.unpack(credentials)
        self.pump.register(self.sock.fileno(), self._ready)

    @property
    def open(self) -> bool:
        """Whether anything can still be sent."""
        return self._open

    @property
    def ready(self) -> bool:
        """Whether the peer has taken all that it was sent: only then it is asked for more."""
        return self._open and not self._unsent

    @property
    def sends_descriptor(self) -> bool:
        """Whether a descriptor is in what the peer has not taken yet."""
        return self._right is not None

    @property
    def unsent(self) -> bytes:
        """What the peer has not taken yet."""
        return bytes(self._unsent)

    def send(self, data: bytes | bytearray, descriptor: int | None = None) -> None:
        """Send, as far as the peer takes it now; the rest goes when it does.

        A descriptor goes with the first byte of `data`; one at a time, until that is sent.
        """
        if self._open and data:
            if descriptor is not None:
                self._right = len(self._unsent), descriptor
            self._unsent += data
            self._flush()

    def hold(self, held: bool) -> None:
        """Read nothing until this is undone: what came must be answered first."""
        if self._open and held != self._held:
            self._held = held
            self._watch()

    def close(self, reason: str) -> None:
        """End the connection."""
        if self._open:
            self._open = False
            self.pump.unregister(self.sock.fileno())
            self.sock.close()
            self.closed(reason)

    def _watch(self) -> None:
        reading = select.EPOLLRDHUP if self._held or self._unsent else READABLE
        self.pump.watch(self.sock.fileno(), reading | (WRITABLE if self._unsent else 0))

    def _flush(self) -> None:
        try:
            del self._unsent[: self._send()]
        except BlockingIOError:
            pass
        except OSError as error:
            self.close(f"send: {error}")
            return
        if bool(self._unsent) != self._blocked:
            self._blocked = not self._blocked
            self._watch()

    def _send(self) -> int:
        """Bytes that the peer takes now."""
        if self._right is None:
            return self.sock.send(self._unsent, _SEND)
        before, descriptor = self._right
        if before:
            sent = self.sock.send(self._unsent[:before], _SEND)
            self._right = before - sent, descriptor
            return sent
        rights = array.array("i", [descriptor])
        sent = self.sock.sendmsg([self._unsent], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], _SEND)
        self._right = None
        return sent

    def _ready(self, events: int) -> None:
        if self._held or self._unsent:
            self._ready_to_send(events)
            return
        try:
            self._take()
        except OSError as error:
            self.close(f"receive: {error}")

    def _ready_to_send(self, events: int) -> None:
        """Nothing is read now: go on sending, or see that the peer has gone."""
        if events & WRITABLE and self._unsent:
            self._flush()
        elif events & ~WRITABLE:
            self.close("the client closed the connection")
            return
        if self.ready and not self._held:
            self._receive(b"", [])

    def _take(self) -> None:
        try:
            length, ancillary, flags, _ = self.sock.recvmsg_into([_ROOM], self._space, _RECEIVE)
        except BlockingIOError:
            return
        chunk = bytes(_ROOM[:length])
        found = descriptors.received(ancillary) if ancillary else []
        if flags & _TRUNCATED:
            descriptors.close(found)
            self.close(f"more than {self.max_descriptors} descriptors came, or they are too many for us")
        elif not chunk:
            descriptors.close(found)
            self.close("the client closed the connection")
        else:
            self._receive(chunk, found)

    def _receive(self, chunk: bytes, found: list[int]) -> None:
        try:
            self.receive(chunk, found)
        except ProtocolError as error:
            self.close(str(error))
