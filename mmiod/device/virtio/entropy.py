"""An entropy source (VIRTIO 1.2, 5.4).

Nothing is drawn from the host before the guest wants it, and never more than `AHEAD` bytes.

A buffer is filled when there are `AHEAD` bytes: with as many as it takes of them, never with what
a slow source has given so far.  5.4.6.2 allows that, but Linux' driver (6.12) stalls: it waits
without end for what remains of its 64 bytes, some buffers after the device gave 48 or 63 of them;
32 and 64 go well.  QEMU's own device shows the same (`max-bytes=48`, 63, 32, 64).
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from mmiod.device.declarations import Stream
from mmiod.device.virtio.device import VirtioDevice, VirtioState
from mmiod.device.virtio.queue import BrokenQueue, Chain, length_of, scatter
from mmiod.device.work import Moves

QUEUE_SIZE: Final = 8
AHEAD: Final = 64
"""Bytes: what Linux' driver asks for at a time."""


@define
class EntropyState(VirtioState):
    """Bytes that are not the guest's yet."""

    entropy: bytearray = field(factory=bytearray)


class Entropy(VirtioDevice):
    """One queue of buffers to fill; `source` gives the bytes."""

    device_type = 4
    source = Stream()
    state: EntropyState

    def queue_sizes(self) -> tuple[int, ...]:
        """The requestq."""
        return (QUEUE_SIZE,)

    @source.room
    def _room(self) -> int:
        wanted = any(queue.wanted for queue in self.state.queues)
        return AHEAD - len(self.state.entropy) if wanted else 0

    @source.on_receive
    def _drawn(self, data: bytes) -> None:
        self.state.entropy += data
        self.moving.start()

    def room(self, number: int) -> int:  # noqa: ARG002
        """A buffer at a time, while there are bytes enough for it."""
        enough = len(self.state.entropy) >= AHEAD
        if not enough:
            self.source.ready()
        return int(enough)

    def serve(self, number: int, chain: Chain) -> Moves:
        """Fill it, or its begin."""
        if not chain.writable:
            raise BrokenQueue("a buffer for entropy that is not for writing")
        data = bytes(self.state.entropy[: length_of(chain.writable)])
        yield from scatter(chain.writable, data)
        del self.state.entropy[: len(data)]
        self.state.queues[number].finish(chain, len(data))
