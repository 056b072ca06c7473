"""Virtio over memory-mapped registers, version 2 (VIRTIO 1.2, 4.2).

Not here: the legacy interface, shared memory (its length reads ones), notification data.
A write of less than 4 bytes to a register is ignored, as 4.2.2.2 lets a driver not do it.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

from mmiod.device.buffers import Buffer
from mmiod.device.declarations import IrqOutput, Region
from mmiod.device.doorbells import Doorbell
from mmiod.device.flags import plain
from mmiod.device.registers import Register
from mmiod.device.virtio.device import WORD, DeviceStatus, VirtioDevice
from mmiod.device.virtio.queue import Queue

MAGIC: Final = int.from_bytes(b"virt", "little")
VERSION: Final = 2
VENDOR: Final = 0x1AF4
LENGTH, CONFIG = 0x200, 0x100
_HIGH: Final = 32


@plain
class Interrupt(enum.IntFlag):
    """What InterruptStatus says (4.2.2)."""

    USED_BUFFER = 1
    CONFIGURATION = 2


class VirtioMmio(VirtioDevice):
    """The transport: registers of 4 bytes, one interrupt."""

    registers = Region(LENGTH)
    irq = IrqOutput()

    magic_value = Register(0x000, size=4, access="r", reset=MAGIC)
    version = Register(0x004, size=4, access="r", reset=VERSION)
    device_id = Register(0x008, size=4, access="r")
    vendor_id = Register(0x00C, size=4, access="r", reset=VENDOR)
    device_features = Register(0x010, size=4, access="r")
    device_features_sel = Register(0x014, size=4, access="w")
    driver_features = Register(0x020, size=4, access="w", whole=True)
    driver_features_sel = Register(0x024, size=4, access="w")
    queue_sel = Register(0x030, size=4, access="w")
    queue_num_max = Register(0x034, size=4, access="r")
    queue_num = Register(0x038, size=4, access="w", whole=True)
    queue_ready = Register(0x044, size=4, whole=True)
    queue_notify = Register(0x050, size=4, access="w", whole=True)
    interrupt_status = Register(0x060, size=4, access="r", fields=Interrupt)
    interrupt_ack = Register(0x064, size=4, access="w", whole=True, fields=Interrupt)
    device_status = Register(0x070, size=4, whole=True, mask=0xFF, fields=DeviceStatus)
    queue_desc = Register(0x080, size=4, access="w", whole=True).array(2)
    queue_driver = Register(0x090, size=4, access="w", whole=True).array(2)
    queue_device = Register(0x0A0, size=4, access="w", whole=True).array(2)
    shm = Register(0x0B0, size=4, access="r", reset=WORD).array(4)
    queue_reset = Register(0x0C0, size=4, whole=True)
    config_generation = Register(0x0FC, size=4, access="r")
    configuration = Buffer(CONFIG, LENGTH - CONFIG)

    @property
    def _selected(self) -> Queue | None:
        return self.queue(self.queue_sel)

    @device_id.value
    def _device_id(self) -> int:
        return self.device_type

    # --- features and status

    @device_features.value
    def _device_features(self) -> int:
        return self.feature_word(self.device_features_sel)

    @driver_features.on_write
    def _driver_features_written(self, value: int) -> None:
        self.accept_word(self.driver_features_sel, value)

    @device_status.value
    def _device_status(self) -> int:
        return self.state.status

    @device_status.on_write
    def _device_status_written(self, value: int) -> None:
        self.write_status(value)

    # --- queues

    @queue_num_max.value
    def _queue_num_max(self) -> int:
        return self.queue_sizes()[self.queue_sel] if self._selected else 0

    @queue_num.on_write
    def _queue_num_written(self, value: int) -> None:
        if self._selected:
            self.resize_queue(self.queue_sel, value)

    @queue_ready.value
    def _queue_ready(self) -> int:
        return int(self._selected is not None and self._selected.enabled)

    @queue_ready.on_write
    def _queue_ready_written(self, value: int) -> None:
        if self._selected and value == 1:
            self.enable_queue(self.queue_sel)
        elif self._selected and not value:  # 4.2.2.2: the driver uses it no more
            self.reset_queue(self.queue_sel)

    def doorbell_writes(self) -> Iterator[Doorbell]:
        """4.2.2: one for all queues, rung by their numbers."""
        for number in range(len(self.queue_sizes())):
            yield Doorbell(self.registers.name, type(self).queue_notify.offset, 4, number)

    @queue_notify.on_write
    def _rung(self, value: int) -> None:
        self.notified(value)

    @queue_desc.on_write
    def _queue_desc_written(self, half: int, value: int) -> None:
        self._place("descriptors", half, value)

    @queue_driver.on_write
    def _queue_driver_written(self, half: int, value: int) -> None:
        self._place("driver", half, value)

    @queue_device.on_write
    def _queue_device_written(self, half: int, value: int) -> None:
        self._place("device", half, value)

    def _place(self, area: str, half: int, value: int) -> None:
        """Half of an area's address."""
        queue = self._selected
        if queue is not None and not queue.enabled:
            shift = _HIGH * half
            setattr(queue, area, getattr(queue, area) & ~(WORD << shift) | value << shift)

    @queue_reset.value
    def _nothing(self) -> int:
        return 0

    @queue_reset.on_write
    def _queue_reset_written(self, value: int) -> None:
        if self._selected and value == 1:
            self.reset_queue(self.queue_sel)

    # --- configuration and interrupt

    @config_generation.value
    def _generation(self) -> int:
        return self.state.generation

    @configuration.on_read
    def _read_configuration(self, offset: int, size: int) -> int:
        return int.from_bytes(self.own_config()[offset : offset + size], "little")

    @interrupt_ack.on_write
    def _acknowledged(self, value: int) -> None:
        self._drive(self.interrupt_status & ~value)

    def tell_queue(self, queue: Queue) -> None:  # noqa: ARG002
        """All queues have one interrupt."""
        self._drive(self.interrupt_status | Interrupt.USED_BUFFER)

    def tell_configuration(self) -> None:
        """The same one."""
        self._drive(self.interrupt_status | Interrupt.CONFIGURATION)

    def _drive(self, causes: int) -> None:
        self.interrupt_status = causes
        self.irq.set_level(bool(causes))

    def reset_transport(self) -> None:
        """Selectors and interrupt are as after power-on."""
        for selector in (
            VirtioMmio.device_features_sel,
            VirtioMmio.driver_features_sel,
            VirtioMmio.queue_sel,
        ):
            self.values[selector.name] = selector.reset
        self._drive(0)
