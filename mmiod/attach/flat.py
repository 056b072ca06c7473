"""The flat lane's messages: exits out of slots that are executed and answered in one go.

For EXIT_DECODED of one element, EXIT_RAW of a load or a store, and posted writes, in real time.
Everything that is not plain is left to the general way (`Session.receive`, `Ledger`, `Flights`),
before anything was done: a size, a flag, a number that has to be explained in an ERROR, an exit
that comes again, a device that is not in service.

A read that comes again in a slot is known there by the bytes that tell of what (`asked`, `loads`), and
not even copied (`mmiod.attach.vcpu_slot`): what was learnt of the first one saves the rest of them to
be taken apart and checked.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Final

from attrs import define

from mmiod.attach.flights import Flight, Flights, ReplyTo
from mmiod.attach.loads import CODE, KEEP, RIP, Load, load_of
from mmiod.attach.moved import ENVIRONMENT, MAX_MOVES, NUMBERED, Moved, head_of
from mmiod.core.lane import SLOW, Lane
from mmiod.core.moves import Move
from mmiod.core.places import Place
from mmiod.device import Pending
from mmiod.machine.host import InlineHost
from mmiod.machine.statistics import Taken
from mmiod.machine.waist import Named
from mmiod.protocol.exit import NO_DEADLINE, Ledger, decode_exit
from mmiod.protocol.exit.book import Book
from mmiod.protocol.exit.codec import BY_NAME
from mmiod.values import (
    READ,
    WRITE,
    Access,
    Completion,
    DecodedExit,
    Delta,
    Direction,
    Done,
    Exit,
    RawExit,
    Space,
    Values,
    ones,
)

Settled = Generator[Named, int | None, Completion]
"""Gets what a device has answered; gives the completion."""

DECODED: Final = BY_NAME["EXIT_DECODED"]
RAW: Final = BY_NAME["EXIT_RAW"]
SIZES: Final = (1, 2, 4, 8)


_DECODED: Final = struct.Struct("<8Q")
"""Header, vCPU, sequence, guest time, address, value, kind; stride and what is reserved."""
_KIND: Final = struct.Struct("<BBHI")
"""Of EXIT_DECODED: space, direction, size, count."""
_VCPU: Final = struct.Struct("<Q")
"""Behind the header, which is as long."""
_DECODED_SIZE: Final = DECODED.struct.size
_SIZES: Final = (_DECODED_SIZE, RAW.struct.size)
_POSTED: Final = struct.Struct("<4Q")
"""Of a ring: address, value; space and size; guest time."""
_VALUES: Final = struct.Struct("<8Q")
ASKED: Final = slice(24, 64)
"""Of EXIT_DECODED: all behind the sequence."""
VALUES_HEAD: Final = head_of(BY_NAME["VALUES"])
DECODED_HEAD: Final = head_of(DECODED)
INTERRUPT: Final = 1 << 32
"""Of a completion's second word, above the vCPU."""


@define(eq=False)
class Kind:
    """Accesses of one space, direction and size; `most` is the largest value that one brings."""

    space: Space
    direction: Direction
    size: int
    most: int
    length: int
    """Bytes that VALUES brings."""
    places: dict[int, Place]


