"""Who answers an address: an immutable table of ranges for one address space.

A table covers the whole space: what no device claims is a range too, with a policy.
Regions that the machine file places may not overlap each other; regions that the guest
places (BARs) may overlap anything, and lose to what the machine file placed, else to
the one that was there first, as a guest's mistake must not take the machine down.
"""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Final, TypeVar

from attrs import define, field, frozen

from mmiod.errors import MachineError
from mmiod.values import Space

if TYPE_CHECKING:
    from mmiod.machine.waist import Host

T = TypeVar("T")


class Policy(enum.IntEnum):
    """What an access gets that no device claims."""

    ONES = 1
    ZEROS = 2
    IGNORE = 3
    """As ones, and not worth an event: the range is known to be probed."""
    FORWARD = 4
    """The hypervisor answers."""


LENGTHS: Final = {
    Space.MMIO: 1 << 64,
    Space.PIO: 1 << 16,
    Space.PCI_CONFIG: 1 << 28,
    Space.MSR: 1 << 32,
}
MSR_BYTES: Final = 8
"""In the space of MSRs an address is one register of so many bytes; a region has bytes everywhere."""


@frozen(eq=False)
class Claim:
    """`length` addresses from `base` belong to `region` of `host`; `fixed` if the machine file said so."""

    host: Host
    region: str
    base: int
    length: int
    fixed: bool = True
    width: int = 1
    """Bytes of the region at one address."""

    @property
    def end(self) -> int:
        """First address behind."""
        return self.base + self.length

    def offset(self, address: int) -> int:
        """Where `address` is in the region, in bytes."""
        return (address - self.base) * self.width

    def __str__(self) -> str:
        return f"{self.host.name}.{self.region} at {self.base:#x}..{self.end - 1:#x}"


@frozen
class Unclaimed:
    """`length` bytes from `base` follow `policy` where no device is."""

    base: int
    length: int
    policy: Policy

    @property
    def end(self) -> int:
        """First address behind."""
        return self.base + self.length

    def __str__(self) -> str:
        return f"unclaimed {self.base:#x}..{self.end - 1:#x}"


@define(eq=False)
class Range:
    """A stretch of a space with one answer: a claim's, or a policy's if `claim` is None."""

    space: Space
    start: int
    end: int
    claim: Claim | None
    policy: Policy

    @property
    def forwards(self) -> bool:
        """Whether the hypervisor answers here."""
        return self.claim is None and self.policy == Policy.FORWARD


@frozen
class Stretch:
    """Addresses from `start` up to `end` of a space, which others may answer than before."""

    space: Space
    start: int
    end: int


