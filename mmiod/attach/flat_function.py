"""The flat lane's messages of vfio-user: accesses of one register that are executed and answered in one go.

For REGION_READ and REGION_WRITE of 1, 2, 4 or 8 bytes that come whole, posted ones included, while
nothing of their client is under way.  Everything that is not plain is left to the general way
(`Session`, `Accesses`, `Waits`), before anything was done; a property test holds both to the same.

All of a message but its number and what it writes says what to do and what to reply: these 30
bytes are the key of a table, so that a message is not even taken apart.

Budget, in ns of CPython 3.11, beside that of `mmiod.core.lane`, and 5000 for `recvmsg` and `send`:

     90  the key, copied out of the chunk, and what is known of it
     80  the sequence number of the record
     60  the value of a write, or of a read for the reply
    150  the reply
    250  whether others have to hear of it (`FunctionAttachment`)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import define, field

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
SIZES: Final = frozenset({1, 2, 4, 8})
DIRECTIONS: Final = {NUMBERS["REGION_READ"]: READ, NUMBERS["REGION_WRITE"]: WRITE}
MAX_KNOWN: Final = 4096
MOST: Final = 64 * LENGTH
"""Bytes of messages that are done at once."""


@define(eq=False)
class Known:
    """A kind of message: all of it but its number and its data."""

    place: Place
    length: int
    """Of the message."""
    written: int
    """Bytes that it brings for the register."""
    read: int
    """Bytes that the reply has from it."""
    reply: bytes
    """Between its number and what was read; nothing if none is wanted."""


@define(eq=False)
class FlatFunction:
    """The lane of one function's client."""

    lane: Lane
    accesses: Accesses
    visit: Visit
    start: Callable[[Visit, Flight], None]
    """Begins a message that waits for the device."""
    _known: dict[bytes, Known] = field(factory=dict)

    def forget(self) -> None:
        """The guest sees regions elsewhere, or the device is another one."""
        self._known.clear()

    def take(self, chunk: bytes) -> bytes:
        """Do what is plain, from the front; the rest is for the general way.

        The last one done may wait for the device now.
        """
        at, length = 0, len(chunk)
        end = min(length, MOST)
        stream, cause = self.visit.stream, self.accesses.machine.cause
        while at < end:
            key = chunk[at + ID : at + LENGTH]
            known = self._known.get(key) or self._learn(key)
            if known is None or at + known.length > length:
                break
            value = int.from_bytes(chunk[at + LENGTH : at + known.length], "little") if known.written else 0
            before = cause.sequence
            answer = self.lane.access(known.place, value, -1, before + 1, -1)
            if answer == SLOW:
                cause.sequence = before
                self._look_again(known.place)
                break
            cause.sequence = before + 1  # the lane has put it back to none
            number = chunk[at : at + ID]
            at += known.length
            if answer.__class__ is not int:  # much cheaper than to ask for `Pending`
                self._owe(number, key, known)
                break
            if known.reply:
                stream.send(number + known.reply + answer.to_bytes(known.read, "little"))
            if at == length:
                return b""
            if not stream.ready:
                break
        return chunk[at:]

    def _look_again(self, place: Place) -> None:
        if place.device is not place.host.device:
            self.forget()

    def _owe(self, number: bytes, key: bytes, known: Known) -> None:
        header = HEADER.read(number + key)
        echo = key[HEADER.size - ID :]
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
            or size not in SIZES
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
        if len(self._known) >= MAX_KNOWN:
            self.forget()
        known = self._known[key] = Known(place, LENGTH + written, written, read, reply)
        return known


def _settled(echo: bytes, read: int) -> Running:
    """A message that waits for the device: the payload of its reply."""
    value = yield True
    assert value is not None, "a device that owes an answer settles with one"
    return echo + value.to_bytes(read, "little")
