"""An entropy source (VIRTIO 1.2, 5.4).

Nothing is drawn from the host before the guest wants it, and never more than `AHEAD` bytes.
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
        """A buffer at a time, while there are bytes."""
        if not self.state.entropy:
            self.source.ready()
        return int(bool(self.state.entropy))

    def serve(self, number: int, chain: Chain) -> Moves:
        """Fill as much of it as there is."""
        if not chain.writable:
            raise BrokenQueue("a buffer for entropy that is not for writing")
        data = bytes(self.state.entropy[: length_of(chain.writable)])
        yield from scatter(chain.writable, data)
        del self.state.entropy[: len(data)]
        self.state.queues[number].finish(chain, len(data))
