"""Plain bytes among declared registers: a framebuffer, a ring, a buffer that both sides use.

    frames = Storage(0x1000, 0x8000, region=bar)    # behaves as RAM, for the guest

    self.frames.read(offset, length)                # and for the device
    self.frames.write(offset, data)

No hook runs when the guest accesses it, and a hypervisor may let the guest do so without
telling: what a driver has to announce goes through a register beside it.  The bytes are the
machine's: they stay where they are when the device is reloaded or restarted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Final, overload

from attrs import define, field

from mmiod.errors import DeclarationError

if TYPE_CHECKING:
    from mmiod.device.declarations import Region
    from mmiod.device.device import Device
    from mmiod.device.faces import Context
    from mmiod.values import Direction

PAGE: Final = 4096
MAX_STORAGE: Final = 32 << 20
"""Bytes of all storage of a device: what is saved of them fits a saved state."""

Area = tuple[int, int]
"""Offset within a region, and bytes."""


@define(eq=False)
class Pages:
    """The storage of a device instance."""

    context: Context
    region: str
    offset: int
    """Within the region."""
    size: int

    def read(self, offset: int, length: int) -> bytes:
        """Bytes from an offset within the storage.

        Raises:
            ValueError: they are not all in it.
        """
        return self.context.storage.read(self.region, self._within(offset, length), length)

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes from an offset on.

        Raises:
            ValueError: they are not all in it.
        """
        self.context.storage.write(self.region, self._within(offset, len(data)), bytes(data))

    def clear(self) -> None:
        """Make all of it zeros, which take no memory."""
        self.context.storage.clear(self.region, self.offset, self.size)

    def _within(self, offset: int, length: int) -> int:
        if not 0 <= offset <= offset + length <= self.size:
            raise ValueError(f"{length:#x} bytes at {offset:#x}: the storage has {self.size:#x}")
        return self.offset + offset


@define(eq=False)
class Storage:
    """`size` bytes at `offset` of a region, both multiples of 4096; a reset makes them zeros.

    With its name in `survives_reset` it keeps its bytes until the machine is switched off.
    """

    offset: int
    size: int
    region: Region | None = field(default=None, kw_only=True)
    when: Callable[[Any], bool] | None = field(default=None, init=False)
    whole: bool = field(default=False, init=False)
    name: str = field(default="", init=False)

    def __attrs_post_init__(self) -> None:
        """Check what the author wrote."""
        if self.size <= 0 or self.offset < 0 or self.offset % PAGE or self.size % PAGE:
            raise DeclarationError(
                f"storage at {self.offset:#x} with {self.size:#x} bytes: both are multiples of {PAGE:#x}"
            )

    @property
    def end(self) -> int:
        """First offset behind."""
        return self.offset + self.size

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> Storage: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> Pages: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> Storage | Pages:
        """Give the live storage on a device."""
        return self if instance is None else instance.pages[self.name]

    # --- what the dispatcher calls ---------------------------------------------------

    def allows(self, direction: Direction) -> bool:  # noqa: ARG002
        """Storage is read and written."""
        return True

    def guest_read(self, device: Device) -> int:
        """Read all of it."""
        return self.read_part(device, 0, self.size)

    def guest_write(self, device: Device, value: int, _covered: int) -> None:
        """Write all of it."""
        self.write_part(device, 0, self.size, value)

    def read_part(self, device: Device, skip: int, size: int) -> int:
        """Read `size` bytes behind the first `skip`."""
        return int.from_bytes(device.pages[self.name].read(skip, size), "little")

    def write_part(self, device: Device, skip: int, size: int, value: int) -> None:
        """Write `size` bytes behind the first `skip`."""
        device.pages[self.name].write(skip, value.to_bytes(size, "little"))


def areas_of(device: Device | type[Device], region: str) -> tuple[Area, ...]:
    """Where in a region storage is, low to high."""
    homes = device.storage_homes
    return tuple(
        sorted((found.offset, found.size) for name, found in device.storages.items() if homes[name] == region)
    )


def check_storage(device: str, storages: Iterable[Storage]) -> None:
    """See that all storage of a class fits a saved state.

    Raises:
        DeclarationError: it does not.
    """
    total = sum(storage.size for storage in storages)
    if total > MAX_STORAGE:
        raise DeclarationError(
            f"{device} has {total:#x} bytes of storage; at most {MAX_STORAGE:#x} are saved"
        )
