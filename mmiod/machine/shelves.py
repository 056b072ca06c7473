"""The table of published registers: which row is where.  See `mmiod.machine.published`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from mmiod.machine.address_map import Policy, Range
from mmiod.machine.region_rows import Claims, Made, has_rows, rows_of
from mmiod.machine.rows import Kind, Row
from mmiod.values import ones

if TYPE_CHECKING:
    from mmiod.device import Region
    from mmiod.machine.host import InlineHost

MAX_ROWS: Final = 4095
"""With the head they fill 256 KiB."""
ROW: Final = 8
"""Words of a row, and of the head."""
GENERATION, ROWS, ORIGIN = 0, 1, 2
"""Words of the head.  ORIGIN is what CLOCK_MONOTONIC was, in ns, at 0 of the guest's clock."""
ADDRESS, KIND, POLICY, VALUE, AFFECTED, SINCE, RATE, BITS = range(ROW)
"""Words of a row.  VALUE of a counter is the one at SINCE, in ns of the guest's clock."""
LENGTH, TARGET = SINCE, RATE
"""The same of a span or a window."""
WORD: Final = ones(8)
NOBODY: Final = ""
"""The name of what nobody claims."""


@frozen
class Surroundings:
    """What there is to publish."""

    claims: Claims
    hosts: Mapping[str, InlineHost]
    idle: Iterable[Range] = ()
    """Ranges that nobody claims."""


@define(eq=False)
class Shelf:
    """The rows of one device, or of the ranges that nobody claims."""

    host: InlineHost | None
    first: int
    """Its own row, which is its gate."""
    room: int
    """Rows behind that."""
    rows: list[Row]
    moving: list[Row] = field(factory=list)
    """Those that must be looked at after each input."""
    posted: list[Row] = field(factory=list)
    """Those for which others wait."""
    fresh: list[Row] = field(factory=list)
    """Those that were not looked at yet, though others were."""
    following: dict[str, list[Row]] = field(factory=dict)
    """The others, by the registers that they follow."""
    stored: dict[str, int] | None = None
    """What its registers held when all rows were looked at; None: look at all."""
    open: bool = False

    @property
    def gate(self) -> int:
        """Where the policy of its own row is, in words."""
        return ROW * (1 + self.first) + POLICY


