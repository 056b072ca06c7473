"""Registers that need no message: a page of them, which a hypervisor reads beside the daemon.

Theory of operation.  A row is one register at one address, in one direction: what the device
lets the hypervisor do with it now (`policy`), and for a read its value.  The page is shared,
and read while it is written; words are stored whole, and in order (x86-64: total store order):

- A device has a row of its own, the *gate*.  One store closes it, before anything that would
  make its rows untrue; it opens behind the stores that make them true again.
- A row's value is stored before the policy that allows to read it.  Policies have a version
  above their bits, so that one which was taken back meanwhile is not taken for the same.
- Rows keep their place for one `generation` of the table, which is odd while there is none:
  regions have moved, or a device is another one.

A reader takes generation, gate, policy and value, then policy, gate and generation again, and
sends a message if they are not as before.

A device's rows are looked after at the end of each of its inputs, before the access that was
the input is completed.  An output that tells the guest to look (a line, a message interrupt)
may leave in the middle of an input: `withdraw` goes before it.

Most registers are stored, and their policies are constants: those rows are looked at when the
value has changed.  Only rows with a predicate or a derived value cost something each time.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from attrs import define, field, frozen

from mmiod.machine.address_map import Policy, Range
from mmiod.machine.clock import MachineClock
from mmiod.machine.rows import Allowed, Claims, Kind, Row, rows_of
from mmiod.values import ones

if TYPE_CHECKING:
    from mmiod.device import Device
    from mmiod.device.policy import Count
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
VERSION: Final = 256
"""What a policy's version counts by."""
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
    moving: list[Row]
    """Those that must be looked at after each input."""
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
class Page:
    """The page of one VM; `words` are 64 bits each, of the shared memory."""

    words: memoryview
    around: Callable[[], Surroundings]
    clock: MachineClock
    limit: int = MAX_ROWS
    """Rows that there is room for."""
    shelves: dict[str, Shelf] = field(factory=dict)
    """By device."""
    withheld: Container[str] = ()
    """Devices of which every access is wanted: somebody watches."""
    running: bool = False
    """The machine is on and not paused."""
    counters: bool = False
    """The guest's clock runs as the hypervisor can follow: not in virtual time."""
    dropped: int = 0
    """Registers that found no room."""
    generation: int = field(init=False)
    entered: bool = False
    """There is a table, and it is right."""
    moved: set[str] = field(factory=set)
    """Devices whose rows are wrong."""
    used: int = 0
    """Rows of devices, their gates included."""
    version: int = 0
    """Of the last policy that was stored."""

    def __attrs_post_init__(self) -> None:
        """Behind what is there, which is the table of a daemon before this one, or anything."""
        self.limit = min(self.limit, len(self.words) // ROW - 1)
        self.generation = self.words[GENERATION] % (1 << 62) | 1
        self.words[GENERATION] = self.generation

    # --- the table ---------------------------------------------------------------------------

    def move(self, name: str | None = None) -> None:
        """Regions of a device move; None: all that there is may be another."""
        if name is None:
            self.shelves.clear()
        self.moved.add(name or NOBODY)
        if self.entered:
            self.entered = False
            self._count_on()

    def settle(self) -> None:
        """Nothing moves any more: make the table right, if it was wrong, and look at all."""
        if not self.entered:
            around = self.around()
            if not self._enter_moved(around):
                self._enter(around)
            self._enter_spans(around.idle)
            self.moved.clear()
            self.entered = True
            self._count_on()
        for name in self.shelves:
            self.look(name)

    def _count_on(self) -> None:
        self.generation += 1
        self.words[GENERATION] = self.generation

    def _enter_moved(self, around: Surroundings) -> bool:
        """Make the rows of what moved anew, if they have room where they were."""
        for name in self.moved - {NOBODY}:
            shelf = self.shelves.get(name)
            rows = _rows(around, name)
            if len(rows) > (shelf.room if shelf is not None else 0):
                return False
            if shelf is not None:
                self.shelves[name] = self._shelf(shelf.host, shelf.first, shelf.room, rows)
        return bool(self.shelves)

    def _enter(self, around: Surroundings) -> None:
        self.shelves.clear()
        self.dropped = self.used = 0
        for name, host in around.hosts.items():
            found = _rows(around, name)
            kept = found[: max(0, self.limit - self.used - 2)]
            self.dropped += len(found) - len(kept)
            if kept:
                self.shelves[name] = self._shelf(host, self.used, len(kept), kept)
                self.used += 1 + len(kept)

    def _enter_spans(self, idle: Iterable[Range]) -> None:
        """Ranges that are known to be probed, behind a gate of their own."""
        spans = [
            Row(Kind.SPAN, found.space, found.start, 8, hole=WORD, length=found.end - found.start)
            for found in idle
            if found.claim is None and found.policy == Policy.IGNORE
        ][: max(0, self.limit - self.used - 1)]
        self.shelves[NOBODY] = self._shelf(None, self.used, len(spans), spans)
        self.words[ROWS] = self.used + 1 + len(spans)

    def _shelf(self, host: InlineHost | None, first: int, room: int, rows: list[Row]) -> Shelf:
        gate = ROW * (1 + first)
        for number in range(room + 1):
            self._write(gate + ROW * number)
        shelf = Shelf(host, first, room, rows, [row for row in rows if row.moving])
        posted = [row for row in rows if row.kind is Kind.WRITE]
        for number, row in enumerate(rows, start=1):
            row.place = gate + ROW * number
            self._write(row.place, row.head | first << 32, row.address, _waits(row, posted))
            if row.length:
                self.words[row.place + LENGTH] = row.length & WORD
                self.words[row.place + TARGET] = row.target
            for name in () if row.moving else row.depends:
                shelf.following.setdefault(name, []).append(row)
        return shelf

    def _write(self, place: int, kind: int = 0, address: int = 0, waits: int = 0) -> None:
        """A row that allows nothing; of kind 0 it is a gate, or nothing at all."""
        words = self.words
        words[place + POLICY] = 0
        words[place + ADDRESS], words[place + KIND], words[place + AFFECTED] = address, kind, waits
        for word in (VALUE, SINCE, RATE, BITS):
            words[place + word] = 0

    # --- values and policies -----------------------------------------------------------------

    def look(self, name: str) -> None:
        """A device's input is over: its rows are as the device is now."""
        if not self.entered:
            self.settle()
            return
        shelf = self.shelves.get(name)
        if shelf is None or name in self.withheld or not self.running:
            return
        host = shelf.host
        if host is not None:
            if host.serves and host.owes is None:
                host.guarded(self._show_all, None, shelf, host.device)
            if not host.serves or host.owes is not None:
                return
        elif shelf.stored is None:
            self._show_spans(shelf)
        if not shelf.open:
            shelf.open = True
            self.words[shelf.gate] = self._versioned(Allowed.OPEN)

    def _show_all(self, shelf: Shelf, device: Device) -> None:
        """Show what may have changed; raises whatever the device's getters and predicates raise."""
        stored = shelf.stored
        if stored is None:
            shelf.stored = dict(device.values)
            rows: Iterable[Row] = shelf.rows
        elif device.values == stored:
            rows = shelf.moving
        else:
            rows = self._changed(shelf, stored, device)
        for row in rows:
            self._show(row, device)

    def _show_spans(self, shelf: Shelf) -> None:
        shelf.stored = {}
        for row in shelf.rows:
            self.words[row.place + VALUE] = row.hole
            self.words[row.place + POLICY] = self._versioned(Allowed.READ | Allowed.POST)

    def _changed(self, shelf: Shelf, stored: dict[str, int], device: Device) -> Iterable[Row]:
        found = {id(row): row for row in shelf.moving}
        for name, _ in device.values.items() - stored.items():
            found.update((id(row), row) for row in shelf.following.get(name, ()))
        shelf.stored = dict(device.values)
        return found.values()

    def _show(self, row: Row, device: Device) -> None:
        device.copy = row.copy
        allowed = row.grant
        for gate in row.gates:
            if not gate(device):
                allowed = 0
                break
        if allowed == Allowed.COUNTER:
            allowed = self._count(row, device)
        elif allowed == Allowed.READ:
            self.words[row.place + VALUE] = row.value(device)
        if allowed != row.allowed:
            self._allow(row, allowed)

    def _allow(self, row: Row, allowed: int) -> None:
        row.allowed = allowed
        self.words[row.place + POLICY] = self._versioned(allowed)

    def _versioned(self, allowed: int) -> int:
        self.version += VERSION
        return self.version & WORD | allowed

    def _count(self, row: Row, device: Device) -> int:
        """A counter: what it counts from changes only while no reader may use it."""
        if not self.counters:
            return 0
        register = row.parts[0][1]
        assert register.counter is not None, register.name
        count: Count = getattr(device, register.counter)(*register.index)
        new = (count.value & WORD, count.since_ns, count.hz, count.bits)
        words, place = self.words, row.place
        if new != (words[place + VALUE], words[place + SINCE], words[place + RATE], words[place + BITS]):
            if row.allowed:
                self._allow(row, 0)
            words[place + VALUE], words[place + SINCE], words[place + RATE], words[place + BITS] = new
        return Allowed.COUNTER

    def withdraw(self, name: str) -> bool:
        """Before something that makes a device's rows untrue, or tells the guest of it.

        Returns:
            Whether there were any.
        """
        shelf = self.shelves.get(name)
        if shelf is None or not shelf.open:
            return False
        shelf.open = False
        self.words[shelf.gate] = self._versioned(0)
        return bool(shelf.rows)

    # --- the machine's life ------------------------------------------------------------------

    def stop(self) -> None:
        """The guest stands, or the machine is off."""
        self.running = False
        for name in self.shelves:
            self.withdraw(name)

    def go(self) -> None:
        """The machine is on, and its clock as it stays: in virtual time nobody can follow it."""
        self.stop()
        self.running, self.counters = True, self.clock.runs
        self.words[ORIGIN] = self.clock.origin_ns & WORD
        for shelf in self.shelves.values():
            shelf.stored = None
        self.settle()


def _rows(around: Surroundings, name: str) -> list[Row]:
    host = around.hosts[name]
    return [] if host.isolated else rows_of(host.device, name, around.claims)


def _waits(row: Row, posted: list[Row]) -> int:
    """The writes that must have been applied before a row is right, as bits."""
    if row.kind is Kind.CONFIG_WINDOW:
        latch = row.parts[0][1].name
        return sum(1 << number for number, write in enumerate(posted) if write.named((latch,)))
    if row.kind is Kind.WINDOW or (row.kind is Kind.WRITE and not row.gates):
        return 0
    unaffected = set.intersection(*(set(register.unaffected_by) for _, register in row.parts), _names(posted))
    return sum(1 << number for number, write in enumerate(posted) if not write.named(tuple(unaffected)))


def _names(rows: Iterable[Row]) -> set[str]:
    return {register.name for row in rows for _, register in row.parts}
