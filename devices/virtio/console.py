"""A console over PCI: the guest's /dev/hvc0.

Specification: VIRTIO 1.2, 4.1 and 5.3; `mmiod.device.virtio`.  The machine file says where the
text goes: `streams = { terminal = "pty" }`.

Modelled: one port, and the size of its window.  Not modelled: several ports, emergency write,
the legacy interface.
A hostile guest makes nothing grow: 4 KiB wait for its buffers, 64 KiB of one of its own are sent.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

from attrs import define, field, frozen, validators

from mmiod.device import Stream
from mmiod.device.virtio import (
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
"""Queues (5.3.2)."""
QUEUE_SIZE: Final = 64
WAITING: Final = 4096
LONGEST: Final = 1 << 16
_CONFIG: Final = struct.Struct("<HHII")


class ConsoleFeature(enum.IntFlag):
    """Features of the device (5.3.3)."""

    SIZE = 1 << 0


@frozen
class ConsoleConfig(VirtioConfig):
    """The window."""

    columns: int = field(default=80, validator=[validators.ge(1), validators.le(0xFFFF)])
    rows: int = field(default=25, validator=[validators.ge(1), validators.le(0xFFFF)])


@define
class ConsoleState(VirtioState):
    """Text that waits for buffers of the guest."""

    received: bytearray = field(factory=bytearray)


class VirtioConsole(VirtioPci, class_code=0x078000, vectors=3):
    """1AF4h:1043h."""

    device_type = 3
    terminal = Stream()
    state: ConsoleState
    config: ConsoleConfig

    def queue_sizes(self) -> tuple[int, ...]:
        """Of port 0."""
        return QUEUE_SIZE, QUEUE_SIZE

    def own_features(self) -> int:
        """The window has a size."""
        return ConsoleFeature.SIZE

    def own_config(self) -> bytes:
        """Columns, rows, ports, emergency write (5.3.4)."""
        return _CONFIG.pack(self.config.columns, self.config.rows, 1, 0)

    @terminal.room
    def _room(self) -> int:
        return WAITING - len(self.state.received) if self.live else 0

    @terminal.on_receive
    def _typed(self, data: bytes) -> None:
        self.state.received += data
        self.moving.start()

    def started(self) -> None:
        """The guest takes text from now on."""
        self.terminal.ready()

    def room(self, number: int) -> int:
        """Buffers to fill, while there is text; others at any time."""
        return int(bool(self.state.received)) if number == RECEIVE else QUEUE_SIZE

    def serve(self, number: int, chain: Chain) -> Moves:
        """Text goes either way."""
        queue = self.state.queues[number]
        if number == TRANSMIT:
            text = yield from gather(divide(chain.readable, LONGEST)[0])
            self.terminal.send(text)
            queue.finish(chain, 0)
            return
        text = bytes(self.state.received[: length_of(chain.writable)])
        yield from scatter(chain.writable, text)
        del self.state.received[: len(text)]
        queue.finish(chain, len(text))
        self.terminal.ready()
