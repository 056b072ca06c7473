"""The flat lane's messages of vfio-user: accesses of one register that are executed and answered in one go.

For REGION_READ and REGION_WRITE of 1, 2, 4 or 8 bytes that come whole, posted ones included, while
nothing of their client is under way.  Everything that is not plain is left to the general way
(`Session`, `Accesses`, `Waits`), before anything was done; a property test holds both to the same.

All of a message but its number and what it writes says what to do and what to reply: these 30
bytes are the key of a table, so that a message is not even taken apart.

Budget, in ns of CPython 3.11, beside that of the access, and 2600 for `recvmsg` and `send`:

    100  the key, copied out of the chunk, and what is known of it
     60  the sequence number of the record
     60  the value of a write
    130  the reply
    150  whether others have to hear of it (`FunctionAttachment`), behind what runs
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from mmiod.attach.accesses import Accesses, Running
from mmiod.attach.waits import Flight, Visit
from mmiod.core.lane import SLOW, Lane
from mmiod.core.places import Place
from mmiod.protocol.vfio_user import Request, table
from mmiod.protocol.vfio_user.requests import within
from mmiod.protocol.vfio_user.table import HEADER, LAYOUTS, NUMBERS
from mmiod.values import READ, WRITE

ACCESS: Final = LAYOUTS["region_access"]
LENGTH: Final = HEADER.size + ACCESS.size
"""Of a message without data."""
ID: Final = 2
"""Bytes of a message's number, which come first."""
KEY: Final = slice(ID, LENGTH)
NUMBER: Final = slice(ID)
CODES: Final = {1: "B", 2: "H", 4: "I", 8: "Q"}
"""Of `struct`, by size of an access."""
DIRECTIONS: Final = {NUMBERS["REGION_READ"]: READ, NUMBERS["REGION_WRITE"]: WRITE}
MAX_KNOWN: Final = 4096
MOST: Final = 64
"""Messages of one chunk, after which others get their turn."""

Pack = Callable[[bytes, bytes, int], bytes]
"""A reply, of its number, what follows that and what was read."""


class Known:
    """A kind of message: all of it but its number and its data."""

    def __init__(self, place: Place, written: int, read: int, reply: bytes) -> None:
        self.place = place
        self.length = LENGTH + written
        """Of the message; `written` bytes of it are for the register."""
        self.written, self.read = written, read
        self.reply = reply
        """Between its number and the `read` bytes from the register; nothing if none is wanted."""
        self.pack: Pack = struct.Struct(f"<{ID}s{len(reply)}s{CODES[read]}").pack if read else _unread
        self.runs = not place.stored
        """Something of the device, which may send, or answer what it owed."""


class FlatFunction:
    """The lane of one function's client.

    `start` begins a message that waits for the device; `after` is called when something ran.
    """

    def __init__(
        self,
        lane: Lane,
        accesses: Accesses,
        visit: Visit,
        start: Callable[[Visit, Flight], None],
        after: Callable[[], None],
    ) -> None:
        self.lane, self.accesses, self.visit, self.start, self.after = lane, accesses, visit, start, after
        self.cause, self._send = accesses.machine.cause, visit.stream.send
        self.known: dict[bytes, Known] = {}

    def forget(self) -> None:
        """The guest sees regions elsewhere, or the device is another one."""
        self.known.clear()

    def take(self, chunk: bytes) -> bytes | None:
        """Do what is plain, from the front; the rest is for the general way, and None if there is none.

        If it is nothing the last one done waits for the device now.
        """
        known = self.known.get(chunk[KEY])
        if known is None or len(chunk) != known.length:
            return self._several(chunk)
        cause = self.cause
        sequence = cause.sequence + 1
        value = int.from_bytes(chunk[LENGTH:], "little") if known.written else 0
        answer = self.lane.access(known.place, value, -1, sequence, -1)
        if answer == SLOW:
            cause.sequence = sequence - 1
            self._look_again(known.place)
            return chunk
        cause.sequence = sequence  # the lane may have put it back to none
        if answer.__class__ is not int:  # much cheaper than to ask for `Pending`
            self._owe(chunk, known)
            return b""
        if known.reply:
            self._send(known.pack(chunk[NUMBER], known.reply, answer))
        if known.runs:
            self.after()
        return None

    def _several(self, chunk: bytes) -> bytes | None:
        """The same of at most `MOST` messages, while they are answered at once."""
        at, length = 0, len(chunk)
        for _ in range(MOST):
            key = chunk[at + ID : at + LENGTH]
            known = self.known.get(key) or self._learn(key)
            if known is None or at + known.length > length:
                break
            rest = self.take(chunk[at : at + known.length])
            if rest:
                break
            at += known.length
            if rest is not None:
                break
            if at == length:
                return None
            if not self.visit.stream.ready:
                break
        return chunk[at:]

    def _look_again(self, place: Place) -> None:
        if place.device is not place.host.device:
            self.forget()

    def _owe(self, message: bytes, known: Known) -> None:
        header, echo = HEADER.read(message), message[HEADER.size : LENGTH]
        request = Request(header["id"], header["command"], not known.reply)
        self.start(self.visit, Flight(request, _settled(echo, known.read), echo + b"\xff" * known.read))

    def _learn(self, key: bytes) -> Known | None:
        """What a message asks for, if it is whole and plain."""
        if len(key) < LENGTH - ID:
            return None
        header, asked = HEADER.read(bytes(ID) + key), ACCESS.read(key[HEADER.size - ID :])
        direction, size = DIRECTIONS.get(header["command"]), asked["count"]
        written = size if direction == WRITE else 0
        if (
            direction is None
            or size not in CODES
            or header["size"] != LENGTH + written
            or header["flags"] & ~table.NO_REPLY
            or header["error"]  # says nothing here, but would make more keys
            or not within(self.visit.session.shape, asked["region"], asked["offset"], size)
        ):
            return None
        place = self.accesses.place(asked["region"], asked["offset"], size, direction)
        if place is None:
            return None
        read = size - written
        head = HEADER.pack(command=header["command"], size=LENGTH + read, flags=table.REPLY)
        reply = b"" if header["flags"] else head[ID:] + key[HEADER.size - ID :]
        if len(self.known) >= MAX_KNOWN:
            self.forget()
        known = self.known[key] = Known(place, written, read, reply)
        return known


def _unread(number: bytes, reply: bytes, _value: int) -> bytes:
    return number + reply


def _settled(echo: bytes, read: int) -> Running:
    """A message that waits for the device: the payload of its reply."""
    value = yield True
    assert value is not None, "a device that owes an answer settles with one"
    return echo + value.to_bytes(read, "little")
