"""The table of published registers as a reader finds its way in it.

Specification: docs/protocol.md, "Published registers".  The place of rows is good for one
generation of the table, so that what an access may be for is looked up once in each.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field, frozen

from mmiod.protocol.exit.codec import structure
from mmiod.protocol.exit.table import LAYOUTS, NUMBERS
from mmiod.values import Space

KIND: Final = NUMBERS["published_kind"]
_POLICY: Final = NUMBERS["published_policy"]
READ, COUNTER, POST, OPEN, ECHO = (_POLICY[name] for name in ("READ", "COUNTER", "POST", "OPEN", "ECHO"))
ALLOWED: Final = READ | COUNTER | POST
"""Of a policy, without its version."""
_WORD: Final = 8
_HEAD: Final = {member.name: member.offset // _WORD for member in LAYOUTS["published_header"].members}
GENERATION, ROWS, ORIGIN = _HEAD["generation"], _HEAD["rows"], _HEAD["origin_ns"]
AT: Final = {member.name: member.offset // _WORD for member in LAYOUTS["published_row"].members}
_ROW: Final = structure("published_row")
_ROW_WORDS: Final = LAYOUTS["published_row"].size // _WORD
_HEAD_WORDS: Final = LAYOUTS["published_header"].size // _WORD


@frozen
class Row:
    """What a row says for a whole generation; places are words of the table."""

    number: int
    address: int
    space: Space
    size: int
    least: int
    kind: int
    device: int
    affected: int
    place: int
    gate: int
    """Where the policy of its device is."""
    policy: int
    """Where its own is."""


@define(eq=False)
class Table:
    """The rows in `words`, which another process changes."""

    words: memoryview
    generation: int = 1
    """Odd: none."""
    _rows: dict[tuple[int, Space, int], list[Row]] = field(factory=dict)
    """By kind and address."""
    _spans: list[Row] = field(factory=list)
    _found: dict[tuple[int, Space, int, int], tuple[Row, ...]] = field(factory=dict)
    """What an access, by kind of row, address and size, may be for."""

    def ready(self) -> bool:
        """Whether there is a table, and this is of it."""
        generation = self.words[GENERATION]
        return not generation & 1 and (generation == self.generation or self._build(generation))

    def _build(self, generation: int) -> bool:
        """Look all rows up anew; whether the table is still the same."""
        self._rows.clear()
        self._found.clear()
        self._spans.clear()
        self.generation = generation
        room = (len(self.words) - _HEAD_WORDS) // _ROW_WORDS
        for number in range(min(self.words[ROWS], room)):
            row = self._row(number)
            if row.kind >= KIND["SPAN"]:
                self._spans.append(row)
            elif row.kind != KIND["DEVICE"]:
                self._rows.setdefault((row.kind, row.space, row.address), []).append(row)
        return generation == self.words[GENERATION]

    def _row(self, number: int) -> Row:
        place = _HEAD_WORDS + _ROW_WORDS * number
        image = self.words[place : place + _ROW_WORDS].tobytes()
        address, space, size, least, kind, device, _, _, affected, *_ = _ROW.unpack(image)
        gate, policy = (_HEAD_WORDS + _ROW_WORDS * each + AT["policy"] for each in (device, number))
        where = number, address, Space(space), size, least, kind
        return Row(*where, device, affected, place, gate, policy)

    def allowed(self, kind: int, space: Space, address: int, size: int) -> Row | None:
        """The row that an access is for, if that allows it now."""
        words = self.words
        for row in self.candidates(kind, space, address, size):
            skip = address - row.address
            fits = size >= row.least and skip + size <= row.size and not skip % size
            if fits and words[row.gate] & OPEN and words[row.policy] & ALLOWED:
                return row
        return None

    def candidates(self, kind: int, space: Space, address: int, size: int) -> tuple[Row, ...]:
        """The rows that an access may be for."""
        key = kind, space, address, size
        found = self._found.get(key)
        if found is None:
            bases = dict.fromkeys(address & -unit for unit in (1, 2, 4, 8))
            rows = (row for base in bases for row in self._rows.get((kind, space, base), ()))
            found = self._found[key] = tuple(row for row in rows if address < row.address + row.size)
        return found

    def span(self, space: Space, address: int, size: int) -> Row | None:
        """The span or window that an access lies in."""
        for row in self._spans:
            length = self.words[row.place + AT["since"]]
            if row.space is space and 0 <= address - row.address <= length - size:
                return row
        return None
