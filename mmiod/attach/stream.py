"""One SOCK_STREAM connection: bytes and descriptors in, bytes out, never waiting.

While the peer does not read what it was answered nothing is read from it, so that what
waits here is the answer to one message at most.

A peer on our CPU runs as soon as it is answered, and its next message is there when our `send` returns: that
is looked for at once, as long as it pays.  Such messages leave the kernel's queue together, before others
have their turn: room there wakes a sender that waits for our answer, in vain, at the price of two switches.
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
from mmiod.attach.pause import IN_A_ROW, pause
from mmiod.core.pump import READABLE, WRITABLE, Pump
from mmiod.errors import ProtocolError

CHUNK: Final = 1 << 16
"""Bytes that are read at once."""
_RECEIVE: Final = socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC
_PEEK: Final = _RECEIVE | socket.MSG_PEEK
_SO_PEEK_OFF: Final = 42
"""From where on the next look is (socket(7))."""
_SEND: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_TRUNCATED: Final = int(socket.MSG_CTRUNC)
"""A plain number: `&` with a member of an enum takes 1 us."""
_PEER: Final = struct.Struct("3i")

Receive = Callable[[bytes, list[int]], None]
Plain = Callable[[bytes], bytes | None]
Closed = Callable[[str], None]
Data = bytes | bytearray
Ancillary = tuple[int, int, bytes]


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
    plain: Plain | None = None
    """Gets what came without descriptors first; what it gives back goes to `receive`, unless that is None."""
    peer: tuple[int, int, int] = field(init=False)
    """pid, uid and gid of who connected."""
    _right: tuple[int, int] | None = None
    """How many bytes are before a descriptor that is to be sent, and the descriptor; it stays ours."""
    _held: bool = False
    _blocked: bool = False
    """Watched for room to send: for nearly all replies there is, and no call of epoll's is needed."""
    _open: bool = True
    _reads: bool = field(init=False)
    """Open, not held, and the peer has taken all that it was sent."""
    _pause: int = 0
    """Chunks until it is looked for the next one at once."""
    _vain: int = 0
    """The last such pause, if that was in vain again."""
    _looked: int = 0
    """Bytes that were looked at, and are to be taken out."""
    _space: int = field(init=False)
    _receive_some: Callable[[int, int, int], tuple[bytes, list[Ancillary], int, object]] = field(init=False)
    _send_some: Callable[[Data, int], int] = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Read the peer's credentials and begin to listen."""
        self.sock.setblocking(False)
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)  # else a look finds what `recv` skips
        self.sock.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
        self._space = socket.CMSG_SPACE(4 * self.max_descriptors)
        self._blocked, self._reads = bool(self._unsent), not self._unsent
        self._receive_some, self._send_some = self.sock.recvmsg, self.sock.send
        self.peer = _PEER.unpack(self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
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

    def send(self, data: Data, descriptor: int | None = None) -> None:
        """Send, as far as the peer takes it now; the rest goes when it does.

        A descriptor goes with the first byte of `data`; one at a time, until that is sent.
        """
        if not data:
            return
        if self._reads and descriptor is None:  # nearly always, and all of it goes
            try:
                sent = self._send_some(data, _SEND)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                self.close(f"send: {error}")
                return
            if sent == len(data):
                return
            data = data[sent:]
        if self._open:
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
            self._open = self._reads = False
            self._take_out()  # else the peer is told of a reset, and not of an end
            self.pump.unregister(self.sock.fileno())
            self.sock.close()
            self.closed(reason)

    def _watch(self) -> None:
        self._reads = not (self._held or self._unsent)
        reading = READABLE if self._reads else select.EPOLLRDHUP
        self.pump.watch(self.sock.fileno(), reading | (WRITABLE if self._unsent else 0))

    def _flush(self) -> None:
        try:
            del self._unsent[: self._send_unsent()]
        except BlockingIOError:
            pass
        except OSError as error:
            self.close(f"send: {error}")
            return
        if bool(self._unsent) != self._blocked:
            self._blocked = not self._blocked
            self._watch()

    def _send_unsent(self) -> int:
        """Bytes that the peer takes now."""
        if self._right is None:
            return self._send_some(self._unsent, _SEND)
        before, descriptor = self._right
        if before:
            sent = self._send_some(self._unsent[:before], _SEND)
            self._right = before - sent, descriptor
            return sent
        rights = array.array("i", [descriptor])
        sent = self.sock.sendmsg([self._unsent], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], _SEND)
        self._right = None
        return sent

    def _ready(self, events: int) -> None:
        if not self._reads:
            self._ready_to_send(events)
        elif self._pause or not self.pump.alone:
            self._pause = max(0, self._pause - 1)
            self._read(1, _RECEIVE)
        else:
            self._read(IN_A_ROW, _PEEK)
            self._take_out()

    def _read(self, chunks: int, how: int) -> None:
        """Read one, or look at as many, as long as they are there and plain."""
        done = 0
        for _ in range(chunks):
            try:
                chunk, ancillary, flags, _ = self._receive_some(CHUNK, self._space, how)
            except BlockingIOError:
                break
            except OSError as error:
                self.close(f"receive: {error}")
                break
            if chunks > 1:
                if ancillary or flags & _TRUNCATED:  # a look that is full finds those of what is next, too
                    descriptors.close(descriptors.received(ancillary))
                    self._take_out()
                    self._read(1, _RECEIVE)
                    break
                self._looked += len(chunk)
            plain = self.plain
            if plain is None or ancillary or flags & _TRUNCATED or not chunk:
                self._take(chunk, ancillary, flags)
                break
            rest = plain(chunk)
            if rest is not None:
                self._receive(rest, [])
                break
            if not self._reads:
                break
            done += 1
        if chunks > 1:
            self._pause = self._vain = pause(done, self._vain)

    def _take_out(self) -> None:
        """What was looked at is done."""
        length, self._looked = self._looked, 0
        try:
            while length:
                length -= len(self.sock.recv(length)) or length
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

    def _take(self, chunk: bytes, ancillary: list[Ancillary], flags: int) -> None:
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
