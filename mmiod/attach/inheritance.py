"""What a function's attachment leaves to the same function of the program that this one becomes.

Taken at rest, between two messages: connections with what has come of the next messages and
what of a reply has not gone, the memory that the client shared, and its eventfds.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Mapping

from attrs import field, frozen

from mmiod.attach.dma import DmaMaps
from mmiod.attach.function import FunctionAttachment
from mmiod.attach.interrupts import Interrupts
from mmiod.attach.waits import Visit
from mmiod.core.descriptor_table import DescriptorTable
from mmiod.device.storage import Area
from mmiod.machine.slot import ByDescriptor, Mapped, Slot, storage_of
from mmiod.machine.storage import Backing, Backings
from mmiod.machine.waist import Owed
from mmiod.protocol.vfio_user import Asked, Message
from mmiod.values import Direction


@frozen
class MessageEstate:
    """A message that came, perhaps in part."""

    data: bytes
    descriptors: list[int]


@frozen
class VisitEstate:
    """A connection; all descriptors are places in the table."""

    connection: int
    client: bool
    """Whether it is the one that the function belongs to."""
    negotiated: bool
    reach: int
    asked: list[tuple[int, int, int]]
    """Messages about its memory that it has not answered: id, command and count."""
    received: list[MessageEstate]
    unsent: bytes


@frozen
class SlotEstate:
    """Guest memory from `gpa` on; without a descriptor only messages reach it."""

    gpa: int
    length: int
    read_only: bool
    descriptor: int | None
    offset: int


@frozen
class EventfdEstate:
    """An interrupt that the client waits for."""

    index: int
    number: int
    descriptor: int


@frozen
class InterruptsEstate:
    """All of a function's."""

    eventfds: list[EventfdEstate]
    masked: bool
    unmasking: int | None


@frozen
class OwedEstate:
    """An access that was given up, and that the device still owes an answer."""

    direction: int
    size: int
    value: int
    register: str
    since_ns: int
    answered: bool


@frozen
class ShapeEstate:
    """What the client knows of the function."""

    regions: list[int]
    irqs: list[int]
    areas: dict[str, list[list[int]]] = field(factory=dict)
    """What it may have mapped, by region."""


@frozen
class StorageEstate:
    """All storage of one region."""

    areas: list[list[int]]
    descriptor: int


@frozen
class FunctionEstate:
    """One function."""

    shape: ShapeEstate
    visits: list[VisitEstate]
    slots: list[SlotEstate]
    interrupts: InterruptsEstate
    owed: OwedEstate | None


def shape(function: FunctionAttachment) -> ShapeEstate:
    """What a client is told of a function."""
    found = function.accesses.shape
    areas = {str(region): _plain(areas) for region, areas in found.areas.items()}
    return ShapeEstate(list(found.regions), list(found.irqs), areas)


def _plain(areas: Iterable[Area]) -> list[list[int]]:
    return [list(area) for area in areas]


def bequeath_storage(backings: Backings, table: DescriptorTable) -> dict[str, StorageEstate]:
    """What a device has stored, by region."""
    return {
        region: StorageEstate(_plain(backing.areas), table.keep(backing.descriptor))
        for region, backing in backings.items()
    }


def fits(backings: Backings, estates: Mapping[str, StorageEstate]) -> bool:
    """Whether a device has its storage where it was."""
    was = {region: estate.areas for region, estate in estates.items()}
    return was == {region: _plain(backing.areas) for region, backing in backings.items()}


def inherit_storage(backings: Backings, estates: Mapping[str, StorageEstate], table: DescriptorTable) -> None:
    """Take a device's storage over, where it `fits`."""
    for region, estate in estates.items():
        backings[region] = Backing(backings[region].areas, table.take(estate.descriptor))


def bequeath(function: FunctionAttachment, table: DescriptorTable) -> FunctionEstate:
    """What a function leaves."""
    owed = function.host.owes
    return FunctionEstate(
        shape(function),
        [_visit(visit, function.client is visit, table) for visit in function.visits],
        [_slot(slot, table) for slot in function.maps.memory.slots.values()],
        _interrupts(function.interrupts, table),
        None
        if owed is None
        else OwedEstate(
            int(owed.direction), owed.size, owed.value, owed.register, owed.since_ns, owed.answered
        ),
    )


def inherit(function: FunctionAttachment, estate: FunctionEstate, table: DescriptorTable) -> None:
    """Take the client over; the machine's state comes after that, and then `resume`."""
    for slot in estate.slots:
        _map(function.maps, slot, table)
    eventfds = {(one.index, one.number): table.take(one.descriptor) for one in estate.interrupts.eventfds}
    unmasking = estate.interrupts.unmasking
    function.interrupts.resume(
        eventfds,
        masked=estate.interrupts.masked,
        unmasking=None if unmasking is None else table.take(unmasking),
    )
    function.held = True
    for left in estate.visits:
        visit = function.visit(socket.socket(fileno=table.take(left.connection)), left.unsent)
        received = [
            Message(bytearray(one.data), descriptors=[table.take(place) for place in one.descriptors])
            for one in left.received
        ]
        asked = Asked({number: (command, count) for number, command, count in left.asked})
        visit.session.resume(received, negotiated=left.negotiated, reach=left.reach, asked=asked)
        if left.client:
            function.belong_to(visit)
        visit.stream.hold(True)


def resume(function: FunctionAttachment, estate: FunctionEstate) -> None:
    """Serve on; the device has its state."""
    function.interrupts.level = function.host.device.lines["intx"].level  # masked if it was told
    owed = estate.owed
    if owed is not None:
        function.host.owes = Owed(
            Direction(owed.direction), owed.size, owed.value, owed.register, owed.since_ns, owed.answered
        )
        function.host.cut()
        function.accesses.give_up()
    function.pump.soon(function.go_on)


def _visit(visit: Visit, client: bool, table: DescriptorTable) -> VisitEstate:
    received = [
        MessageEstate(bytes(message.data), [table.keep(number) for number in message.descriptors])
        for message in visit.session.received
    ]
    sock, unsent = visit.stream.sock, visit.stream.unsent
    session = visit.session
    asked = [(number, command, count) for number, (command, count) in session.asked.waiting.items()]
    return VisitEstate(
        table.keep(sock.fileno()), client, session.negotiated, session.reach, asked, received, unsent
    )


def _slot(slot: Slot, table: DescriptorTable) -> SlotEstate:
    storage = slot.storage
    descriptor, offset = None, 0
    if isinstance(storage, Mapped | ByDescriptor):
        descriptor, offset = table.keep(storage.descriptor), storage.offset
    return SlotEstate(slot.gpa, slot.length, slot.read_only, descriptor, offset)


def _map(maps: DmaMaps, slot: SlotEstate, table: DescriptorTable) -> None:
    storage = None
    if slot.descriptor is not None:
        descriptor = table.take(slot.descriptor)
        storage = storage_of(descriptor, slot.offset, slot.length, read_only=slot.read_only)
    maps.add(slot.gpa, slot.length, slot.read_only, storage)


def _interrupts(interrupts: Interrupts, table: DescriptorTable) -> InterruptsEstate:
    unmasking = interrupts.unmasking
    return InterruptsEstate(
        [EventfdEstate(*key, table.keep(number)) for key, number in interrupts.eventfds.items()],
        interrupts.masked,
        None if unmasking is None else table.keep(unmasking),
    )
