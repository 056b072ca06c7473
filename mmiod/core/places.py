"""Where the flat lane goes: registers, each as one kind of access meets it.

All that does not change between two accesses of a kind is looked up once, here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from attrs import define, field

from mmiod.device import Device, Register
from mmiod.device.dispatch import RegisterAnswerer
from mmiod.machine.host import InlineHost
from mmiod.machine.sizes import split
from mmiod.machine.waist import Host
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
    """If it does: what a bank's register does as a whole, called with the device (and the value)."""
    entry: tuple[str, tuple[object, ...]]
    """Of the journal; a write's lacks the value."""
    hook: Hook
    """Reads: of the arguments; writes: of the arguments and the value."""
    arguments: tuple[object, ...]
    ones: int
    reading: bool = field(init=False)
    settles: bool = field(init=False)
    """Whether `on_settle` does something."""
    space_number: int = field(init=False)
    direction_number: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Make of members what every access needs of them."""
        self.reading = self.direction == READ
        self.settles = type(self.device).on_settle is not Device.on_settle
        self.space_number, self.direction_number = int(self.space), int(self.direction)


def place_of(
    host: Host, name: str, offset: int, size: int, direction: Direction, seen: tuple[Space, int]
) -> Place | None:
    """What is at an offset of a device's region, if it is plain; `seen` is for the record."""
    if type(host) is not InlineHost or name in host.storages:
        return None
    region = host.device.regions[name]
    if split(region, offset, size) != [(offset, size)] or size < region.implemented[0]:
        return None
    answerer = host.device.answerers[name]
    hook: Hook = answerer.read if direction == READ else answerer.write
    arguments: tuple[object, ...] = (host.device, offset, size)
    register: str | None = ""
    banks: dict[Claimant, Hook] = {}
    if isinstance(answerer, RegisterAnswerer):
        candidates = answerer.candidates(offset, direction)
        if not region.stride:
            banks = {
                found: _whole(found, direction)
                for found in candidates
                if isinstance(found, Register) and (found.offset, found.size) == (offset, size)
            }
        register = None
        if len(candidates) == 1 and candidates[0].when is None and not candidates[0].whole:
            register = candidates[0].name
            hook, arguments = (banks[candidates[0]], (host.device,)) if banks else (hook, arguments)
    entry = ("read" if direction == READ else "write", (name, offset, size))
    return Place(
        host, host.device, name, offset, size, direction, *seen,
        register, banks, entry, hook, arguments, ones(size),
    )  # fmt: skip


def _whole(register: Register, direction: Direction) -> Hook:
    """What the answerer would do: the register as a whole, all of its bits."""
    if direction == READ:
        return register.guest_read
    covered = ones(register.size)
    return lambda device, value: register.guest_write(device, value, covered)
