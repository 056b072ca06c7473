"""One SOCK_SEQPACKET connection: datagrams and descriptors in and out, never waiting.

What goes wrong on the socket ends the connection and nothing else.  Descriptors are
closed on every path on which nobody takes them over.

A client on our CPU runs as soon as it is answered, and its next message is there when our `send` returns:
that is looked for at once, as long as it pays.
"""

from __future__ import annotations

import array
import socket
import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from attrs import define, field

from mmiod.attach import descriptors
from mmiod.attach.flat import Flat
from mmiod.attach.pause import IN_A_ROW, pause
from mmiod.core.pump import READABLE, WRITABLE, Pump
from mmiod.errors import ProtocolError
from mmiod.protocol.exit import MAX_MESSAGE, NUMBERS, Offer, Session

MAX_QUEUED: Final = 256
"""Messages that a client may leave unread."""
MAX_DESCRIPTORS: Final = 253
"""The kernel's SCM_MAX_FD."""
_ANCILLARY: Final = socket.CMSG_SPACE(MAX_DESCRIPTORS * 4)
_FLAGS: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_SEND: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_TRUNCATED: Final = int(socket.MSG_TRUNC)
_LOST: Final = int(socket.MSG_CTRUNC)
"""Plain numbers: `&` with a member of an enum takes 1 us."""
_PEER: Final = struct.Struct("3i")
_ROOM: Final = memoryview(bytearray(MAX_MESSAGE + 1))
"""For all connections: a message is copied out before anything else is received."""

Receive = Callable[["Connection", bytes, list[int]], None]
Closed = Callable[["Connection", str], None]


@define(eq=False)
class Connection:
    """A client's connection.

    `receive` gets each datagram with its descriptors and owns them; it may raise
    `ProtocolError`.  `closed` is called once, with the reason.
    """

    sock: socket.socket
    pump: Pump
    session: Session
    receive: Receive
    closed: Closed
    flat: Flat | None = None
    """Its session's, once it has brought an exit of it."""
    peer: tuple[int, int, int] = field(init=False)
    """pid, uid and gid of who connected."""
    _queue: deque[tuple[bytes, int | None]] = field(factory=deque)
    _open: bool = True
    _pause: int = 0
    """Datagrams until it is looked for the next one at once."""
    _vain: int = 0
    """The last such pause, if that was in vain again."""

    def __attrs_post_init__(self) -> None:
        """Read the peer's credentials and begin to listen."""
        self.sock.setblocking(False)
        credentials = self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        self.peer = _PEER.unpack(credentials)
        self.pump.register(self.sock.fileno(), self._ready)

    @classmethod
    def accept(
        cls, accepted: socket.socket, pump: Pump, offer: Offer, receive: Receive, closed: Closed
    ) -> Connection:
        """Take an accepted socket over."""
        return cls(accepted, pump, Session(offer), receive, closed)

    @property
    def open(self) -> bool:
        """Whether anything can still be sent."""
        return self._open

    def send(self, data: bytes, descriptor: int | None = None) -> None:
        """Send a datagram, or queue it; a client that reads nothing is disconnected.

        A descriptor that goes along is closed here, once it is sent.
        """
        if not self._open:
            descriptors.close([] if descriptor is None else [descriptor])
        elif self._queue or not self._sent(data, descriptor):
            self._enqueue(data, descriptor)

    def _sent(self, data: bytes, descriptor: int | None) -> bool:
        """Try to send; whether that is settled, if only because the connection is at its end."""
        try:
            if descriptor is None:
                self.sock.send(data, _SEND)
            else:
                rights = array.array("i", [descriptor])
                self.sock.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], _SEND)
        except BlockingIOError:
            return False
        except OSError as error:
            self.close(f"send: {error}")
        descriptors.close([] if descriptor is None else [descriptor])
        return True

    def refuse(self, error: ProtocolError) -> None:
        """Tell the client what was wrong; after a fatal error the connection closes."""
        self.send(self.session.refuse(error))
        if error.fatal:
            self.close(str(error))

    def close(self, reason: str) -> None:
        """End the connection."""
        if self._open:
            self._open = False
            self.pump.unregister(self.sock.fileno())
            self.sock.close()
            descriptors.close(descriptor for _, descriptor in self._queue if descriptor is not None)
            self._queue.clear()
            self.closed(self, reason)

    def _enqueue(self, data: bytes, descriptor: int | None) -> None:
        self._queue.append((data, descriptor))
        if len(self._queue) > MAX_QUEUED:
            self.close(f"the client left {MAX_QUEUED} messages unread")
        else:
            self.pump.watch(self.sock.fileno(), READABLE | WRITABLE)

    def _ready(self, events: int) -> None:
        if events & WRITABLE:
            self._flush()
        if self._open and events & ~WRITABLE:
            self._take_some()

    def _flush(self) -> None:
        while self._open and self._queue:
            data, descriptor = self._queue.popleft()
            if not self._sent(data, descriptor):
                self._queue.appendleft((data, descriptor))
                return
        if self._open:
            self.pump.watch(self.sock.fileno(), READABLE)

    def _take_some(self) -> None:
        """Take datagrams as long as they are there at once; if there are more, the pump calls again."""
        if self._pause or not self.pump.alone:
            self._pause = max(0, self._pause - 1)
            self._take_one()
            return
        done = 0
        while done < IN_A_ROW and self._open and self._take_one():
            done += 1
        self._pause = self._vain = pause(done, self._vain)

    def _take_one(self) -> bool:
        """Receive and handle one datagram; whether there was one."""
        try:
            length, found, flags = self._receive()
        except BlockingIOError:
            return False
        except OSError as error:
            self.close(f"receive: {error}")
            return False
        if length:
            self._handle(length, found, flags)
        else:
            descriptors.close(found)
            self.close("the client closed the connection")
        return True

    def _handle(self, length: int, found: list[int], flags: int) -> None:
        try:
            _check_whole(flags, length)
        except ProtocolError as error:
            descriptors.close(found)
            self.refuse(error)
            return
        try:
            self.receive(self, bytes(_ROOM[:length]), found)
        except ProtocolError as error:
            self.refuse(error)

    def _receive(self) -> tuple[int, list[int], int]:
        try:
            return self._receive_once()
        except ConnectionResetError:
            # The peer died with unread messages of ours; what it sent before is still there.
            return self._receive_once()

    def _receive_once(self) -> tuple[int, list[int], int]:
        length, ancillary, flags, _ = self.sock.recvmsg_into([_ROOM], _ANCILLARY, _FLAGS)
        return length, descriptors.received(ancillary) if ancillary else [], flags


def _check_whole(flags: int, length: int) -> None:
    if flags & _TRUNCATED or length > MAX_MESSAGE:
        reason = f"a message has at most {MAX_MESSAGE} bytes"
        raise ProtocolError(NUMBERS["error"]["MALFORMED"], "header.size", length, reason)
    if flags & _LOST:
        reason = "descriptors were lost: too many of them, or this daemon's limit is reached"
        raise ProtocolError(NUMBERS["error"]["DESCRIPTOR"], "descriptors", 0, reason)
