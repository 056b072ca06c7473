"""What a device lets the hypervisor do without a message: a row of the published page.

Which rows a device has is found by `mmiod.machine.region_rows`.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from attrs import define, field

from mmiod.device import Register
from mmiod.device.policy import Bank, Copies, Stored
from mmiod.values import Space, ones

if TYPE_CHECKING:
    from mmiod.device import Device


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
