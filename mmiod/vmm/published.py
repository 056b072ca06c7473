"""What the daemon publishes: reads that need no message, and writes that nobody waits for.

Specification: docs/protocol.md, "Published registers"; `include/mmiod_exit.h` does the same in C.
The words change while they are read: a value counts if its device's gate, its policy and the
table are the same behind it as before.
"""

from __future__ import annotations

import enum
import time
from typing import Final

from attrs import define, frozen

from mmiod.protocol.exit import shared
from mmiod.values import WRITE, Access, Space, ones
from mmiod.vmm.slot import Slot
from mmiod.vmm.table import AT, COUNTER, ECHO, GENERATION, KIND, OPEN, ORIGIN, POST, READ, Row, Table

NS_PER_S: Final = 1_000_000_000
WAIT_NS: Final = 20_000
"""How long a read waits for posted writes before it is sent instead."""
HOPS: Final = 2
"""Windows behind each other."""
_WORD: Final = 8
_CONFIG_ENABLED: Final = 1 << 31


class Way(enum.Enum):
    """Of a write."""

    SEND = enum.auto()
    POST = enum.auto()
    DROP = enum.auto()
    """Nobody is there."""


@frozen
class Found:
    """The row that an access is for, behind windows, and what it is there."""

    row: Row
    space: Space
    address: int


@define(eq=False)
class View:
    """The table in a slot's memory, and the vCPU's posted writes before it."""

    slot: Slot
    table: Table

    @classmethod
    def of(cls, slot: Slot) -> View | None:
        """The view, where the daemon publishes."""
        at = slot.words[shared.PUBLISHED_OFFSET // _WORD]
        return cls(slot, Table(slot.words[at // _WORD :])) if at else None

    # --- what needs no message -----------------------------------------------------------

    def read(self, space: Space, address: int, size: int) -> int | None:
        """The value of a read; None if it has to be sent."""
        found = self._find(KIND["READ"], space, address, size)
        if not isinstance(found, Found):
            return None if found is None else ones(size)
        row = found.row
        echoed = self._echo(row) if self.table.words[row.policy] & ECHO else None
        if echoed is None and not self._drained(row):
            return None
        value = self._value(row, echoed)
        skip = 0 if row.kind == KIND["SPAN"] else found.address - row.address
        return None if value is None else value >> 8 * skip & ones(size)

    def way(self, access: Access) -> tuple[Way, Access]:
        """How a write goes, and as what."""
        found = self._find(KIND["WRITE"], access.space, access.address, access.size)
        if not isinstance(found, Found) or not self._drained(found.row):
            return Way.SEND, access
        row, words = found.row, self.table.words
        gate, policy = words[row.gate], words[row.policy]
        if not (gate & OPEN and policy & POST and self._stands(row, gate, policy)):
            return Way.SEND, access
        behind = Access(found.space, WRITE, found.address, access.size, access.value)
        return (Way.DROP if row.kind == KIND["SPAN"] else Way.POST), behind

    def _find(self, kind: int, space: Space, address: int, size: int) -> Found | Way | None:
        """The row for an access; DROP where a bridge leads to nothing; None: nobody knows."""
        table = self.table
        if not table.ready():
            return None
        for _ in range(HOPS + 1):
            row = table.allowed(kind, space, address, size)
            if row is not None:
                return Found(row, space, address)
            row = table.span(space, address, size)
            if row is None or address % size:
                return None
            if row.kind == KIND["SPAN"]:
                return Found(row, space, address)
            behind = self._through(row, address)
            if behind is None:
                return None
            space, address, present = behind
            if not present:
                return Way.DROP
        return None

    def _value(self, row: Row, echoed: int | None) -> int | None:
        words = self.table.words
        gate, policy = words[row.gate], words[row.policy]
        if not gate & OPEN:
            return None
        if policy & READ:
            found = words[row.place + AT["value"]]
        elif policy & COUNTER:
            found = self._count(row)
        else:
            return None
        if echoed is not None:
            decided = words[row.place + AT["rate"]]
            found = found & ~decided | echoed & decided
        return found if self._stands(row, gate, policy) else None

    def _count(self, row: Row) -> int:
        words = self.table.words
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) - words[ORIGIN]
        value, since, rate, bits = (
            words[row.place + AT[name]] for name in ("value", "since", "rate", "bits")
        )
        return value + (now - since) * rate // NS_PER_S & (1 << bits) - 1

    def _stands(self, row: Row, gate: int, policy: int) -> bool:
        """Whether what was read in between is true."""
        table, words = self.table, self.table.words
        same = words[row.policy] == policy and words[row.gate] == gate
        return same and words[GENERATION] == table.generation

    def _through(self, row: Row, address: int) -> tuple[Space, int, bool] | None:
        """What is behind a window: space, address, and whether anything is; None: ask."""
        words, configures = self.table.words, row.kind == KIND["CONFIG_WINDOW"]
        latched = self._affecting(row) if configures else []
        gate, policy = words[row.gate], words[row.policy]
        value = latched[0].value if latched else words[row.place + AT["value"]]
        target, offset = Space(words[row.place + AT["rate"]]), address - row.address
        if not (gate & OPEN and policy & READ and self._stands(row, gate, policy)):
            return None
        if not configures:
            return target, value + offset, True
        return target, (value >> 8 & 0xFFFF) << 12 | value & 0xFC | offset, bool(value & _CONFIG_ENABLED)

    # --- posted writes that are on their way -----------------------------------------------

    def _drained(self, row: Row) -> bool:
        """Wait a little until nothing is on its way that changes what `row` is about."""
        end = time.monotonic_ns() + WAIT_NS
        while affecting := self._affecting(row):
            if time.monotonic_ns() > end:
                break
        return not affecting

    def _echo(self, row: Row) -> int | None:
        """What the last write on its way leaves in a register, if each that matters is to all of it."""
        affecting = self._affecting(row)
        place = row.space, row.address, row.size
        if not affecting or any((each.space, each.address, each.size) != place for each in affecting):
            return None
        return affecting[0].value

    def _affecting(self, row: Row) -> list[Access]:
        """Posted writes on their way that change what `row` is about, the last one first."""
        if not row.affected or self.slot.posted == self.slot.applied:
            return []
        return [write for write in self.slot.under_way() if self._affects(row, write)]

    def _affects(self, row: Row, write: Access) -> bool:
        known = False
        for written in self.table.candidates(KIND["WRITE"], write.space, write.address, 1):
            known = True
            if written.device == row.device and row.affected >> (written.number - row.device - 1) & 1:
                return True
        return not known  # nobody knows what it changes
