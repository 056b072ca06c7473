"""The flat lane's messages: exits out of slots that are executed and answered in one go.

For EXIT_DECODED of one element, EXIT_RAW of a load or a store, and posted writes, in real time.
Everything that is not plain is left to the general way (`Session.receive`, `Ledger`, `Flights`),
before anything was done: a size, a flag, a number that has to be explained in an ERROR, an exit
that comes again, a device that is not in service.

Reads are known again by the bytes that tell of what (`_asked`, `mmiod.attach.loads`): what was learnt
of the first one saves the rest of them to be taken apart and checked.

Budget, in ns of CPython 3.11, beside that of `mmiod.core.lane`:

    decoded  raw
        50  100  the message, copied out of the slot
       130  350  which read it is; of a load also environment, base register, RIP, RFLAGS
        60   60  vCPU, number, nothing in flight
       100  200  the completion
       110  110  book, totals
       300  300  doorbell, state, posted writes; into the slot, its client's flag
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Final

from attrs import define, field

from mmiod.attach.flights import Flight, Flights, ReplyTo, Totals
from mmiod.attach.loads import CODE, Load, load_of
from mmiod.attach.moved import MAX_MOVES, Moved, head_of
from mmiod.core.lane import SLOW, Lane, Way
from mmiod.core.moves import Move
from mmiod.core.places import Place
from mmiod.device import Pending
from mmiod.machine.host import InlineHost
from mmiod.machine.waist import Named
from mmiod.protocol.exit import NO_DEADLINE, Ledger, decode_exit
from mmiod.protocol.exit.codec import BY_NAME
from mmiod.protocol.exit.ledger import Book
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
_VALUE: Final = struct.Struct("<16sQQ16sQQ")
"""The same, by what stays the same."""
_NUMBER: Final = struct.Struct("<16sQ")
"""Of any exit: header and vCPU, sequence."""
_ASKED: Final = slice(24, 64)
"""Of EXIT_DECODED: all behind the sequence."""
_LATER: Final = struct.pack("<2Q", 0, NO_DEADLINE)
_VALUES_HEAD: Final = head_of(BY_NAME["VALUES"])
_DECODED_HEAD: Final = head_of(DECODED)
_INTERRUPT: Final = 1 << 32
"""Of a completion's second word, above the vCPU."""

_head: Final = struct.Struct("<2Q").pack
"""Of a message: header, vCPU and interrupt."""


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


