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

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING, Final

from attrs import define, field

from mmiod.machine.clock import MachineClock
from mmiod.machine.rows import COUNTS, OPEN, POSTS, READS, Row
from mmiod.machine.shelves import BITS, ORIGIN, POLICY, RATE, SINCE, VALUE, WORD, Shelf, Table

if TYPE_CHECKING:
    from mmiod.device import Device
    from mmiod.device.policy import Count

VERSION: Final = 256
"""What a policy's version counts by."""


@define(eq=False)
class Page(Table):
    """The page of one VM: the table, and what its rows say."""

    clock: MachineClock = field(kw_only=True)
    withheld: Container[str] = field(default=(), kw_only=True)
    """Devices of which every access is wanted: somebody watches."""
    running: bool = False
    """The machine is on and not paused."""
    counters: bool = False
    """The guest's clock runs as the hypervisor can follow: not in virtual time."""
    version: int = 0
    """Of the last policy that was stored."""

    def settle(self) -> None:
        """Make the table right, if it was wrong, and look at all."""
        if not self.entered:
            self.enter()
        for name in self.shelves:
            self.look(name)

    # --- values and policies -----------------------------------------------------------------

    def look(self, name: str) -> None:
        """A device's input is over: its rows are as the device is now."""
        if not self.entered:
            self._settle_moved(name)
            return
        shelf = self.shelves.get(name)
        if shelf is None or name in self.withheld or not self.running:
            return
        if (
            shelf.open
            and not shelf.moving
            and not shelf.fresh
            and shelf.host is not None
            and shelf.stored == shelf.host.device.values
        ):
            return  # the usual: nothing has changed
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
            self.words[shelf.gate] = self._versioned(OPEN)

    def _settle_moved(self, name: str) -> None:
        """Regions have moved: look at the device that had the input, and at those with other rows."""
        self.enter()
        for each, shelf in self.shelves.items():
            if each == name or not shelf.open or shelf.fresh or shelf.stored is None:
                self.look(each)

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
        if shelf.fresh:
            rows, shelf.fresh = [*rows, *shelf.fresh], []
        for row in rows:
            self._show(row, device)

    def _show_spans(self, shelf: Shelf) -> None:
        shelf.stored = {}
        for row in shelf.rows:
            self.words[row.place + VALUE] = row.hole
            self.words[row.place + POLICY] = self._versioned(READS | POSTS)

    def _changed(self, shelf: Shelf, stored: dict[str, int], device: Device) -> Iterable[Row]:
        found = {id(row): row for row in shelf.moving}
        for name, value in device.values.items():  # sets of them would take twice as long
            if value != stored[name]:
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
        if allowed == COUNTS:
            allowed = self._count(row, device)
        elif allowed & READS:
            value, place = row.value(device), row.place + VALUE
            if self.words[place] != value:  # a store would take the line from the hypervisor's cache
                self.words[place] = value
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
        return COUNTS

    def publishes(self, name: str) -> bool:
        """Whether the hypervisor need not ask for all of a device, but for moments."""
        shelf = self.shelves.get(name)
        return self.running and shelf is not None and bool(shelf.rows)

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
