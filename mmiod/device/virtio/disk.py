"""A block device (VIRTIO 1.2, 5.2) on an image of the host.

A request is one of the image's: its size is bounded by what the configuration space says.
Results go to the guest in the order in which the image gave them.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

from attrs import define, field, frozen, validators

from mmiod.device.accesses import MemoryWrite
from mmiod.device.block import MAX_RANGE, SECTOR, Blocks, Medium
from mmiod.device.virtio.device import VirtioConfig, VirtioDevice, VirtioState
from mmiod.device.virtio.disk_requests import FORMS, Type
from mmiod.device.virtio.queue import BrokenQueue, Chain, divide, gather, length_of, scatter
from mmiod.device.work import Moves

QUEUE_SIZE: Final = 128
SEGMENTS: Final = QUEUE_SIZE - 2
"""Of data, beside a header and a status."""
SEGMENT_LENGTH: Final = 8192
"""So a request has less than `MAX_TRANSFER`."""
MAX_TRANSFERS: Final = 32
"""That the image is asked for at a time; it takes twice as many."""
MAX_QUEUES: Final = 8
NOBODYS: Final = -1
ID_LENGTH: Final = 20

HEADER: Final = 16
"""Bytes of type, a reserved word and, from `SECTOR_AT` on, the sector (5.2.6)."""
TYPE: Final = 4
SECTOR_AT: Final = 8
_CONFIG: Final = struct.Struct("<QII4xI10xHIIIIIB3x")


class BlockFeature(enum.IntFlag):
    """Features of the device (5.2.3)."""

    SIZE_MAX = 1 << 1
    SEG_MAX = 1 << 2
    RO = 1 << 5
    BLK_SIZE = 1 << 6
    FLUSH = 1 << 9
    MQ = 1 << 12
    DISCARD = 1 << 13
    WRITE_ZEROES = 1 << 14


OK, IOERR, UNSUPP = 0, 1, 2
"""Status, the last byte of a request (5.2.6)."""


@frozen
class DiskConfig(VirtioConfig):
    """What a machine file chooses."""

    queues: int = field(default=1, validator=[validators.ge(1), validators.le(MAX_QUEUES)])
    serial: str = field(default="mmiod", validator=validators.max_len(ID_LENGTH))


@define
class Transfer:
    """A request that the image is asked for, by its number there."""

    number: int
    queue: int
    """`NOBODYS` if the driver has taken it back."""
    chain: Chain


@define
class Result:
    """What the image said of one, on its way to the guest."""

    transfer: Transfer
    status: int
    data: bytes


@define
class DiskState(VirtioState):
    """Requests under way."""

    medium: Medium = field(factory=Medium)
    identification: int = 0
    """Number of the request for `medium`."""
    transfers: list[Transfer] = field(factory=list)
    """Those that the image has not answered."""
    results: list[Result] = field(factory=list)


class Disk(VirtioDevice):
    """Reads, writes, flushes, discards, zeroes and the serial number, on up to eight queues."""

    device_type = 2
    image = Blocks()
    state: DiskState
    config: DiskConfig

    # --- what the driver sees

    def queue_sizes(self) -> tuple[int, ...]:
        """As many as were configured."""
        return (QUEUE_SIZE,) * self.config.queues

    def own_features(self) -> int:
        """All that is modelled."""
        found = BlockFeature.SIZE_MAX | BlockFeature.SEG_MAX | BlockFeature.BLK_SIZE | BlockFeature.FLUSH
        found |= BlockFeature.DISCARD | BlockFeature.WRITE_ZEROES
        found |= BlockFeature.MQ if self.config.queues > 1 else 0
        return found | (BlockFeature.RO if self.state.medium.read_only else 0)

    def own_config(self) -> bytes:
        """What struct virtio_blk_config has (5.2.4)."""
        return _CONFIG.pack(
            self.state.medium.sectors,
            SEGMENT_LENGTH,
            SEGMENTS,
            SECTOR,
            self.config.queues,
            *(MAX_RANGE, 1, 1),  # discards: sectors, segments, alignment
            *(MAX_RANGE, 1, 0),  # zeroes: sectors, segments, may not unmap
        )

    # --- the image

    def on_reset(self) -> None:
        """Ask what there is."""
        super().on_reset()
        self.state.identification = self.image.identify()

    def on_restore(self) -> None:
        """The image may be another one here."""
        super().on_restore()
        self.state.identification = self.image.identify()

    def inherit(self, before: VirtioState) -> None:
        """The image, and what it still owes."""
        assert isinstance(before, DiskState)
        self.state.medium, self.state.identification = before.medium, before.identification
        self.state.transfers = [Transfer(one.number, NOBODYS, Chain()) for one in before.transfers]

    def abandon(self, number: int) -> None:
        """Of one queue."""
        for transfer in self.state.transfers:
            if transfer.queue == number:
                transfer.queue = NOBODYS
        self.state.results = [one for one in self.state.results if one.transfer.queue != number]

    @image.on_reply
    def _replied(self, number: int, data: bytes) -> None:
        if number != self.state.identification:
            self._resulted(number, OK, data)
            return
        medium = Medium.of(data)
        if medium != self.state.medium:
            self.state.medium = medium
            self.configuration_changed()

    @image.on_failure
    def _failed(self, number: int, reason: str) -> None:
        if number != self.state.identification:
            self.context.notify("disk_request_failed", reason=reason)
            self._resulted(number, IOERR, b"")

    def _resulted(self, number: int, status: int, data: bytes) -> None:
        for transfer in self.state.transfers:
            if transfer.number == number:
                self.state.transfers.remove(transfer)
                if transfer.queue != NOBODYS:
                    self.state.results.append(Result(transfer, status, data))
                break
        self.moving.start()  # there is room for more

    # --- requests

    def room(self, number: int) -> int:  # noqa: ARG002
        """All queues share the image."""
        return MAX_TRANSFERS - len(self.state.transfers) - len(self.state.results)

    def serve(self, number: int, chain: Chain) -> Moves:
        """Ask the image for it, or answer at once."""
        outgoing, incoming = length_of(chain.readable) - HEADER, length_of(chain.writable) - 1
        if outgoing < 0 or incoming < 0:
            raise BrokenQueue("a request without a header or a status")
        start = yield from gather(divide(chain.readable, HEADER)[0])
        kind = int.from_bytes(start[:TYPE], "little")
        form = FORMS.get(kind)
        if kind == Type.GET_ID:
            yield from self._answer(number, chain, OK, self.config.serial.encode().ljust(ID_LENGTH, b"\0"))
        elif form is None:
            yield from self._answer(number, chain, UNSUPP)
        elif not form.fits(outgoing, incoming):
            yield from self._answer(number, chain, IOERR)
        else:
            request = start[SECTOR_AT:]
            if outgoing:  # which is read behind the sector, as the image wants it
                request = yield from gather(divide(chain.readable, SECTOR_AT)[1])
            asked = form.ask(self.image, request, incoming)
            if asked is None:
                yield from self._answer(number, chain, UNSUPP)
                return
            self.state.transfers.append(Transfer(asked, number, chain))
            self.state.queues[number].accept(chain)

    def _answer(self, number: int, chain: Chain, status: int, data: bytes = b"") -> Moves:
        yield from _respond(chain, status, data)
        self.state.queues[number].finish(chain, len(data) + 1)

    def deliver(self) -> Moves:
        """Results to their buffers."""
        state = self.state
        while state.results:
            result = state.results[0]
            transfer = result.transfer
            yield from _respond(transfer.chain, result.status, result.data)
            state.queues[transfer.queue].end(transfer.chain, len(result.data) + 1)
            del state.results[0]


def _respond(chain: Chain, status: int, data: bytes) -> Moves:
    """Data from the begin, the status in the last byte."""
    if data:
        yield from scatter(chain.writable, data[: length_of(chain.writable) - 1])
    last = chain.writable[-1]
    yield MemoryWrite(last.gpa + last.length - 1, bytes((status,)))
