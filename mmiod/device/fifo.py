"""A register in front of a FIFO: a read takes the oldest element, a write appends one.

    received = Fifo(0x00, size=4, depth=16, access="r")     # elements: state.received
    to_send = Fifo(0x04, size=4, depth=16, access="w")      # elements: state.to_send

    self.received.push(word)            # False: it is full, nothing was kept
    self.to_send.pop()                  # the oldest
    len(self.received), self.received.full, self.received.clear()

The elements are a field of the device's `state` that has the FIFO's name, a `list[int]` or
(of bytes) a `bytearray`.  An empty FIFO reads `empty`; a write that meets a full one is
lost.  Both are told to a hook: what a status register shows of them is the device's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableSequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, overload

from attrs import define, field, frozen

from mmiod.device.hooks import name_of
from mmiod.errors import DeclarationError
from mmiod.values import READ, Direction, ones

if TYPE_CHECKING:
    from mmiod.device.declarations import Region
    from mmiod.device.device import Device

Hook = TypeVar("Hook", bound=Callable[[Any], None])
LostHook = TypeVar("LostHook", bound=Callable[[Any, int], None])


@frozen(eq=False)
class Queue:
    """The elements of a FIFO on a device, oldest first, `size` bytes each."""

    elements: MutableSequence[int]
    depth: int
    size: int

    def __len__(self) -> int:
        return len(self.elements)

    def __iter__(self) -> Iterator[int]:
        return iter(self.elements)

    @property
    def full(self) -> bool:
        """Whether it holds `depth` elements."""
        return len(self.elements) >= self.depth

    def push(self, value: int) -> bool:
        """Append an element; False if there was no room for it."""
        if not 0 <= value <= ones(self.size):
            raise ValueError(f"{value:#x} does not fit {self.size} bytes")
        if self.full:
            return False
        self.elements.append(value)
        return True

    def pop(self) -> int:
        """Take the oldest element; IndexError if there is none."""
        return self.elements.pop(0)

    def clear(self) -> None:
        """Take all."""
        self.elements.clear()


@define(eq=False)
class Fifo:
    """A FIFO of `depth` elements of `size` bytes behind `offset` of its region."""

    offset: int
    depth: int = field(kw_only=True)
    size: int = field(default=1, kw_only=True)
    access: Literal["r", "w", "rw"] = field(default="rw", kw_only=True)
    empty: int = field(default=0, kw_only=True)
    when: Callable[[Any], bool] | None = field(default=None, kw_only=True)
    whole: bool = field(default=False, kw_only=True)
    region: Region | None = field(default=None, kw_only=True)
    name: str = field(default="", init=False)
    hooks: dict[str, str] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        """Check what the author wrote."""
        if self.depth < 1 or self.size < 1 or self.access not in {"r", "w", "rw"}:
            raise DeclarationError(
                f"a FIFO at {self.offset:#x} of {self.depth} elements of {self.size} bytes, {self.access!r}"
            )

    @property
    def implemented(self) -> int:
        """The bits that are there, as a mask."""
        return ones(self.size)

    @property
    def end(self) -> int:
        """First offset behind the FIFO."""
        return self.offset + self.size

    def on_read(self, hook: Hook) -> Hook:
        """Decorate `hook(self)`: the guest took an element."""
        self.hooks["read"] = name_of(self, hook)
        return hook

    def on_write(self, hook: Hook) -> Hook:
        """Decorate `hook(self)`: the guest appended an element."""
        self.hooks["written"] = name_of(self, hook)
        return hook

    def on_underrun(self, hook: Hook) -> Hook:
        """Decorate `hook(self)`: the guest read while it was empty."""
        self.hooks["underrun"] = name_of(self, hook)
        return hook

    def on_overrun(self, hook: LostHook) -> LostHook:
        """Decorate `hook(self, value)`: the guest wrote `value` while it was full; it is lost."""
        self.hooks["overrun"] = name_of(self, hook)
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> Fifo: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> Queue: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> Fifo | Queue:
        """Give the elements on a device."""
        return self if instance is None else self.queue(instance)

    def queue(self, device: Device) -> Queue:
        """The elements on a device."""
        return Queue(getattr(device.state, self.name), self.depth, self.size)

    def inspect(self, device: Device) -> tuple[int, dict[str, int]]:
        """What a read would give, and how full it is, without side effect."""
        queue = self.queue(device)
        return next(iter(queue), self.empty), {"LEVEL": len(queue), "DEPTH": self.depth}

    # --- what the dispatcher calls ---------------------------------------------------

    def allows(self, direction: Direction) -> bool:
        """Whether the FIFO takes part in accesses of this direction."""
        return ("r" if direction == READ else "w") in self.access

    def guest_read(self, device: Device) -> int:
        """One read by the guest."""
        queue = self.queue(device)
        if not len(queue):
            self._tell(device, "underrun")
            return self.empty
        value = queue.pop()
        self._tell(device, "read")
        return value

    def guest_write(self, device: Device, value: int, covered: int) -> None:
        """One write by the guest; bytes that it does not cover are 0."""
        value &= covered
        if self.queue(device).push(value):
            self._tell(device, "written")
        else:
            self._tell(device, "overrun", value)

    def read_part(self, device: Device, skip: int, size: int) -> int:
        """A guest's read of `size` bytes behind the first `skip`: it takes the whole element."""
        return self.guest_read(device) >> 8 * skip & ones(size)

    def write_part(self, device: Device, skip: int, size: int, value: int) -> None:
        """A guest's write of `size` bytes behind the first `skip`."""
        self.guest_write(device, value << 8 * skip, ones(size) << 8 * skip)

    def read_many(self, device: Device, count: int) -> bytes:
        """As many of `count` reads as there are elements."""
        queue, data = self.queue(device), bytearray()
        while len(queue) and len(data) < count * self.size:
            data += self.guest_read(device).to_bytes(self.size, "little")
        return bytes(data)

    def write_many(self, device: Device, data: bytes) -> int:
        """As many of these writes as there is room for: their number."""
        queue, taken = self.queue(device), 0
        while not queue.full and taken < len(data):
            self.guest_write(
                device, int.from_bytes(data[taken : taken + self.size], "little"), ones(self.size)
            )
            taken += self.size
        return taken // self.size

    def _tell(self, device: Device, what: str, *arguments: int) -> None:
        hook = self.hooks.get(what)
        if hook is not None:
            getattr(device, hook)(*arguments)
