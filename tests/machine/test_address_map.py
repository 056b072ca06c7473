"""Who answers an address: tables against a naive model, byte by byte."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import pytest
from attrs import define
from hypothesis import given, strategies as st

from mmiod.device import Pending
from mmiod.errors import MachineError
from mmiod.machine.address_map import LENGTHS, AddressMap, Claim, Policy, Unclaimed, build
from mmiod.machine.waist import Busy
from mmiod.values import Direction, Space

END = LENGTHS[Space.PIO]


@define(eq=False)
class Named:
    """A host that is never accessed."""

    name: str

    def access(self, region: str, offset: int, size: int, direction: Direction, value: int) -> int | Pending:
        """Not called."""
        raise NotImplementedError

    def read_batch(self, region: str, offset: int, size: int, count: int, stride: int) -> bytes:
        """Not called."""
        raise NotImplementedError

    def write_batch(self, region: str, offset: int, size: int, data: bytes, stride: int) -> int:
        """Not called."""
        raise NotImplementedError

    def enqueue(self, region: str, offset: int, command: bytes) -> bool | Busy:
        """Not called."""
        raise NotImplementedError

    def answers(self, region: str, offset: int, size: int, direction: Direction, value: int) -> bool:
        """Not called."""
        raise NotImplementedError

    def register_at(self, region: str, offset: int, size: int, direction: Direction) -> str:
        """Not called."""
        raise NotImplementedError

    def quarantine(self, reason: BaseException) -> None:
        """Not called."""
        raise NotImplementedError


BEYOND = Unclaimed(0xFFFF, 2, Policy.ONES)


def claim(name: str, base: int, length: int, *, fixed: bool = True) -> Claim:
    """A claim of a device of this name."""
    return Claim(Named(name), "main", base, length, fixed)


# Few addresses, so that pieces meet; some at the space's end, and some (BARs) beyond it.
BASES = st.one_of(st.integers(0, 40), st.integers(END - 20, END + 10))
LENGTHS_OF_PIECES = st.integers(1, 24)
POLICIES = st.lists(
    st.builds(
        Unclaimed, st.one_of(st.integers(0, 40), st.integers(END - 40, END - 24)), LENGTHS_OF_PIECES,
        st.sampled_from(Policy),
    ),
    max_size=4,
)  # fmt: skip


@st.composite
def claims(draw: st.DrawFn) -> list[Claim]:
    """Claims in the order they were made: fixed ones apart from each other, BARs anywhere."""
    made: list[Claim] = []
    for number in range(draw(st.integers(0, 6))):
        found = claim(f"d{number}", draw(BASES), draw(LENGTHS_OF_PIECES), fixed=draw(st.booleans()))
        clashes = any(found.base < other.end and other.base < found.end for other in made if other.fixed)
        if not found.fixed or (found.end <= END and not clashes):
            made.append(found)
    return made


def owner(claims: list[Claim], address: int) -> Claim | None:
    """What the machine file placed wins; then who was there first."""
    matching = [found for found in claims if found.base <= address < found.end]
    return next((found for found in matching if found.fixed), matching[0] if matching else None)


def policy(unclaimed: list[Unclaimed], address: int) -> Policy:
    """The first one that covers the address."""
    return next(
        (found.policy for found in unclaimed if found.base <= address < found.base + found.length),
        Policy.ONES,
    )


def watched() -> Iterator[int]:
    """Where claims are made, at both ends of the space."""
    yield from range(80)
    yield from range(END - 48, END)


@given(claims(), POLICIES)
def test_each_address_has_its_owner_or_its_policy(made: list[Claim], unclaimed: list[Unclaimed]) -> None:
    """A table says for each address what a search through all claims says."""
    table = build(Space.PIO, made, unclaimed)

    for address in watched():
        found = table.find(address)
        expected = owner(made, address)
        assert expected is found.claim
        assert found.start <= address < found.end
        if expected is None:
            assert policy(unclaimed, address) == found.policy
            assert (found.policy == Policy.FORWARD) == found.forwards
        else:
            assert not found.forwards


@given(claims(), POLICIES, st.sampled_from(Space))
def test_ranges_cover_the_space_and_merge(
    made: list[Claim], unclaimed: list[Unclaimed], space: Space
) -> None:
    """First to last address without a hole; two neighbours never have the same answer."""
    inside = [found for found in made if not found.fixed or found.end <= LENGTHS[space]]
    table = build(space, inside, unclaimed)

    assert table.ranges[0].start == 0
    assert LENGTHS[space] == table.ranges[-1].end
    for low, high in pairwise(table.ranges):
        assert low.start < low.end == high.start
        assert low.claim is not high.claim or (low.claim is None and low.policy != high.policy)


def at(table: AddressMap, address: int) -> str:
    """Who answers."""
    found = table.find(address).claim
    return found.host.name if found else "nobody"


def test_policy_under_a_claim_shows_where_the_claim_ends() -> None:
    """A device within a policy's range leaves the policy on both sides."""
    table = build(Space.MMIO, [claim("tpm", 0x100, 0x10)], [Unclaimed(0, 0x1000, Policy.ZEROS)])

    assert [(0, 0x100), (0x100, 0x110), (0x110, 0x1000), (0x1000, 1 << 64)] == [
        (found.start, found.end) for found in table.ranges
    ]
    assert ["nobody", "tpm", "nobody"] == [at(table, address) for address in (0xFF, 0x10F, 0x110)]


