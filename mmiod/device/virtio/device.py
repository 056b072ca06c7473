"""A virtio device: features, status and queues, whatever transport a driver finds it on.

    class Echo(VirtioDevice):                   # a model; VirtioPci or VirtioMmio is mixed in
        device_type = 42
        state: EchoState                        # a subclass of VirtioState

        def queue_sizes(self) -> tuple[int, ...]: ...
        def room(self, number) -> int: ...      # chains of this queue that it takes now
        def serve(self, number, chain) -> Moves:
            data = yield from gather(chain.readable)
            yield from scatter(chain.writable, data)
            self.state.queues[number].finish(chain, len(data))

Numbers in comments are sections of Virtual I/O Device (VIRTIO) 1.2.  Of the driver's
notifications a queue keeps that there was one; all work is one run of `moving`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import ClassVar, Final

from attrs import define, field, frozen

from mmiod.device.device import Device
from mmiod.device.virtio.packed import WRAP, PackedRing
from mmiod.device.virtio.queue import BrokenQueue, Chain, Queue, Ring
from mmiod.device.virtio.split import SplitRing
from mmiod.device.work import Moves, Work

WORD: Final = 0xFFFF_FFFF


class Feature(enum.IntFlag):
    """Features of all devices (6)."""

    INDIRECT_DESC = 1 << 28
    EVENT_IDX = 1 << 29
    VERSION_1 = 1 << 32
    RING_PACKED = 1 << 34
    RING_RESET = 1 << 40


class DeviceStatus(enum.IntFlag):
    """The device status field (2.1)."""

    ACKNOWLEDGE = 1
    DRIVER = 2
    DRIVER_OK = 4
    FEATURES_OK = 8
    DEVICE_NEEDS_RESET = 64
    FAILED = 128


_EVENT_IDX: Final = Feature.EVENT_IDX.value
_RING_PACKED: Final = Feature.RING_PACKED.value
_DRIVER_OK: Final = DeviceStatus.DRIVER_OK.value
_UNUSABLE: Final = _DRIVER_OK | DeviceStatus.DEVICE_NEEDS_RESET.value


@frozen
class VirtioConfig:
    """What a machine file chooses of every device; a driver takes what it knows."""

    packed: bool = field(default=False)
    """Offer packed queues."""
    event_index: bool = field(default=True)
    """Offer notifications by index."""
    msix: bool = field(default=True)
    """On PCI: interrupts by MSI-X, else by INTx alone."""


@define
class VirtioState:
    """What every device keeps."""

    status: int = 0
    features: int = 0
    """What the driver accepted."""
    generation: int = 0
    """Of the configuration space, 8 bits."""
    queues: list[Queue] = field(factory=list)


class VirtioDevice(Device):
    """What every device does; a transport overrides the last three methods."""

    device_type: ClassVar[int] = 0
    """The device ID (5)."""
    state: VirtioState
    config: VirtioConfig
    moving = Work()

    # --- what a model says

    def queue_sizes(self) -> Sequence[int]:
        """Override: the largest size of each queue, powers of two."""
        raise NotImplementedError

    def own_features(self) -> int:
        """Override: what the model offers, bits 0 to 23."""
        return 0

    def own_config(self) -> bytes:
        """Override: the device-specific configuration space as it is now."""
        return b""

    def room(self, number: int) -> int:  # noqa: ARG002
        """Override: how many chains of a queue the model takes now."""
        return 1

    def serve(self, number: int, chain: Chain) -> Moves:
        """Override: take a chain of a queue, by the queue's `accept` or `finish`.

        Nothing may be yielded between that and what else changes in `state`.
        """
        raise NotImplementedError

    def started(self) -> None:
        """Override: the driver has finished its set-up (DRIVER_OK)."""

    def deliver(self) -> Moves:
        """Override: put what came from backends where the driver waits for it."""
        yield from ()

    def abandon(self, number: int) -> None:
        """Override: forget buffers of a queue that were accepted and not finished."""

    def inherit(self, before: VirtioState) -> None:
        """Override: keep of the state before a driver's reset what is not the driver's."""

    # --- features and status, of 2.1, 2.2 and 3.1

    @property
    def offered(self) -> int:
        """All features."""
        found = self.own_features() | Feature.VERSION_1 | Feature.INDIRECT_DESC | Feature.RING_RESET
        found |= Feature.RING_PACKED if self.config.packed else 0
        return found | (Feature.EVENT_IDX if self.config.event_index else 0)

    def feature_word(self, select: int) -> int:
        """32 bits of what is offered."""
        return self.offered >> 32 * select & WORD if select < 2 else 0

    def accepted_word(self, select: int) -> int:
        """32 bits of what the driver accepted."""
        return self.state.features >> 32 * select & WORD if select < 2 else 0

    def accept_word(self, select: int, value: int) -> None:
        """The driver accepts features, until it says that these are all."""
        if select < 2 and not self.state.status & DeviceStatus.FEATURES_OK:
            kept = self.state.features & ~(WORD << 32 * select)
            self.state.features = kept | value << 32 * select

    def negotiated(self, feature: Feature) -> bool:
        """Whether both have it."""
        return self.state.features & feature.value != 0  # of plain numbers: it is asked often

    def write_status(self, value: int) -> None:
        """The driver's progress; 0 resets the device."""
        if not value:
            self._reset_by_driver()
            return
        if value & DeviceStatus.FEATURES_OK and not self._acceptable():
            value &= ~DeviceStatus.FEATURES_OK
        begins = value & ~self.state.status & DeviceStatus.DRIVER_OK
        self.state.status = value | self.state.status & DeviceStatus.DEVICE_NEEDS_RESET
        if begins and self.live:
            self.started()
            self.moving.start()

    def _acceptable(self) -> bool:
        return not self.state.features & ~self.offered and self.negotiated(Feature.VERSION_1)

    @property
    def live(self) -> bool:
        """Whether the device may use its queues."""
        return int(self.state.status) & _UNUSABLE == _DRIVER_OK

    def on_reset(self) -> None:
        """Queues as the driver finds them."""
        self.state.queues = [Queue(size) for size in self.queue_sizes()]

    def on_restart(self) -> None:
        """Notifications may be lost, or a run: look at all queues."""
        super().on_restart()
        for queue in self.state.queues:
            queue.rung = queue.wanted = queue.enabled
        if self.live:
            self.moving.start()

    def _reset_by_driver(self) -> None:
        """2.4: nothing of the driver's is used any more."""
        self.moving.cancel()
        before, self.state = self.state, self.state_class()
        self.state.queues = [Queue(size) for size in self.queue_sizes()]
        self.inherit(before)
        self.reset_transport()

    def configuration_changed(self) -> None:
        """`own_config` gives something else now (2.5)."""
        self.state.generation = self.state.generation + 1 & 0xFF
        if self.live:
            self.tell_configuration()

    # --- queues

    def queue(self, number: int) -> Queue | None:
        """A queue, if there is one of that number."""
        return self.state.queues[number] if number < len(self.state.queues) else None

    def resize_queue(self, number: int, size: int) -> None:
        """The driver wants a smaller one (4.1.4.3.2); what does not fit is ignored."""
        if not self.state.queues[number].enabled and 0 < size <= self.queue_sizes()[number]:
            self.state.queues[number].size = size

    def enable_queue(self, number: int) -> None:
        """The driver has set it up; of a packed one both wrap counters are 1 (2.8.1)."""
        queue = self.state.queues[number]
        if not queue.enabled:
            queue.enabled = True
            queue.available = queue.used = WRAP if self.negotiated(Feature.RING_PACKED) else 0

    def reset_queue(self, number: int) -> None:
        """The driver takes everything back (2.6.1)."""
        self.moving.cancel()
        self.state.queues[number] = Queue(self.queue_sizes()[number])
        self.abandon(number)
        if self.live:
            self.moving.start()

    def ring(self, number: int) -> Ring:
        """A queue in the layout that was negotiated."""
        features, queue = self.state.features, self.state.queues[number]
        event_index = bool(features & _EVENT_IDX)
        if features & _RING_PACKED:
            return PackedRing(queue, event_index)
        return SplitRing(queue, event_index)

    def notified(self, number: int) -> None:
        """The driver has made buffers available; what is no queue of its is ignored."""
        queue = self.queue(number)
        if queue is not None and queue.enabled and self.live:
            queue.rung = queue.wanted = True
            self.moving.start()

    # --- the run

    @moving.on_run
    def _move(self) -> Moves:
        try:
            if self.live:
                yield from self.deliver()
            for number, queue in enumerate(self.state.queues):
                if queue.enabled and self.live:
                    yield from self._publish(number, queue)
                    yield from self._take(number, queue)
                    yield from self._publish(number, queue)
        except BrokenQueue as broken:
            self._needs_reset(str(broken))

    def _take(self, number: int, queue: Queue) -> Moves:
        ring = self.ring(number)
        while queue.wanted and (room := self.room(number)) > 0:
            queue.rung = False
            chains = yield from ring.take(room)
            for chain in chains:
                yield from self.serve(number, chain)
            if len(chains) < room and not (yield from ring.arm()):
                queue.wanted = queue.rung

    def _publish(self, number: int, queue: Queue) -> Moves:
        while queue.finished:
            if (yield from self.ring(number).put()):
                self.tell_queue(queue)

    def _needs_reset(self, reason: str) -> None:
        """2.1.2: the driver is to begin anew."""
        self.context.notify("queue_broken", reason=reason)
        self.state.status |= DeviceStatus.DEVICE_NEEDS_RESET
        self.tell_configuration()

    # --- what a transport does

    def tell_queue(self, queue: Queue) -> None:
        """Override: interrupt the driver for a queue."""
        raise NotImplementedError

    def tell_configuration(self) -> None:
        """Override: interrupt the driver for a change of configuration or status."""
        raise NotImplementedError

    def reset_transport(self) -> None:
        """Override: the transport's own registers after a driver's reset; no interrupt is pending."""
        raise NotImplementedError
