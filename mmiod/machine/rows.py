"""What a device lets the hypervisor do without a message: its rows of the published page.

A row is a register that its author declared so (`mmiod.device.policy`), where its region is
placed now; a word of a region that is published as a whole; or a window into another space.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final

from attrs import define, field

from mmiod.device import Register
from mmiod.device.dispatch import RegisterAnswerer
from mmiod.device.policy import Bank, Copies, Stored
from mmiod.machine.sizes import split
from mmiod.values import READ, WRITE, Direction, Space, ones

if TYPE_CHECKING:
    from mmiod.device import Device, Region
    from mmiod.machine.address_map import Claim

MAX_POSTED: Final = 64
"""Registers of one device to which writes are posted: as many as a row's AFFECTED has bits."""
SIZES: Final = (1, 2, 4, 8)

Claims = Mapping[tuple[str, str], tuple[Space, "Claim"]]
"""Which region is where, by device and region."""
Made = dict[str, tuple["Device", Space, int, list["Row"]]]
"""A device's rows by region, and what they were made for: making them takes longer than entering them."""


class Kind(enum.IntEnum):
    """What a row is; numbers of the protocol's enum published_kind."""

    DEVICE = 0
    """Before the rows of a device: while its policy is 0 no row of it counts."""
    READ = 1
    WRITE = 2
    SPAN = 3
    """LENGTH addresses that nobody answers: they read as VALUE, and what is written is lost."""
    WINDOW = 4
    """LENGTH addresses whose reads are those of the space TARGET, from VALUE on."""
    CONFIG_WINDOW = 5
    """Reads are those of the PCI function and register that VALUE selects."""


class Allowed(enum.IntFlag):
    """A row's policy: what needs no message now; numbers of the protocol's published_policy."""

    READ = 1
    COUNTER = 2
    """The value is VALUE and what has passed since SINCE, with RATE Hz, modulo 2^BITS."""
    POST = 4
    OPEN = 8
    """Of a device."""
    ECHO = 16
    """A posted write to the whole register decides the bits RATE of the value."""


READS, COUNTS, POSTS, OPEN, ECHOES = map(int, Allowed)
"""The same as plain numbers, which compare faster."""


@define(eq=False)
class Row:
    """Of one device, at one address and in one direction."""

    kind: Kind
    space: Space
    address: int
    size: int
    parts: tuple[tuple[int, Register], ...] = ()
    """Registers and where they begin, in bytes; what has none reads `hole`."""
    hole: int = 0
    least: int = 0
    """The smallest part of it that can be read alone; 0: none."""
    copy: int = 0
    """In a region with a stride: whose registers."""
    word: bool = False
    """Of a region that is published in words."""
    length: int = 0
    target: Space = Space.MMIO
    place: int = 0
    """Of its first word in the page."""
    allowed: int = 0
    """As it is in the page."""
    grant: int = field(init=False)
    """What is allowed if it is."""
    alone: bool = field(init=False)
    """One register is all of it."""
    counts: bool = field(init=False)
    gates: tuple[Callable[[Any], bool], ...] = field(init=False)
    """What must hold: banks, and policies that depend on the device."""
    asks: frozenset[str] | None = field(init=False)
    """The stored registers that its gates ask; None: anything."""
    moving: bool = field(init=False)
    """It may change with more than what is stored."""
    depends: frozenset[str] = field(init=False)
    """The registers whose stored values it shows or depends on."""
    echo: int = field(init=False)
    """Bits that a posted write to it decides."""

    def __attrs_post_init__(self) -> None:
        """See what its value and policy depend on."""
        registers = [register for _, register in self.parts]
        policies = [
            register.posted if self.kind is Kind.WRITE else register.published for register in registers
        ]
        self.counts = self.kind is Kind.READ and not self.word and any(one.counter for one in registers)
        banks = [
            register.when
            for register in registers
            if register.when is not None and not isinstance(register.when, Copies)
        ]
        predicates = [] if self.word or self.counts else [known for known in policies if callable(known)]
        self.gates = (*banks, *predicates)
        derived = [register for register in registers if register.derived and not register.constant]
        asked = [_asked(gate) for gate in self.gates]
        stored = frozenset(itertools.chain.from_iterable(filter(None, asked)))
        self.asks = None if None in asked else stored
        self.moving = self.asks is None or (bool(derived) and self.kind is not Kind.WRITE)
        self.depends = stored | {register.name for register in registers}
        self.alone = len(registers) == 1 and not self.parts[0][0] and registers[0].size == self.size
        self.echo = registers[0].echo if self.alone and self.kind is Kind.READ and not self.counts else 0
        self.grant = READS | ECHOES if self.echo else READS
        if self.counts or self.kind is Kind.WRITE:
            self.grant = COUNTS if self.counts else POSTS

    @property
    def head(self) -> int:
        """The word KIND, without the device's row."""
        return self.space | self.size << 8 | (self.least or self.size) << 16 | self.kind << 24

    def value(self, device: Device) -> int:
        """What a read gives."""
        if self.alone:
            return self.parts[0][1].seen(device)
        value = self.hole
        for at, register in self.parts:
            seen, covered = register.seen(device), ones(register.size)
            shift = 8 * at
            if shift < 0:
                seen, covered, shift = seen >> -shift, covered >> -shift, 0
            value = value & ~(covered << shift) | seen << shift
        return value & ones(self.size)

    def named(self, names: tuple[str, ...]) -> bool:
        """Whether it writes no other register than one of these names."""
        return all(register.name in names for _, register in self.parts)


