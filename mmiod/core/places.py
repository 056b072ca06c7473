"""Where the flat lane goes: registers, each as one kind of access meets it.

All that does not change between two accesses of a kind is looked up once, here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard

from attrs import define, field

from mmiod.device import Device, Register
from mmiod.device.dispatch import RegisterAnswerer
from mmiod.device.prepared import reading, stored, writing
from mmiod.machine.host import InlineHost
from mmiod.machine.inputs import Input
from mmiod.machine.journal import Journal
from mmiod.machine.sizes import split
from mmiod.machine.waist import Host, Statistics
from mmiod.values import READ, Direction, Space, ones

if TYPE_CHECKING:
    from mmiod.device.dispatch import Claimant

Hook = Callable[..., Any]


@define(eq=False)
class Place:
    """A register, or what else is there, as one kind of access meets it."""

    host: InlineHost
    device: Device
    """The host's when this was made: a restarted one is another."""
    region: str
    offset: int
    size: int
    direction: Direction
    space: Space
    address: int
    register: str | None
    """Its name for the record; None if that depends on the device's state."""
    banks: Mapping[Claimant, Hook]
    """If it does: what a bank's register does as a whole."""
    entry: Input
    """Of the journal; a write's lacks the value."""
    hook: Hook
    """Reads: without arguments; writes: of the value."""
    ones: int
    stored: int
    """Of a read that gives what is stored and runs nothing: the mask of its register; else 0."""
    stored_as: str
    """The name of that register."""
    journal: Journal = field(init=False)
    statistics: Statistics = field(init=False)
    name: str = field(init=False)
    """The device's."""
    reading: bool = field(init=False)
    settle: Callable[[], None] | None = field(init=False)
    """`on_settle`, if it does something."""
    space_number: int = field(init=False)
    direction_number: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make of members what every access needs of them."""
        self.journal, self.statistics, self.name = self.host.journal, self.host.statistics, self.host.name
        self.reading = self.direction == READ
        settles = type(self.device).on_settle is not Device.on_settle
        self.settle = self.device.on_settle if settles else None
        self.space_number, self.direction_number = int(self.space), int(self.direction)


def place_of(
    host: Host, name: str, offset: int, size: int, direction: Direction, seen: tuple[Space, int]
) -> Place | None:
    """What is at an offset of a device's region, if it is plain; `seen` is for the record."""
    if type(host) is not InlineHost or host.broken or name in host.storages:
        return None
    device, region = host.device, host.device.regions[name]
    if split(region, offset, size) != [(offset, size)] or size < region.implemented[0]:
        return None
    answerer = device.answerers[name]
    hook: Hook = partial(answerer.read if direction == READ else answerer.write, device, offset, size)
    prepare: Callable[[Register, Device], Hook] = reading if direction == READ else writing
    register: str | None = ""
    stored_as, mask = "", 0
    banks: dict[Claimant, Hook] = {}
    if isinstance(answerer, RegisterAnswerer):
        candidates = answerer.candidates(offset, direction)
        if not region.stride:
            banks = {
                found: prepare(found, device)
                for found in candidates
                if isinstance(found, Register) and (found.offset, found.size) == (offset, size)
            }
        register = None
        if len(candidates) == 1 and candidates[0].when is None and not candidates[0].whole:
            [found] = candidates
            register = found.name
            hook = banks.get(found, hook)
            if direction == READ and found in banks and _only_stored(found, device):
                stored_as, mask = found.name, found.rules.readable
    entry = ("read" if direction == READ else "write", (name, offset, size))
    return Place(
        host,
        device,
        name,
        offset,
        size,
        direction,
        *seen,
        register,
        banks,
        entry,
        hook,
        ones(size),
        mask,
        stored_as,
    )


def _only_stored(found: Claimant, device: Device) -> TypeGuard[Register]:
    """Whether a read of it runs nothing of the device's."""
    return isinstance(found, Register) and stored(found) and type(device).on_settle is Device.on_settle
