"""A run of bytes among declared registers: a FIFO's port, a command buffer.

    data_buffer = Buffer(0x80, 0xF80)

    @data_buffer.on_read                # offset from the buffer's begin, 1 to 64 bytes
    def _read_data(self, offset: int, size: int) -> int: ...

    @data_buffer.on_write
    def _write_data(self, offset: int, size: int, value: int) -> None: ...

Unlike a register it has no value: each access reaches a hook once, with its own size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define, field

from mmiod.device.hooks import name_of
from mmiod.values import READ, Direction

if TYPE_CHECKING:
    from mmiod.device.declarations import Region
    from mmiod.device.device import Device

PartReader = TypeVar("PartReader", bound=Callable[[Any, int, int], int])
PartWriter = TypeVar("PartWriter", bound=Callable[[Any, int, int, int], None])


@define(eq=False)
class Buffer:
    """`size` bytes at `offset` of a region; without a hook reads skip it, or writes do.

    `published`: a read has no side effect, so that it may be shown in a page of the guest's.
    """

    offset: int
    size: int
    region: Region | None = field(default=None, kw_only=True)
    when: Callable[[Any], bool] | None = field(default=None, kw_only=True)
    published: bool = field(default=False, kw_only=True)
    whole: bool = field(default=False, init=False)
    name: str = field(default="", init=False)
    reader: str | None = field(default=None, init=False)
    writer: str | None = field(default=None, init=False)

    @property
    def end(self) -> int:
        """First offset behind the buffer."""
        return self.offset + self.size

    def on_read(self, hook: PartReader) -> PartReader:
        """Decorate `hook(self, offset, size) -> int`."""
        self.reader = name_of(self, hook)
        return hook

    def on_write(self, hook: PartWriter) -> PartWriter:
        """Decorate `hook(self, offset, size, value)`."""
        self.writer = name_of(self, hook)
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    # --- what the dispatcher calls ---------------------------------------------------

    def allows(self, direction: Direction) -> bool:
        """Whether the buffer takes part in accesses of this direction."""
        return (self.reader if direction == READ else self.writer) is not None

    def guest_read(self, device: Device) -> int:
        """Read all of it."""
        return self.read_part(device, 0, self.size)

    def guest_write(self, device: Device, value: int, _covered: int) -> None:
        """Write all of it."""
        self.write_part(device, 0, self.size, value)

    def read_part(self, device: Device, skip: int, size: int) -> int:
        """Read `size` bytes behind the first `skip`."""
        assert self.reader is not None
        part: int = getattr(device, self.reader)(skip, size)
        return part

    def write_part(self, device: Device, skip: int, size: int, value: int) -> None:
        """Write `size` bytes behind the first `skip`."""
        assert self.writer is not None
        getattr(device, self.writer)(skip, size, value)