def _asked(gate: Callable[[Any], bool]) -> tuple[str, ...] | None:
    """The stored registers that a predicate asks; None: anything."""
    if isinstance(gate, Bank):
        return (gate.register.name,)
    return gate.names if isinstance(gate, Stored) else None


def rows_of(device: Device, name: str, claims: Claims, made: Made) -> list[Row]:
    """What a device lets pass, posted writes first: at most `MAX_POSTED` of those that somebody waits for."""
    rows = [
        row
        for (owner, region), (space, claim) in claims.items()
        if owner == name and claim.width == 1
        for row in _placed(device, device.regions[region], space, claim.base, made)
    ]
    writes = [row for row in rows if row.kind is Kind.WRITE and row.parts]
    lost = [row for row in rows if row.kind is Kind.WRITE and not row.parts]
    return writes[:MAX_POSTED] + lost + [row for row in rows if row.kind is not Kind.WRITE]


def _placed(device: Device, region: Region, space: Space, base: int, made: Made) -> list[Row]:
    """As they were made before, if nothing has moved."""
    known = made.get(region.name)
    if known is None or known[0] is not device or known[1:3] != (space, base):
        known = made[region.name] = (device, space, base, list(_of_region(device, region, space, base)))
    return known[3]


def _of_region(device: Device, region: Region, space: Space, base: int) -> Iterator[Row]:
    window = region.window
    if window is not None and window.latch:
        latch = ((0, device.declared[window.latch]),)
        yield Row(Kind.CONFIG_WINDOW, space, base, 8, latch, length=region.length, target=window.space)
    elif window is not None:
        yield Row(Kind.WINDOW, space, base, 8, hole=window.base, length=region.length, target=window.space)
    answerer = device.answerers.get(region.name)
    if isinstance(answerer, RegisterAnswerer):
        for register in device.declared.values():
            if register.region is None or register.region.name == region.name:
                yield from _single(answerer, register, space, base)
        yield from _words(answerer, region.length, space, base)


def _single(answerer: RegisterAnswerer, register: Register, space: Space, base: int) -> Iterator[Row]:
    """Rows of a register that is declared so, one for each copy of it."""
    region, size = answerer.region, register.size
    whole = size in SIZES and split(region, register.offset, size) == [(register.offset, size)]
    if not whole or size < region.implemented[0]:
        return
    hole = int.from_bytes(bytes((region.hole,)) * size, "little")
    for kind in _kinds(register):
        least = _least(answerer, register, WRITE if kind is Kind.WRITE else READ)
        parts = ((0, register),) if kind is Kind.WRITE or register.allows(READ) else ()
        for copy in range(_copies(register, region)):
            at = base + copy * region.stride + register.offset
            yield Row(kind, space, at, size, parts, hole, least, copy)


def _copies(register: Register, region: Region) -> int:
    there = region.length // region.stride if region.stride else 1
    return min(there, register.when.number) if isinstance(register.when, Copies) else there


def _kinds(register: Register) -> Iterator[Kind]:
    if register.posted is not False:
        yield Kind.WRITE
    if register.published is not False or (register.counter is not None and not register.reads_change):
        yield Kind.READ


def _least(answerer: RegisterAnswerer, register: Register, direction: Direction) -> int:
    """The size of the parts that the region lets through; its own size if others share its bytes."""
    shared = any(
        found.whole
        for offset in range(register.offset, register.end)
        for found in answerer.candidates(offset, direction)
    )
    return register.size if shared else min(register.size, _smallest(answerer.region))


def _smallest(region: Region) -> int:
    return max(region.valid[0], region.implemented[0])


def _words(answerer: RegisterAnswerer, length: int, space: Space, base: int) -> Iterator[Row]:
    """Rows of a region that is published in words; where no register takes a write, it is lost."""
    region = answerer.region
    size = region.published
    hole = int.from_bytes(bytes((region.hole,)) * size, "little")
    for offset in range(0, length, size) if size else ():
        found = {each: None for at in range(offset, offset + size) for each in answerer.candidates(at, READ)}
        parts = tuple((each.offset - offset, each) for each in found if isinstance(each, Register))
        if len(parts) == len(found) and not any(each.reads_change or each.whole for _, each in parts):
            yield Row(Kind.READ, space, base + offset, size, parts, hole, _smallest(region), word=True)
        if not any(answerer.candidates(at, WRITE) for at in range(offset, offset + size)):
            yield Row(Kind.WRITE, space, base + offset, size, (), hole, _smallest(region), word=True)