@define(eq=False)
class AddressMap:
    """The ranges of one space, ascending, without a hole."""

    space: Space
    ranges: Sequence[Range]
    unclaimed: Sequence[Unclaimed] = ()
    crowded: bool = False
    """A part of some claim is not there: another one's is, or the space has ended."""
    starts: list[int] = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Index the ranges."""
        self.starts = [found.start for found in self.ranges]

    def find(self, address: int) -> Range:
        """The range that holds `address`."""
        return self.ranges[bisect_right(self.starts, address) - 1]

    def without(self, claim: Claim) -> AddressMap | None:
        """The map when a claim has left it; None if it has to be built: something may come to light."""
        if self.crowded:
            return None
        first = bisect_right(self.starts, claim.base) - 1
        return self._with(first, first, [*_idle(self.space, claim.base, claim.end, self.unclaimed)])

    def within(self, claim: Claim) -> AddressMap | None:
        """The map with a claim where nobody is; None if it has to be built: somebody is there."""
        first = bisect_right(self.starts, claim.base) - 1
        last = bisect_left(self.starts, claim.end) - 1
        covered = self.ranges[first : last + 1]
        if self.crowded or claim.end > LENGTHS[self.space] or any(found.claim for found in covered):
            return None
        low, high = covered[0], covered[-1]
        pieces = [
            Range(self.space, low.start, claim.base, None, low.policy),
            Range(self.space, claim.base, claim.end, claim, Policy.ONES),
            Range(self.space, claim.end, high.end, None, high.policy),
        ]
        return self._with(first, last, [piece for piece in pieces if piece.start < piece.end])

    def _with(self, first: int, last: int, pieces: Sequence[Range]) -> AddressMap:
        """Others in the place of the ranges from `first` to `last`."""
        low, high = max(first - 1, 0), last + 2
        around = [*self.ranges[low:first], *pieces, *self.ranges[last + 1 : high]]
        ranges = [*self.ranges[:low], *_merged(around), *self.ranges[high:]]
        return AddressMap(self.space, ranges, self.unclaimed)


def build(space: Space, claims: Iterable[Claim], unclaimed: Iterable[Unclaimed] = ()) -> AddressMap:
    """Make a table.

    Raises:
        MachineError: a fixed claim or a policy leaves the space, or two fixed claims overlap.
    """
    ordered = sorted(claims, key=lambda claim: not claim.fixed)
    policies = list(unclaimed)
    _check(space, ordered, policies)
    edges = {0, LENGTHS[space]}
    pieces: list[Claim | Unclaimed] = [*ordered, *policies]
    for piece in pieces:
        edges.update(edge for edge in (piece.base, piece.end) if edge < LENGTHS[space])
    corners = sorted(edges)
    owners: list[Claim | None] = [None] * (len(corners) - 1)
    answers = [Policy.ONES] * (len(corners) - 1)
    for claim in reversed(ordered):  # the first one wins
        _fill(owners, corners, claim, claim)
    for known in reversed(policies):
        _fill(answers, corners, known, known.policy)
    ranges = _merged(
        Range(space, start, end, owner, policy)
        for (start, end), owner, policy in zip(pairwise(corners), owners, answers, strict=True)
    )
    claimed = sum(found.end - found.start for found in ranges if found.claim is not None)
    return AddressMap(space, ranges, policies, claimed != sum(claim.length for claim in ordered))


def _merged(pieces: Iterable[Range]) -> list[Range]:
    """Neighbours with the same answer are one range."""
    ranges: list[Range] = []
    for piece in pieces:
        last = ranges[-1] if ranges else None
        same = last is not None and last.claim is piece.claim
        if last is not None and same and (piece.claim is not None or last.policy == piece.policy):
            ranges[-1] = Range(piece.space, last.start, piece.end, piece.claim, last.policy)
        else:
            ranges.append(piece)
    return ranges


def _idle(space: Space, start: int, end: int, unclaimed: Iterable[Unclaimed]) -> Iterator[Range]:
    """What a stretch is that nobody claims."""
    met = [known for known in unclaimed if known.base < end and start < known.end]
    inside = {edge for known in met for edge in (known.base, known.end) if start < edge < end}
    for low, high in pairwise(sorted({start, end, *inside})):
        policy = next((known.policy for known in met if known.base <= low < known.end), Policy.ONES)
        yield Range(space, low, high, None, policy)


def _fill(filled: list[T], corners: list[int], piece: Claim | Unclaimed, value: T) -> None:
    first, end = (bisect_left(corners, edge) for edge in (piece.base, piece.end))
    for number in range(first, min(end, len(filled))):
        filled[number] = value


def _check(space: Space, claims: Iterable[Claim], policies: Iterable[Unclaimed]) -> None:
    fixed = [claim for claim in claims if claim.fixed]
    pieces: list[Claim | Unclaimed] = [*fixed, *policies]
    problems = [
        f"{placed} leaves {space.name}, which ends at {LENGTHS[space] - 1:#x}"
        for placed in pieces
        if not 0 <= placed.base < placed.end <= LENGTHS[space]
    ]
    problems += [
        f"{second} overlaps {first} in {space.name}"
        for first, second in combinations(fixed, 2)
        if second.base < first.end and first.base < second.end
    ]
    if problems:
        raise MachineError(*problems)
