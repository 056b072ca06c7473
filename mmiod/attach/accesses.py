"""Messages of vfio-user that access a function, as accesses to its host."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final, cast

from attrs import define

from mmiod.core.places import Place, place_of
from mmiod.device import Pending
from mmiod.device.pci import Bar, Msi, MsiX, PciFunction
from mmiod.machine.assembly import CONFIG_REGION as CONFIG
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.machine.stop import Spot, Stop
from mmiod.machine.storage import Backings
from mmiod.machine.waist import Busy
from mmiod.protocol.vfio_user import CONFIG_REGION, INTX, MSI, MSIX, REGIONS, Read, Shape, Write, read_reply
from mmiod.values import READ, WRITE, Direction, Space, ones

WIDEST: Final = 8
"""Bytes of one access; a longer message is several, low to high."""

BURST: Final = 64
"""Accesses of one message, after which others get their turn."""

Running = Generator[bool, int | None, bytes]
"""A message under way: yields where it has to wait for the device (True), or lets others have
their turn (False); returns the reply's payload."""


@define(eq=False)
class Accesses:
    """The regions of one function."""

    machine: Machine
    host: InlineHost
    stuck: bool = False
    """The device owes an answer for which nobody waits any more: until it comes it is not there."""
    _stopped: bool = False
    """A break had its stop in this message: its client waits no longer than its deadline."""

    @property
    def function(self) -> PciFunction:
        """The device."""
        return cast("PciFunction", self.host.device)

    @property
    def shape(self) -> Shape:
        """What the client is told of the function."""
        return shape_of(self.function, self._shared)

    @property
    def _shared(self) -> Backings:
        """What a client may map, by region."""
        return self.host.storages if self.host.name in self.machine.mappable else {}

    def descriptor_of(self, region: int) -> int:
        """What a client maps of a region that has areas; its offsets are the region's."""
        return self.host.storages[self._bar(region).name].descriptor

    def _bar(self, region: int) -> Bar:
        return next(bar for bar in self.function.bars if bar.number == region)

    def read(self, asked: Read) -> Running:
        """REGION_READ."""
        self._stopped = False
        data = bytearray()
        for number, (offset, size) in enumerate(pieces(asked.offset, asked.size), 1):
            if not number % BURST:
                yield False
            value = yield from self._access(asked.region, offset, size, READ, 0)
            data += value.to_bytes(size, "little")
        return read_reply(asked.region, asked.offset, bytes(data))

    def write(self, asked: Write) -> Running:
        """REGION_WRITE and WRITE_MULTI."""
        self._stopped = False
        parts = ((one, place) for one in asked.writes for place in pieces(one.offset, len(one.data)))
        for number, (one, (offset, size)) in enumerate(parts, 1):
            if not number % BURST:
                yield False
            start = offset - one.offset
            value = int.from_bytes(one.data[start : start + size], "little")
            yield from self._access(one.region, offset, size, WRITE, value)
        return asked.reply

    def _access(
        self, region: int, offset: int, size: int, direction: Direction, value: int
    ) -> Generator[bool, int | None, int]:
        if self.host.broken and not (self.stuck or self._stopped):
            stop = yield from self._stop(region, offset, size, direction, value)
            if stop is not None and stop.answer is not None:
                return self.machine.breaks.answered(stop)
        while not self.stuck:
            name = self._find(region, offset)
            answer = self.host.access(name, offset, size, direction, value)
            if isinstance(answer, Pending):
                settled = yield True
                assert settled is not None, "a device that owes an answer settles with one"
                return settled
            if not isinstance(answer, Busy):
                return answer
            yield True  # behind a restart: it owes an answer that was given already
        return ones(size) if direction == READ else 0

    def _stop(
        self, region: int, offset: int, size: int, direction: Direction, value: int
    ) -> Generator[bool, int | None, Stop | None]:
        """Wait where a break lets the access stand."""
        name, space, address = self._seen(region, offset)
        breaks = self.machine.breaks
        stop = breaks.stop(Spot(self.host.name, name, offset, space, address), size, direction, value)
        if stop is not None:
            self._stopped = True
            try:
                while not stop.ended:
                    yield True
            finally:
                breaks.end(stop, "dropped")
        return stop

    def _find(self, region: int, offset: int) -> str:
        """A region's name; for the record, note where the guest sees it, as far as that is known here."""
        name, space, address = self._seen(region, offset)
        cause = self.machine.cause
        cause.vcpu, cause.sequence, cause.pc = -1, cause.sequence + 1, -1
        cause.space, cause.address = space, address
        return name

    def _seen(self, region: int, offset: int) -> tuple[str, Space, int]:
        space, name = Space.PCI_CONFIG, CONFIG
        if region != CONFIG_REGION:
            bar = self._bar(region)
            space, name = bar.space, bar.name
        placed = self.machine.claims.get((self.host.name, name))
        return name, space, offset if placed is None else placed[1].base + offset

    def place(self, region: int, offset: int, size: int, direction: Direction) -> Place | None:
        """What is there, for the flat lane, if it is plain."""
        name, space, address = self._seen(region, offset)
        return place_of(self.host, name, offset, size, direction, (space, address))

    def give_up(self) -> None:
        """Wait for the device no more: what it answers late is nobody's."""
        self.stuck = self.host.owes is not None

    def late(self) -> bool:
        """The device gave an answer that it owed; whether nobody waits for it any more."""
        late, self.stuck = self.stuck, False
        return late

    def reset(self) -> None:
        """Reset the device; it owes nothing then."""
        self.host.reset()
        self.stuck = False

    def mask_vectors(self, assigned: set[int]) -> None:
        """Make the function's MSI-X table say which vectors are waited for.

        The guest's own table is the client's and never comes here.  In this one an entry's
        data is its number, and its address 0.
        """
        for capability in self._msix():
            bar, start = capability.table
            for vector in range(capability.vectors):
                entry = start + 16 * vector
                self.host.access(bar.name, entry + 8, 4, WRITE, vector)
                self.host.access(bar.name, entry + 12, 4, WRITE, int(vector not in assigned))

    @property
    def has_msix(self) -> bool:
        """Whether the function has MSI-X."""
        return bool(self._msix())

    def _msix(self) -> list[MsiX]:
        return [found for found in self.function.capabilities if isinstance(found, MsiX)]


def shape_of(function: PciFunction, shared: Backings) -> Shape:
    """A function's regions and interrupts; errors and requests have one each, as QEMU warns without."""
    regions = [0] * REGIONS
    regions[CONFIG_REGION] = function.regions[CONFIG].length
    for bar in function.bars:
        regions[bar.number] = bar.length
    vectors = {INTX: int(function.interrupt_pin_number > 0), MSI: 0, MSIX: 0}
    for capability in function.capabilities:
        if isinstance(capability, Msi | MsiX):
            vectors[MSIX if isinstance(capability, MsiX) else MSI] = capability.vectors
    areas = {bar.number: shared[bar.name].areas for bar in function.bars if bar.name in shared and not bar.io}
    return Shape(tuple(regions), (vectors[INTX], vectors[MSI], vectors[MSIX], 1, 1), areas)


def pieces(offset: int, size: int) -> Iterator[tuple[int, int]]:
    """Offsets and sizes of the accesses that a message is: itself, or naturally aligned ones."""
    if size in {1, 2, 4, 8}:
        yield offset, size
        return
    end = offset + size
    while offset < end:
        taken = min(WIDEST, offset & -offset or WIDEST, 1 << (end - offset).bit_length() - 1)
        yield offset, taken
        offset += taken
