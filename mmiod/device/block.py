"""A disk image behind a device: requests for sectors of 512 bytes, answered by number.

    disk = Blocks()

    self.disk.identify()                    -> a number; the reply is for `Medium.of`
    self.disk.read(sector, count)           -> a number; the reply is the sectors' bytes
    self.disk.write(sector, data)           -> a number; the reply is empty, as are all others
    self.disk.flush()
    self.disk.discard(sector, count)
    self.disk.write_zeroes(sector, count)

    @disk.on_reply                          # (self, number, data)
    @disk.on_failure                        # (self, number, reason): nothing or a part was done

Requests are done one after the other, as they were sent; what one wrote the next one reads.
All kinds are idempotent: each names its sectors and, for a write, their new content.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, cast, overload

from attrs import define, field, frozen

from mmiod.device.declarations import Client, Effect, Requests

if TYPE_CHECKING:
    from mmiod.device.device import Device
    from mmiod.device.faces import Context

SECTOR: Final = 512
"""Bytes."""
MAX_TRANSFER: Final = 2048
"""Sectors that one request reads or writes at most: 1 MiB."""
MAX_RANGE: Final = 1 << 17
"""Sectors that one request discards or zeroes at most: 64 MiB."""
RANGE: Final = struct.Struct("<QI")
"""First sector and count: of all requests with sectors but `write`, whose data follow `AT`."""
AT: Final = struct.Struct("<Q")
_MEDIUM: Final = struct.Struct("<Q?")

KINDS: Final = ("identify", "read", "write", "flush", "discard", "write_zeroes")
EFFECTS: Final[Mapping[str, Effect]] = dict.fromkeys(KINDS, Effect.IDEMPOTENT)


@frozen
class Medium:
    """What there is to read and write: the reply to `identify`."""

    sectors: int = 0
    read_only: bool = False

    @classmethod
    def of(cls, reply: bytes) -> Medium:
        """From the reply's bytes."""
        return cls(*_MEDIUM.unpack(reply))

    def reply(self) -> bytes:
        """As the reply's bytes."""
        return _MEDIUM.pack(self.sectors, self.read_only)


@define(eq=False)
class BlockClient(Client):
    """A device instance's side of its image; methods return the request's number and never wait."""

    def identify(self) -> int:
        """Ask for the size of the image and whether it may be written: a `Medium`."""
        return self.send("identify")

    def read(self, sector: int, count: int) -> int:
        """Ask for `count` sectors, 1 to `MAX_TRANSFER`."""
        return self._range("read", sector, count, MAX_TRANSFER)

    def write(self, sector: int, data: bytes) -> int:
        """Write whole sectors, 1 to `MAX_TRANSFER`; a later flush makes them last."""
        return self.write_behind(AT.pack(sector) + data)

    def write_behind(self, data: bytes) -> int:
        """`write` of what stands behind the sector, as `AT` packs it: large data are not copied once more."""
        count, rest = divmod(len(data) - AT.size, SECTOR)
        if rest or not 1 <= count <= MAX_TRANSFER:
            raise ValueError(f"{self.name}: a write of {len(data) - AT.size} bytes")
        return self.send("write", data)

    def flush(self) -> int:
        """Make everything that was written last through a loss of power."""
        return self.send("flush")

    def discard(self, sector: int, count: int) -> int:
        """Say that the content of up to `MAX_RANGE` sectors does not matter any more."""
        return self._range("discard", sector, count, MAX_RANGE)

    def write_zeroes(self, sector: int, count: int) -> int:
        """Let up to `MAX_RANGE` sectors read zeroes."""
        return self._range("write_zeroes", sector, count, MAX_RANGE)

    def _range(self, kind: str, sector: int, count: int, most: int) -> int:
        if not 1 <= count <= most:
            raise ValueError(f"{self.name}: a {kind} of {count} sectors")
        return self.send(kind, RANGE.pack(sector, count))


@define(eq=False)
class Blocks(Requests):
    """Declares an image that the machine file names (`block:PATH`)."""

    effects: Mapping[str, Effect] = field(default=EFFECTS, init=False)

    def client(self, context: Context) -> BlockClient:
        """The side of a device instance."""
        return BlockClient(context, self.name, self.effects)

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> Blocks: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> BlockClient: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> Blocks | BlockClient:
        """Give the live service on a device."""
        return self if instance is None else cast("BlockClient", instance.clients[self.name])
