"""What clients ask of the device, each with the checks that a table cannot make.

Every function takes a request's members, its tail and its descriptors.  Specification: QEMU
docs/interop/vfio-user.rst, the command's own section.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterator, Mapping
from typing import Final

from attrs import field, frozen

from mmiod.errors import ProtocolError
from mmiod.protocol.vfio_user import table
from mmiod.protocol.vfio_user.table import COMMANDS, LAYOUTS

MAX_TRANSFER: Final = 1 << 20
"""Bytes of one region access."""
ADDRESS_SPACE: Final = 1 << 64


@frozen
class Request:
    """A message that may want an answer."""

    id: int
    command: int
    quiet: bool = False
    """No reply, not even an error (flag No_reply)."""

    @property
    def name(self) -> str:
        """The command's."""
        known = COMMANDS.get(self.command)
        return known.name if known else f"command {self.command}"


@frozen
class Shape:
    """What a function consists of: bytes of each region and number of each kind of interrupt."""

    regions: tuple[int, ...]
    """By region number, 9 of them; 0: there is none."""
    irqs: tuple[int, ...]
    """INTx, MSI, MSI-X, errors, requests."""
    areas: Mapping[int, tuple[tuple[int, int], ...]] = field(factory=dict)
    """Offset and size of what a client may map, by region."""


@frozen
class MapMemory:
    """Guest memory appears; with a descriptor it can be reached."""

    request: Request
    address: int
    length: int
    offset: int
    read_only: bool
    descriptor: int | None


@frozen
class UnmapMemory:
    """Guest memory goes: what lies within `length` bytes from `address`."""

    request: Request
    address: int
    length: int
    echo: bytes
    """The reply's payload."""


@frozen
class SetIrqs:
    """`count` interrupts of a kind from `start`: `action` on them, by eventfd or at once.

    `descriptors` has one of each for DATA_EVENTFD (None: take it away), `chosen` one of each
    for DATA_NONE and DATA_BOOL.
    """

    request: Request
    index: int
    action: int
    start: int
    count: int
    descriptors: tuple[int | None, ...] | None
    chosen: tuple[bool, ...] = ()


@frozen
class Read:
    """Bytes of a region; they are inside of it."""

    request: Request
    region: int
    offset: int
    size: int


@frozen
class OneWrite:
    """Bytes for a region, inside of it."""

    region: int
    offset: int
    data: bytes


@frozen
class Write:
    """One write, or several in their order."""

    request: Request
    writes: tuple[OneWrite, ...]
    reply: bytes
    """The reply's payload."""


@frozen
class ShareRegion:
    """GET_REGION_INFO by who has room for the areas of a region: its descriptor goes with the reply."""

    request: Request
    region: int
    reply: bytes
    """The reply's payload."""


@frozen
class Reset:
    """DEVICE_RESET: memory and eventfds stay."""

    request: Request


def refused(name: str, value: int, reason: str, code: int = errno.EINVAL) -> ProtocolError:
    """An error reply; the connection goes on."""
    return ProtocolError(code, name, value, reason, fatal=False)


def check(holds: object, name: str, value: int, reason: str) -> None:
    """Refuse with EINVAL unless `holds` is true."""
    if not holds:
        raise refused(name, value, reason)


def map_memory(request: Request, asked: dict[str, int], descriptors: list[int]) -> MapMemory:
    """DMA_MAP; takes the descriptor over, if there is one."""
    address, length, flags = asked["address"], asked["size"], asked["flags"]
    check(asked["argsz"] >= LAYOUTS["dma_map"].size, "dma_map.argsz", asked["argsz"], "32 or more")
    check(not flags & ~table.MAP_FLAGS, "dma_map.flags", flags, "unknown bits")
    check(0 < length <= ADDRESS_SPACE - address, "dma_map.size", length, f"from {address:#x} on")
    check(asked["offset"] < 1 << 63, "dma_map.offset", asked["offset"], "no file is so long")
    descriptor = descriptors.pop() if descriptors else None
    return MapMemory(request, address, length, asked["offset"], not flags & table.MAP_WRITE, descriptor)


def unmap_memory(request: Request, asked: dict[str, int], payload: bytes) -> UnmapMemory:
    """DMA_UNMAP, of a range or of everything; its reply repeats it."""
    echo = payload[: LAYOUTS["dma_unmap"].size]
    if asked["flags"] & table.UNMAP_ALL:
        return UnmapMemory(request, 0, ADDRESS_SPACE, echo)
    return UnmapMemory(request, asked["address"], asked["size"], echo)


def set_irqs(
    request: Request, asked: dict[str, int], tail: bytes, descriptors: list[int], shape: Shape
) -> SetIrqs:
    """SET_IRQS in the dialects of all clients; takes the descriptors over."""
    index, start, count = asked["index"], asked["start"], asked["count"]
    check(index < table.IRQS, "set_irqs.index", index, f"there are {table.IRQS}")
    has = shape.irqs[index]
    check(start + count <= has, "set_irqs.count", count, f"from {start} on, of {has}")
    data, action = asked["flags"] & 7, asked["flags"] & ~7
    one_action = action in {table.ACTION_MASK, table.ACTION_UNMASK, table.ACTION_TRIGGER}
    check(one_action, "set_irqs.flags", asked["flags"], "not one action")
    if data == table.DATA_EVENTFD:
        given = _eventfds(count, tail, descriptors)
        descriptors.clear()
        return SetIrqs(request, index, action, start, count, given)
    check(not descriptors, "set_irqs descriptors", len(descriptors), "they come with DATA_EVENTFD")
    if data == table.DATA_NONE:
        return SetIrqs(request, index, action, start, count, None, (True,) * count)
    check(data == table.DATA_BOOL, "set_irqs.flags", asked["flags"], "not one kind of data")
    check(len(tail) == count, "set_irqs data", len(tail), f"{count} bytes")
    return SetIrqs(request, index, action, start, count, None, tuple(map(bool, tail)))


def _eventfds(count: int, tail: bytes, descriptors: list[int]) -> tuple[int | None, ...]:
    """One for each interrupt.

    QEMU and rust-vmm send all of them or none.  alioth sends an int32 for each besides: -1
    takes one away, what is not negative has the next descriptor.
    """
    wanted = [True] * count
    if tail:
        check(len(tail) == 4 * count, "set_irqs data", len(tail), f"{4 * count} bytes")
        wanted = [number >= 0 for number in struct.unpack(f"<{count}i", tail)]
    elif not descriptors:
        wanted = [False] * count
    expected = sum(wanted)
    check(len(descriptors) == expected, "set_irqs descriptors", len(descriptors), f"{expected} are needed")
    following = iter(descriptors)
    return tuple(next(following) if want else None for want in wanted)


def within(shape: Shape, region: int, offset: int, count: int) -> bool:
    """Whether an access is inside of a region that the function has."""
    return region < table.REGIONS and 0 < count <= shape.regions[region] - offset


def writes(payload: bytes) -> Iterator[OneWrite]:
    """The parts of WRITE_MULTI, each of at most 8 bytes."""
    one = LAYOUTS["one_write"]
    count, size = LAYOUTS["write_multi"].read(payload)["count"], LAYOUTS["write_multi"].size
    check(len(payload) - size == count * one.size, "write_multi.count", count, f"{len(payload)} bytes")
    for place in range(size, len(payload), one.size):
        part = one.read(payload[place : place + one.size])
        check(1 <= part["count"] <= 8, "write_multi.count", part["count"], "1 to 8 bytes")
        yield OneWrite(part["region"], part["offset"], part["data"].to_bytes(8, "little")[: part["count"]])
