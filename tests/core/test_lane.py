"""What the flat lane knows of places, while regions move."""

from __future__ import annotations

from attrs import define
from hypothesis import given, settings, strategies as st

from mmiod.core.lane import Lane
from mmiod.core.places import Place
from mmiod.device import Device, Region, Register
from mmiod.machine.address_map import Stretch
from mmiod.machine.description import DeviceDescription
from mmiod.values import READ, WRITE, Direction, Space
from tests.machine.machines import Outlet, Rig

NAMES = ("a", "b", "c")
SPACES = (Space.MMIO, Space.PIO)
FIRST = 0x100
ADDRESSES = range(FIRST - 4, FIRST + 24)
SIZES = (1, 2, 4)


class Small(Device):
    """Two registers, in parts too."""

    main = Region(8)
    low = Register(0, size=4, region=main)
    high = Register(4, size=4, region=main)


@define(eq=False)
class Forgets(Outlet):
    """Has the lane forget what has moved, and no more."""

    lane: Lane | None = None

    def map_changed(self, *moved: Stretch) -> None:
        """Regions have moved."""
        if self.lane is not None:
            self.lane.forget_at(moved)


def known(lane: Lane, space: Space, direction: Direction, size: int) -> dict[int, tuple[str, int]]:
    """Whose register is at which address, of those that are known."""
    return {at: _what(place) for at, place in lane.kind(space, direction, size).items()}


def _what(place: Place) -> tuple[str, int]:
    return place.name, place.offset


MOVES = st.tuples(st.sampled_from(NAMES), st.sampled_from(SPACES), st.none() | st.integers(FIRST, FIRST + 5))


@settings(max_examples=100)
@given(st.lists(MOVES, min_size=6, max_size=12))
def test_what_is_known_is_what_is_there(moves: list[tuple[str, Space, int | None]]) -> None:
    """After each move, regions that overlap included: no place is left that is another one now."""
    rig = Rig(
        {name: (Small, DeviceDescription("test/small")) for name in NAMES}, outlet=(outlet := Forgets())
    )
    lane = outlet.lane = Lane(rig.machine)
    kinds = [(space, direction, size) for space in SPACES for direction in (READ, WRITE) for size in SIZES]
    for name, at, base in moves:
        rig.machine.place(name, Small.regions["main"], at, base, fixed=name == "c")  # it wins
        for kind in kinds:
            before = known(lane, *kind)
            lane.kind(*kind).clear()
            for address in ADDRESSES:
                lane.learn(*kind, address)
            now = known(lane, *kind)
            assert before.items() <= now.items()


def test_places_elsewhere_stay() -> None:
    """The place of a region that did not move is kept, and what was made of it; the other one's goes."""
    rig = Rig(
        {name: (Small, DeviceDescription("test/small")) for name in NAMES}, outlet=(outlet := Forgets())
    )
    lane = outlet.lane = Lane(rig.machine)
    made = {b"a read of it": "a load"}
    lane.learnt = (made,)
    for name, base in (("a", FIRST), ("b", FIRST + 8)):
        rig.machine.place(name, Small.regions["main"], Space.MMIO, base)
    kept = lane.learn(Space.MMIO, READ, 4, FIRST)
    rig.machine.place("c", Small.regions["main"], Space.PIO, FIRST)
    assert (kept, 1) == (lane.kind(Space.MMIO, READ, 4).get(FIRST), len(made))
    lane.learn(Space.MMIO, READ, 4, FIRST + 12)
    rig.machine.place("b", Small.regions["main"], Space.MMIO, None)
    assert ({FIRST: kept}, {}) == (lane.kind(Space.MMIO, READ, 4), made)