@define(eq=False)
class Table:
    """Rows in `words`, 64 bits each; those of a device stand together, behind one of its own."""

    words: memoryview
    around: Callable[[], Surroundings]
    limit: int = MAX_ROWS
    """Rows that there is room for."""
    shelves: dict[str, Shelf] = field(factory=dict)
    """By device."""
    dropped: int = 0
    """Registers that found no room."""
    generation: int = field(init=False)
    entered: bool = False
    """There is a table, and it is right."""
    moved: set[str] = field(factory=set)
    """Devices whose rows are wrong."""
    used: int = 0
    """Rows of devices, their gates included."""
    made: dict[str, Made] = field(factory=dict)
    """Rows that were made before, by device."""
    rooms: dict[str, int] = field(factory=dict)
    """How many rows a device has had."""

    def __attrs_post_init__(self) -> None:
        """Behind what is there, which is the table of a daemon before this one, or anything."""
        self.limit = min(self.limit, len(self.words) // ROW - 1)
        self.generation = self.words[GENERATION] % (1 << 62) | 1
        self.words[GENERATION] = self.generation

    def shows(self, host: InlineHost, region: Region) -> bool:
        """Whether a region has rows, wherever it is."""
        made = self.made.setdefault(host.name, {})
        return not host.isolated and has_rows(host.device, region, made)

    def move(self, name: str | None = None) -> None:
        """Regions of a device move; None: all that there is may be another."""
        if name is None:
            self.shelves.clear()
        self.moved.add(name or NOBODY)
        if self.entered:
            self.entered = False
            self._count_on()

    def enter(self) -> None:
        """Nothing moves any more: make the table right."""
        around = self.around()
        if not self._enter_moved(around):
            self._enter(around)
        if NOBODY in self.moved or NOBODY not in self.shelves:
            self._enter_spans(around.idle)
        self.moved.clear()
        self.entered = True
        self._count_on()

    def _count_on(self) -> None:
        self.generation += 1
        self.words[GENERATION] = self.generation

    def _enter_moved(self, around: Surroundings) -> bool:
        """Make the rows of what moved anew, if they have room where they were."""
        for name in self.moved - {NOBODY}:
            shelf = self.shelves.get(name)
            rows = self._rows(around, name)
            if len(rows) > (shelf.room if shelf is not None else 0):
                return False
            if shelf is not None and not self._change(shelf, rows):
                self.shelves[name] = self._shelf(shelf.host, shelf.first, shelf.room, rows)
        return bool(self.shelves)

    def _enter(self, around: Surroundings) -> None:
        self.shelves.clear()
        self.dropped = self.used = 0
        for name, host in around.hosts.items():
            found = self._rows(around, name)
            kept = found[: max(0, self.limit - self.used - 2)]
            self.dropped += len(found) - len(kept)
            if kept:
                most = max(len(kept), self.rooms.get(name, 0))
                room = self.rooms[name] = min(most, self.limit - self.used - 2)
                self.shelves[name] = self._shelf(host, self.used, room, kept)
                self.used += 1 + room

    def _rows(self, around: Surroundings, name: str) -> list[Row]:
        host = around.hosts[name]
        made = self.made.setdefault(name, {})
        return [] if host.isolated else rows_of(host.device, name, around.claims, made)

    def _enter_spans(self, idle: Iterable[Range]) -> None:
        """Ranges that are known to be probed, behind a gate of their own."""
        places = [
            (found.space, found.start, found.end - found.start)
            for found in idle
            if found.claim is None and found.policy == Policy.IGNORE
        ][: max(0, self.limit - self.used - 1)]
        known = self.shelves.get(NOBODY)
        if known is None or [(row.space, row.address, row.length) for row in known.rows] != places:
            spans = [
                Row(Kind.SPAN, space, start, 8, hole=WORD, length=length) for space, start, length in places
            ]
            self.shelves[NOBODY] = self._shelf(None, self.used, len(spans), spans)
            self.words[ROWS] = self.used + 1 + len(spans)

    def _shelf(self, host: InlineHost | None, first: int, room: int, rows: list[Row]) -> Shelf:
        """Write rows, with nothing behind them."""
        gate = ROW * (1 + first)
        shelf = Shelf(host, first, room, rows, posted=_posted(rows))
        for number in range(1 + room):
            self._write(gate + ROW * number)
        for number, row in enumerate(rows, start=1):
            self._add(shelf, number, row)
        return shelf

    def _change(self, shelf: Shelf, rows: list[Row]) -> bool:
        """Put other rows behind those that stay; False if others would have to be waited for."""
        if shelf.fresh or shelf.posted != _posted(rows):
            return False
        before, kept = shelf.rows, _common(shelf.rows, rows)
        for row in before[kept:]:
            self._write(row.place)
            for known in [shelf.moving] if row.moving else [shelf.following[name] for name in row.depends]:
                known.remove(row)
        shelf.rows, shelf.fresh = rows, rows[kept:]
        for number, row in enumerate(shelf.fresh, start=1 + kept):
            self._add(shelf, number, row)
        return True

    def _add(self, shelf: Shelf, number: int, row: Row) -> None:
        self._write_row(ROW * (1 + shelf.first + number), row, shelf.first, shelf.posted)
        if row.moving:
            shelf.moving.append(row)
        for name in () if row.moving else row.depends:
            shelf.following.setdefault(name, []).append(row)

    def _write_row(self, place: int, row: Row, first: int, posted: list[Row]) -> None:
        row.place, row.allowed = place, 0
        self._write(place, row.head | first << 32, row.address, _waits(row, posted))
        self.words[place + RATE] = row.echo
        if row.length:
            self.words[place + LENGTH] = row.length & WORD
            self.words[place + TARGET] = row.target

    def _write(self, place: int, kind: int = 0, address: int = 0, waits: int = 0) -> None:
        """A row that allows nothing; of kind 0 it is a gate, or nothing at all."""
        words = self.words
        words[place + POLICY] = 0
        words[place + ADDRESS], words[place + KIND], words[place + AFFECTED] = address, kind, waits
        for word in (VALUE, SINCE, RATE, BITS):
            words[place + word] = 0


def _posted(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.kind is Kind.WRITE and row.parts]


def _common(one: list[Row], other: list[Row]) -> int:
    """How many rows both begin with."""
    least = min(len(one), len(other))
    if one[:least] == other[:least]:
        return least
    return next(number for number in range(least) if one[number] is not other[number])


def _waits(row: Row, posted: list[Row]) -> int:
    """The writes that must have been applied before a row is right, as bits."""
    if row.kind is Kind.CONFIG_WINDOW:
        latch = row.parts[0][1].name
        return sum(1 << number for number, write in enumerate(posted) if write.named((latch,)))
    if not row.parts or (row.kind is Kind.WRITE and not row.gates):
        return 0
    unaffected = set.intersection(*(set(register.unaffected_by) for _, register in row.parts), _names(posted))
    if row.kind is Kind.WRITE and row.asks is not None:
        unaffected |= _names([row]) - row.asks
    return sum(1 << number for number, write in enumerate(posted) if not write.named(tuple(unaffected)))


def _names(rows: Iterable[Row]) -> set[str]:
    return {register.name for row in rows for _, register in row.parts}