@define(eq=False)
class Flat:
    """One session's."""

    lane: Lane
    flights: Flights
    ledger: Ledger
    flush: Callable[[], None]
    """Goes on with what devices have answered meanwhile."""
    _books: list[Book] = field(init=False)
    _heads: list[tuple[bytes, bytes, bytes]] = field(init=False)
    """Of each vCPU: how an EXIT_DECODED begins, a VALUES, and one that tells of an interrupt."""
    _asked: dict[bytes, tuple[Way, Place]] = field(factory=dict)
    """Reads, by the part of EXIT_DECODED that tells of what."""
    _loads: dict[bytes, Load] = field(factory=dict)
    """The same of EXIT_RAW, by GPA and code."""
    _totals: Totals = field(init=False)
    _access: Way = field(init=False)
    _current: Mapping[int, Flight] = field(init=False)
    _interrupts: Mapping[int, bool] = field(init=False)
    settled: Sequence[object] = field(init=False)
    """What devices have answered, and `flush` has to go on with."""
    _kinds: dict[int, Kind] = field(factory=dict)
    _posted: dict[int, Kind] = field(factory=dict)
    _moving: dict[tuple[Direction, int], Kind] = field(factory=dict)
    _moved: Moved = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make the tables, and look up the objects, that no exit needs to."""
        machine = self.lane.machine
        self._access, self._current = self.lane.access, self.flights.current
        self._totals, self.lane.learnt = self.flights.totals, (self._asked, self._loads)
        self._heads = [
            (_head(_DECODED_HEAD, vcpu), _head(_VALUES_HEAD, vcpu), _head(_VALUES_HEAD, vcpu | _INTERRUPT))
            for vcpu in range(self.ledger.vcpus)
        ]
        self._interrupts, self.settled = machine.interrupts, machine.settled
        self._books = [self.ledger.book(vcpu) for vcpu in range(self.ledger.vcpus)]
        self._moved = Moved(self.flights.platform)
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
        reply = (self.decoded if size == _DECODED_SIZE else self.raw)(vcpu, body, reply_to)
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
        known = self._asked.get(body[_ASKED])
        if known is None:
            return self._decoded(vcpu, body, reply_to)
        book = self._books[vcpu]
        asks, answers, interrupts = self._heads[vcpu]
        head, sequence = _NUMBER.unpack_from(body)
        if head != asks or sequence != book.sequence + 1 or book.in_flight or vcpu in self._current:
            return None
        way, place = known
        value = way(place, 0, vcpu, sequence, -1)
        if value.__class__ is not int:
            self._owe_decoded(book, body, place, reply_to)
            return b""
        if value < 0:
            return None
        if self._interrupts.get(vcpu):
            answers = interrupts
        reply = _VALUE.pack(answers, sequence, book.posted, _LATER, value, place.size)
        book.sequence, book.body, book.reply = sequence, body, reply
        self._totals.decoded += 1
        return reply

    def _decoded(self, vcpu: int, body: bytes, reply_to: ReplyTo) -> bytes | None:
        header, who, sequence, guest_ns, address, value, what, rest = _DECODED.unpack(body)
        kind, book = self._kinds.get(what), self._books[vcpu]
        if (
            kind is None
            or rest
            or header != _DECODED_HEAD
            or who != vcpu
            or sequence != book.sequence + 1
            or book.in_flight
            or vcpu in self._current
            or value > kind.most
        ):
            return None
        place = kind.places.get(address)
        if place is None:
            place = self._learn(kind, address)
            if place is None:
                return None
            if place.reading and not guest_ns:  # else there would be no end of them
                self._asked[body[_ASKED]] = self.lane.way(place), place
        access = self._access
        answer = access(place, value, vcpu, sequence, -1)
        if answer.__class__ is not int:
            self._owe_decoded(book, body, place, reply_to)
            return b""
        if answer < 0:
            return None
        reply = _VALUES.pack(
            _VALUES_HEAD, who | _INTERRUPT if self._interrupts.get(vcpu) else who, sequence, book.posted,
            0, NO_DEADLINE, answer, kind.length,
        )  # fmt: skip
        book.sequence, book.body, book.reply = sequence, body, reply
        self._totals.decoded += 1
        return reply

    def _learn(self, kind: Kind, address: int) -> Place | None:
        """The place; of memory, at the address without its attribute bits."""
        at = address & ~self.flights.platform.shared_mask if kind.space is Space.MMIO else address
        return None if at != address else self.lane.learn(kind.space, kind.direction, kind.size, address)

    def _owe_decoded(self, book: Book, body: bytes, place: Place, reply_to: ReplyTo) -> None:
        exit_, _ = decode_exit(body)
        assert isinstance(exit_, DecodedExit)

        def settled() -> Generator[Named, int | None, Completion]:
            value = yield place.host
            assert value is not None, "a device that owes an answer settles with one"
            return Values(value.to_bytes(place.size, "little") if place.direction == READ else b"")

        self._owe(book, body, exit_, settled(), place.host, reply_to)

    def _owe(
        self,
        book: Book,
        body: bytes,
        exit_: Exit,
        run: Generator[Named, int | None, Completion],
        host: InlineHost,
        reply_to: ReplyTo,
    ) -> None:
        book.sequence, book.body, book.reply, book.in_flight = exit_.sequence, body, b"", True
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
            or vcpu in self._current
        ):
            return False
        place = kind.places.get(address)
        if place is None:
            place = self._learn(kind, address)
            if place is None:
                return False
        access = self._access
        answer = access(place, value, vcpu, sequence, -1)
        if answer == SLOW:
            return False
        book.posted = sequence
        if isinstance(answer, Pending):
            self._owe_posted(vcpu, sequence, place, value)
        else:
            self._totals.decoded += 1
        self.settle()
        return True

    def _owe_posted(self, vcpu: int, sequence: int, place: Place, value: int) -> None:
        def settled() -> Generator[Named, int | None, Completion]:
            yield place.host
            return Values()

        write = Access(place.space, WRITE, place.address, place.size, value)
        exit_ = DecodedExit(
            vcpu, sequence, write.space, WRITE, write.address, write.size,
            data=value.to_bytes(write.size, "little"),
        )  # fmt: skip
        self.flights.owed(Flight(vcpu, sequence, exit_, 0, None, run=settled()), place.host)

    # --- raw exits -----------------------------------------------------------------------

    def raw(self, vcpu: int, body: bytes, reply_to: ReplyTo) -> bytes | None:
        """Execute an exit of the size of EXIT_RAW, as `decoded` does."""
        book = self._books[vcpu]
        sequence = book.sequence + 1
        if book.in_flight or vcpu in self._current:
            return None
        load = self._loads.get(body[CODE])
        if load is not None:
            value = load.read(body, vcpu, sequence)
            if value.__class__ is not int:
                self._owe_raw(book, body, load.move, load.place, reply_to)
                return b""
            if value >= 0:
                reply = load.done(body, self._who(vcpu), book.posted, value)
                book.sequence, book.body, book.reply = sequence, body, reply
                self._totals.raw += 1
                return reply
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
        access = self._access
        answer = access(place, value, vcpu, sequence, moved.rip)
        if answer.__class__ is not int:
            self._owe_raw(book, body, move, place, reply_to)
            return b""
        if answer < 0:
            return None
        reply = moved.done(self._who(vcpu), sequence, book.posted, answer)
        book.sequence, book.body, book.reply = sequence, body, reply
        self._totals.raw += 1
        return reply

    def _who(self, vcpu: int) -> int:
        """Of a completion's second word."""
        return vcpu | _INTERRUPT if self._interrupts.get(vcpu) else vcpu

    def _learn_load(self, body: bytes, place: Place) -> None:
        load = load_of(self._moved.move, body, self.lane.way(place), place)
        if load is not None:
            if len(self._loads) >= MAX_MOVES:
                self._loads.clear()
            self._loads[body[CODE]] = load

    def _owe_raw(self, book: Book, body: bytes, move: Move, place: Place, reply_to: ReplyTo) -> None:
        exit_, _ = decode_exit(body)
        assert isinstance(exit_, RawExit)
        rip, rflags = move.behind(exit_.state.rip, exit_.state.rflags)
        registers = memoryview(struct.pack("16Q", *exit_.state.gpr)).cast("Q")

        def settled() -> Generator[Named, int | None, Completion]:
            value = yield place.host
            assert value is not None, "a device that owes an answer settles with one"
            loads = move.direction == READ
            changed = {move.number: move.loaded(registers, value)} if loads else dict[int, int]()
            return Done(Delta(rip, rflags, changed))

        self._owe(book, body, exit_, settled(), place.host, reply_to)
