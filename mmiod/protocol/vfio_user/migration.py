"""A function's migration: its states, the ways between them, and its saved state as clients carry it.

Clients carry bytes and do not look at them.  They may drop what they were given before the function
was stopped, even in the middle, or bring it along with what came after that.  So a saved state travels
in parcels, each of which says to which state it belongs, and where: what the last whole one was is
plain in any case.  A reply to MIG_DATA_READ is one parcel.

Specification: QEMU docs/interop/vfio-user.rst, "VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE"; Linux
include/uapi/linux/vfio.h, enum vfio_device_mig_state.
"""

from __future__ import annotations

import enum
import struct
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Final

from attrs import define, field

from mmiod.protocol.vfio_user.requests import check, refused

MAX_STATE: Final = 64 << 20
"""Bytes of a saved state."""
PARCEL: Final = struct.Struct("<HHIII")
"""Magic number, number of the saved state, place in it, its length, bytes that follow."""
MAGIC: Final = 0x6D6D


class State(enum.IntEnum):
    """Of a function that may migrate; those of peer-to-peer DMA are not here."""

    ERROR = 0
    STOP = 1
    RUNNING = 2
    STOP_COPY = 3
    RESUMING = 4
    PRE_COPY = 6


RUNS: Final = frozenset({State.RUNNING, State.PRE_COPY})
"""The states in which a function works; in the others it gets no input."""
GIVES: Final = frozenset({State.PRE_COPY, State.STOP_COPY})
"""Those in which there is something to read."""
ARCS: Final[Mapping[State, tuple[State, ...]]] = {
    State.ERROR: (),
    State.STOP: (State.RUNNING, State.STOP_COPY, State.RESUMING),
    State.RUNNING: (State.STOP, State.PRE_COPY),
    State.STOP_COPY: (State.STOP,),
    State.RESUMING: (State.STOP,),
    State.PRE_COPY: (State.RUNNING, State.STOP_COPY),
}
"""Single steps; of equally short ways the first is gone, which does not lead through a data transfer."""
FORBIDDEN: Final = (State.STOP_COPY, State.PRE_COPY)
"""Who was stopped to be copied has no early copy any more."""


def path(before: State, after: int) -> tuple[State, ...]:
    """The fewest steps from one state to another.

    Raises:
        ProtocolError: there is no such state, or no way; the connection goes on.
    """
    known = after in set(State) and State.ERROR not in {before, after}
    check(known and (before, after) != FORBIDDEN, "device_state.state", after, f"not from {before.name}")
    ways: deque[tuple[State, ...]] = deque([()])
    while True:
        way = ways.popleft()
        last = way[-1] if way else before
        if last == after:
            return way
        ways.extend((*way, step) for step in ARCS[last] if step not in way)


@define(eq=False)
class Outgoing:
    """A saved state that is being read."""

    number: int
    data: bytes
    _sent: int = 0

    def take(self, size: int) -> bytes:
        """The next parcel, of at most `size` bytes; none when all was read.

        Raises:
            ProtocolError: not even one byte would fit; the connection goes on.
        """
        check(size > PARCEL.size, "mig_data.size", size, f"more than {PARCEL.size}")
        start = self._sent
        part = self.data[start : start + size - PARCEL.size]
        self._sent += len(part)
        head = PARCEL.pack(MAGIC, self.number & 0xFFFF, start, len(self.data), len(part))
        return head + part if part else b""


@define(eq=False)
class Incoming:
    """Saved states that are being written, cut anywhere."""

    state: bytes | None = None
    """The last one, once it is whole."""
    _rest: bytearray = field(factory=bytearray)
    _parts: bytearray = field(factory=bytearray)
    _number: int = -1
    _length: int = 0

    def put(self, data: bytes) -> bool:
        """Take what came; whether a state has become whole.

        Raises:
            ProtocolError: it is nothing that `Outgoing` gave; the connection goes on.
        """
        self._rest += data
        whole = False
        for number, place, length, part in self._parcels():
            if place == 0:
                self._number, self._length = number, length
                self._parts.clear()
                self.state = None
            fits = number == self._number and length == self._length and place == len(self._parts)
            check(fits, "mig_data place", place, f"{len(self._parts):#x} comes next, of {self._length:#x}")
            self._parts += part
            whole = len(self._parts) == self._length
            if whole:
                self.state = bytes(self._parts)
        return whole

    def _parcels(self) -> Iterator[tuple[int, int, int, bytes]]:
        while len(self._rest) >= PARCEL.size:
            magic, number, place, length, size = PARCEL.unpack_from(self._rest)
            check(magic == MAGIC, "mig_data magic", magic, f"{MAGIC:#x} begins a part of a saved state")
            check(0 < length <= MAX_STATE, "mig_data length", length, f"at most {MAX_STATE}")
            if not 0 < size <= length - place:
                raise refused("mig_data size", size, f"at {place:#x} of {length:#x}")
            if len(self._rest) < PARCEL.size + size:
                return
            part = bytes(self._rest[PARCEL.size : PARCEL.size + size])
            del self._rest[: PARCEL.size + size]
            yield number, place, length, part

    def finish(self) -> bytes:
        """The last state.

        Raises:
            ProtocolError: none came, or it is not whole; the connection goes on.
        """
        if self.state is None or self._rest:
            raise refused("mig_data", len(self._parts), f"of {self._length} bytes: no whole state came")
        return self.state
