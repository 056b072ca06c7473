"""Where the flat lane goes: registers, each as one kind of access meets it.

All that does not change between two accesses of a kind is looked up once, here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, TypeGuard

from mmiod.device import Device, Register
from mmiod.device.dispatch import RegisterAnswerer
from mmiod.device.prepared import reading, stored, writing
from mmiod.machine.host import InlineHost
from mmiod.machine.inputs import Input
from mmiod.machine.journal import Journal
from mmiod.machine.sizes import split
from mmiod.machine.statistics import Statistics
from mmiod.machine.waist import Host
from mmiod.values import READ, Direction, Space, ones

if TYPE_CHECKING:
    from mmiod.device.dispatch import Claimant

Hook = Callable[..., Any]


class Place:
    """A register, or what else is there, as one kind of access meets it.

    A plain class: `mmiod.compiled` makes a C structure of it.

    Args:
        host: whose access it is.
        region, offset, size, direction: of the access.
        seen: space and address, for the record.
        register: its name for the record; None if that depends on the device's state.
        banks: if it does, what a bank's register does as a whole.
        hook: reads: without arguments; writes: of the value.
        stored: of a read that gives what is stored and runs nothing: the mask of its register; else 0.
        stored_as: the name of that register.
    """

    def __init__(
        self,
        host: InlineHost,
        region: str,
        offset: int,
        size: int,
        direction: Direction,
        seen: tuple[Space, int],
        *,
        register: str | None,
        banks: Mapping[Claimant, Hook],
        hook: Hook,
        stored: int,
        stored_as: str,
    ) -> None:
        self.host = host
        self.device: Device = host.device
        """The host's when this was made: a restarted one is another."""
        self.region, self.offset, self.size, self.direction = region, offset, size, direction
        self.space, self.address = seen
        self.register, self.banks, self.hook = register, banks, hook
        self.stored, self.stored_as = stored, stored_as
        self.reading = direction == READ
        self.entry: Input = ("read" if self.reading else "write", (region, offset, size))
        """Of the journal; a write's lacks the value."""
        self.ones = ones(size)
        self.journal: Journal = host.journal
        self.statistics: Statistics = host.statistics
        self.name: str = host.name
        settles = type(host.device).on_settle is not Device.on_settle
        self.settle: Callable[[], None] | None = host.device.on_settle if settles else None
        """`on_settle`, if it does something."""
        self.space_number, self.direction_number = int(self.space), int(direction)


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
    return Place(
        host, name, offset, size, direction, seen,
        register=register, banks=banks, hook=hook, stored=mask, stored_as=stored_as,
    )  # fmt: skip


def _only_stored(found: Claimant, device: Device) -> TypeGuard[Register]:
    """Whether a read of it runs nothing of the device's."""
    return isinstance(found, Register) and stored(found) and type(device).on_settle is Device.on_settle