def test_overlap_names_both_owners_and_their_ranges() -> None:
    """Two regions of the machine file in one place: an error with names and hex ranges."""
    with pytest.raises(MachineError) as raised:
        build(Space.PIO, [claim("uart0", 0x3F8, 8), claim("uart1", 0x3FF, 8)])
    assert "uart1.main at 0x3ff..0x406 overlaps uart0.main at 0x3f8..0x3ff in PIO" == str(raised.value)


@pytest.mark.parametrize(
    ("placed", "unclaimed", "message"),
    [
        (claim("uart0", 0xFFFC, 8), [], "uart0.main at 0xfffc..0x10003 leaves PIO, which ends at 0xffff"),
        (claim("uart0", -1, 8), [], "uart0.main at -0x1..0x6 leaves PIO, which ends at 0xffff"),
        (None, [BEYOND], "unclaimed 0xffff..0x10000 leaves PIO, which ends at 0xffff"),
        (None, [Unclaimed(-4, 8, Policy.ZEROS)], "unclaimed -0x4..0x3 leaves PIO, which ends at 0xffff"),
    ],
)  # fmt: skip
def test_what_leaves_the_space_is_refused(
    placed: Claim | None, unclaimed: list[Unclaimed], message: str
) -> None:
    """Fixed regions and policies lie within their space; the error gives their range in hex."""
    with pytest.raises(MachineError) as raised:
        build(Space.PIO, [placed] if placed else [], unclaimed)
    assert message == str(raised.value)


def test_all_problems_are_told() -> None:
    """Three overlaps are three problems, not the first one."""
    with pytest.raises(MachineError) as raised:
        build(Space.PIO, [claim(name, 0x10, 4) for name in "abc"])
    assert 3 == len(raised.value.problems)


def test_bar_outside_of_the_space_claims_nothing() -> None:
    """A guest may write a BAR of 32 bits into a space of 16: nothing is there, nothing breaks."""
    table = build(Space.PIO, [claim("bar", 0xE000_0000, 0x100, fixed=False)])
    assert [(0, END)] == [(found.start, found.end) for found in table.ranges]


def shape(table: AddressMap | None) -> object:
    """What distinguishes one table from another."""
    if table is None:
        return None
    return [
        (found.start, found.end, found.claim, found.claim is None and found.policy) for found in table.ranges
    ]


@given(claims(), POLICIES, st.integers(0, 5))
def test_an_edited_table_is_the_one_that_is_built(
    made: list[Claim], unclaimed: list[Unclaimed], number: int
) -> None:
    """A claim that leaves, and comes back as the last one; where claims overlap it has to be built."""
    moved = [made.pop(number % len(made))] if made else []
    for one in moved:
        rest, whole = build(Space.PIO, made, unclaimed), build(Space.PIO, [*made, one], unclaimed)
        assert (None if whole.crowded else shape(rest)) == shape(whole.without(one))
        assert (None if whole.crowded else shape(whole)) == shape(rest.within(one))


@given(claims(), POLICIES)
def test_a_table_is_crowded_where_a_part_of_a_claim_is_missing(
    made: list[Claim], unclaimed: list[Unclaimed]
) -> None:
    """It tells whether each claim has all of its addresses."""
    table = build(Space.PIO, made, unclaimed)
    whole = [
        found.end <= END and all(owner(made, address) is found for address in range(found.base, found.end))
        for found in made
    ]
    assert table.crowded != all(whole)