class Flat:
    """One session's.  A plain class: `mmiod.compiled` makes a C structure of it.

    `flush` goes on with what devices have answered meanwhile.
    """

    def __init__(self, lane: Lane, flights: Flights, ledger: Ledger, flush: Callable[[], None]) -> None:
        self.lane, self.flights, self.ledger, self.flush = lane, flights, ledger, flush
        self.asked: dict[bytes, Place] = {}
        """Reads, by the part of EXIT_DECODED that tells of what (`ASKED`)."""
        self.loads: dict[bytes, Load] = {}
        """The same of EXIT_RAW, by GPA and code (`mmiod.attach.loads`)."""
        lane.learnt = self.asked, self.loads
        self.taken: Taken = flights.totals.taken
        self.current: Mapping[int, Flight] = flights.current
        self.interrupts: Mapping[int, bool] = lane.machine.interrupts
        self.settled: Sequence[object] = lane.machine.settled
        """What devices have answered, and `flush` has to go on with."""
        self._books = [ledger.book(vcpu) for vcpu in range(ledger.vcpus)]
        self._moved = Moved(flights.platform)
        self._kinds: dict[int, Kind] = {}
        self._posted: dict[int, Kind] = {}
        self._moving: dict[tuple[Direction, int], Kind] = {}
        for space in (Space.MMIO, Space.PIO, Space.PCI_CONFIG):
            for size in SIZES:
                for direction in (READ, WRITE):
                    self._add(space, direction, size)

    def _add(self, space: Space, direction: Direction, size: int) -> None:
        most, length = (ones(size), 0) if direction == WRITE else (0, size)
        places = self.lane.kind(space, direction, size)
        kind = Kind(space, direction, size, most, length, places)
        self._kinds[int.from_bytes(_KIND.pack(space, direction, size, 1), "little")] = kind
        if direction == WRITE:
            self._posted[space | size << 16] = kind
        if space is Space.MMIO:
            self._moving[direction, size] = kind

    def message(self, body: bytes, reply_to: ReplyTo) -> bool:
        """Execute and answer a datagram, which may be any message of any vCPU; False if nothing was done."""
        size = len(body)
        if self.ledger.paused or size not in _SIZES:
            return False
        (vcpu,) = _VCPU.unpack_from(body, _VCPU.size)
        if vcpu >= len(self._books):
            return False
        if size == _DECODED_SIZE:
            reply = self.decoded(vcpu, body, reply_to)
        else:
            reply = self.raw(vcpu, body, reply_to)
        if reply:
            reply_to.send(reply)
            self.settle()
        return reply is not None

    def settle(self) -> None:
        """After a reply: go on with what the exit had devices answer."""
        if self.settled:
            self.flush()

    def decoded(self, vcpu: int, body: bytes, reply_to: ReplyTo) -> bytes | None:
        """Execute an exit of the size of EXIT_DECODED; its reply.

        None if nothing was done; nothing if a device owes the answer, which then goes to `reply_to`.
        """
        header, who, sequence, guest_ns, address, value, what, rest = _DECODED.unpack(body)
        kind, book = self._kinds.get(what), self._books[vcpu]
        if (
            kind is None
            or rest
            or header != DECODED_HEAD
            or who != vcpu
            or sequence != book.sequence + 1
            or book.in_flight
            or vcpu in self.current
            or value > kind.most
        ):
            return None
        place = kind.places.get(address)
        if place is None:
            place = self._learn(kind, address)
            if place is None:
                return None
        if place.reading and not guest_ns:  # else there would be no end of them
            self.asked[body[ASKED]] = place
        answer = self.lane.access(place, value, vcpu, sequence, -1)
        if answer.__class__ is not int:
            self.owe_decoded(book, body, place, reply_to)
            return b""
        if answer < 0:
            return None
        reply = _VALUES.pack(
            VALUES_HEAD, self.who(vcpu), sequence, book.posted,
            0, NO_DEADLINE, answer, kind.length,
        )  # fmt: skip
        book.enter(sequence, body, reply, in_flight=False)
        self.taken.decoded += 1
        return reply

    def _learn(self, kind: Kind, address: int) -> Place | None:
        """The place; of memory, at the address without its attribute bits."""
        at = address & ~self.flights.platform.shared_mask if kind.space is Space.MMIO else address
        return None if at != address else self.lane.learn(kind.space, kind.direction, kind.size, address)

    def owe_decoded(self, book: Book, body: bytes, place: Place, reply_to: ReplyTo) -> None:
        """A device owes what completes this exit."""
        exit_, _ = decode_exit(body)
        assert isinstance(exit_, DecodedExit)

        self._owe(book, body, exit_, _values(place), place.host, reply_to)

    def _owe(
        self,
        book: Book,
        body: bytes,
        exit_: Exit,
        run: Settled,
        host: InlineHost,
        reply_to: ReplyTo,
    ) -> None:
        book.enter(exit_.sequence, body, b"", in_flight=True)
        self.flights.owed(Flight(exit_.vcpu, exit_.sequence, exit_, 0, reply_to, run=run), host)

    # --- posted writes -------------------------------------------------------------------

    def posted(self, vcpu: int, sequence: int, entry: bytes) -> bool:
        """Apply a posted write; False if nothing was done."""
        address, value, what, _ = _POSTED.unpack(entry)
        kind, book = self._posted.get(what), self._books[vcpu]
        if (
            kind is None
            or value > kind.most
            or sequence != book.posted + 1
            or book.in_flight
            or vcpu in self.current
        ):
            return False
        place = kind.places.get(address)
        if place is None:
            place = self._learn(kind, address)
            if place is None:
                return False
        answer = self.lane.access(place, value, vcpu, sequence, -1)
        if answer == SLOW:
            return False
        book.posted = sequence
        if isinstance(answer, Pending):
            self._owe_posted(vcpu, sequence, place, value)
        else:
            self.taken.decoded += 1
        self.settle()
        return True

    def _owe_posted(self, vcpu: int, sequence: int, place: Place, value: int) -> None:
        write = Access(place.space, WRITE, place.address, place.size, value)
        exit_ = DecodedExit(
            vcpu, sequence, write.space, WRITE, write.address, write.size,
            data=value.to_bytes(write.size, "little"),
        )  # fmt: skip
        self.flights.owed(Flight(vcpu, sequence, exit_, 0, None, run=_nothing(place)), place.host)

    # --- raw exits -----------------------------------------------------------------------

    def raw(self, vcpu: int, body: bytes, reply_to: ReplyTo) -> bytes | None:
        """Execute an exit of the size of EXIT_RAW, as `decoded` does."""
        book = self._books[vcpu]
        sequence = book.sequence + 1
        if book.in_flight or vcpu in self.current:
            return None
        load = self.loads.get(body[CODE])
        if load is not None:
            words = memoryview(body).cast("Q")
            rip, rflags = words[RIP], words[RIP + 1]
            if load.holds(words, 0, vcpu, sequence, rip, rflags, body[ENVIRONMENT]):
                return self._load_again(load, vcpu, body, rip, rflags, reply_to)
        moved = self._moved
        gpa = moved.read(body, vcpu, sequence)
        if gpa < 0:
            return None
        move = moved.move
        kind = self._moving.get((move.direction, move.size))
        if kind is None:
            return None
        place = kind.places.get(gpa)
        if place is None:
            place = self._learn(kind, gpa)
            if place is None:
                return None
        if load is None:
            self._learn_load(body, place)
        value = move.value(moved.registers) if move.direction else 0
        answer = self.lane.access(place, value, vcpu, sequence, moved.rip)
        if answer.__class__ is not int:
            self.owe_raw(book, body, move, place, reply_to)
            return b""
        if answer < 0:
            return None
        reply = moved.done(self.who(vcpu), sequence, book.posted, answer)
        book.enter(sequence, body, reply, in_flight=False)
        self.taken.raw += 1
        return reply

    def _load_again(
        self, load: Load, vcpu: int, body: bytes, rip: int, rflags: int, reply_to: ReplyTo
    ) -> bytes | None:
        book = self._books[vcpu]
        sequence = book.sequence + 1
        value = self.lane.read(load.place, vcpu, sequence, rip)
        if isinstance(value, Pending):
            self.owe_raw(book, body, load.move, load.place, reply_to)
            return b""
        if value < 0:
            return None
        _, reply = load.told(
            body, self.who(vcpu), sequence, book.posted, value, load.behind(rip), rflags & KEEP
        )
        book.enter(sequence, body, reply, in_flight=False)
        self.taken.raw += 1
        return reply

    def who(self, vcpu: int) -> int:
        """Of a completion's second word."""
        return vcpu | INTERRUPT if self.interrupts.get(vcpu) else vcpu

    def _learn_load(self, body: bytes, place: Place) -> None:
        load = load_of(self._moved.move, body, place)
        if load is not None:
            if len(self.loads) >= MAX_MOVES:
                self.loads.clear()
            self.loads[body[CODE]] = load

    def owe_raw(self, book: Book, body: bytes, move: Move, place: Place, reply_to: ReplyTo) -> None:
        """The same of a raw exit."""
        exit_, _ = decode_exit(body)
        assert isinstance(exit_, RawExit)
        rip, rflags = move.behind(exit_.state.rip, exit_.state.rflags)
        registers = memoryview(struct.pack("16Q", *exit_.state.gpr)).cast("Q")
        self._owe(book, body, exit_, _loaded(place, move, registers, rip, rflags), place.host, reply_to)


