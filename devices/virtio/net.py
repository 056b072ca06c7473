"""A network card over PCI: the guest's eth0.

Specification: VIRTIO 1.2, 4.1 and 5.1; `mmiod.device.virtio`.  The machine file names the other
end of the wire, a Unix datagram socket: `streams = { wire = "datagram:PATH" }`.  A datagram
is an Ethernet frame without its checksum, as in QEMU's `-netdev dgram`.

Modelled: one pair of queues, the MAC address, a link that is up.  Not modelled: offloads,
merged buffers, the control queue and its filters (everything is received), several pairs, the
legacy interface.
A hostile guest makes nothing grow: 64 frames wait for its buffers, later ones are lost as on
any wire.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

from attrs import define, field, frozen, validators

from mmiod.device import Stream
from mmiod.device.virtio import (
    BrokenQueue,
    Chain,
    VirtioConfig,
    VirtioPci,
    VirtioState,
    divide,
    gather,
    length_of,
    scatter,
)
from mmiod.device.work import Moves

API = 1

RECEIVE, TRANSMIT = 0, 1
"""Queues (5.1.2)."""
QUEUE_SIZE: Final = 256
WAITING: Final = 64
LONGEST: Final = 4096
"""Bytes of a frame; what is longer is lost."""
HEADER: Final = struct.pack("<BBHHHHH", 0, 0, 0, 0, 0, 0, 1)
"""No offloads, one buffer (5.1.6)."""
LINK_UP: Final = 1
_CONFIG: Final = struct.Struct("<6sHH")


class NetFeature(enum.IntFlag):
    """Features of the device (5.1.3)."""

    MAC = 1 << 5
    STATUS = 1 << 16


@frozen
class NetConfig(VirtioConfig):
    """The card's address, as "52:54:00:12:34:56"."""

    mac: str = field(
        default="52:54:00:12:34:56", validator=validators.matches_re(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
    )


@define
class NetState(VirtioState):
    """Frames that wait for buffers of the guest."""

    received: list[bytes] = field(factory=list)


class VirtioNet(VirtioPci, class_code=0x020000, vectors=3):
    """1AF4h:1041h."""

    device_type = 1
    wire = Stream()
    state: NetState
    config: NetConfig

    def queue_sizes(self) -> tuple[int, ...]:
        """One pair."""
        return QUEUE_SIZE, QUEUE_SIZE

    def own_features(self) -> int:
        """An address, and a link."""
        return NetFeature.MAC | NetFeature.STATUS

    def own_config(self) -> bytes:
        """Address, status, pairs (5.1.4)."""
        return _CONFIG.pack(bytes.fromhex(self.config.mac.replace(":", "")), LINK_UP, 1)

    @wire.room
    def _room(self) -> int:
        """A frame comes whole or not at all."""
        return LONGEST if len(self.state.received) < WAITING else 0

    @wire.on_receive
    def _arrived(self, frame: bytes) -> None:
        if self.live:
            self.state.received.append(frame)
            self.moving.start()

    def room(self, number: int) -> int:
        """Buffers to fill, while there are frames; others at any time."""
        return len(self.state.received) if number == RECEIVE else QUEUE_SIZE

    def serve(self, number: int, chain: Chain) -> Moves:
        """A frame goes either way; one that is too long for its buffer is lost."""
        queue = self.state.queues[number]
        if number == TRANSMIT:
            _, buffers = divide(chain.readable, len(HEADER))
            if length_of(buffers) <= LONGEST:
                self.wire.send((yield from gather(buffers)))
            queue.finish(chain, 0)
            return
        room = length_of(chain.writable)
        if room < len(HEADER):
            raise BrokenQueue(f"a buffer of {room} bytes for a frame")
        frame = HEADER + self.state.received[0]
        if len(frame) > room:
            frame = HEADER
        yield from scatter(chain.writable, frame)
        del self.state.received[0]
        queue.finish(chain, len(frame))
        self.wire.ready()