def asked_message(vcpu: int, sequence: int, asked: bytes) -> bytes:
    """EXIT_DECODED, of the part that tells of what."""
    return NUMBERED.pack(DECODED_HEAD, vcpu, sequence) + asked


def asked_and_told(
    vcpu: int, asked: bytes, who: int, sequence: int, posted: int, value: int, length: int
) -> tuple[bytes, bytes]:
    """EXIT_DECODED and its VALUES."""
    told = _VALUES.pack(VALUES_HEAD, who, sequence, posted, 0, NO_DEADLINE, value, length)
    return asked_message(vcpu, sequence, asked), told


def _values(place: Place) -> Settled:
    """What completes a decoded exit once its device has answered."""
    value = yield place.host
    assert value is not None, "a device that owes an answer settles with one"
    return Values(value.to_bytes(place.size, "little") if place.reading else b"")


def _nothing(place: Place) -> Settled:
    """The same of a posted write."""
    yield place.host
    return Values()


def _loaded(place: Place, move: Move, registers: Sequence[int], rip: int, rflags: int) -> Settled:
    """The same of a raw exit."""
    value = yield place.host
    assert value is not None, "a device that owes an answer settles with one"
    changed = {move.number: move.loaded(registers, value)} if place.reading else dict[int, int]()
    return Done(Delta(rip, rflags, changed))
