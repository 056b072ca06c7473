"""Virtio over PCI, modern (VIRTIO 1.2, 4.1): five structures in BAR 0, MSI-X in BAR 1.

    class RngPci(Rng, VirtioPci, class_code=0x00FF00, vectors=2):

Not here: the legacy interface, shared memory, notification data, administration queues.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import ClassVar, Final

from mmiod.device.buffers import Buffer
from mmiod.device.doorbells import Doorbell
from mmiod.device.faces import Pending
from mmiod.device.flags import plain
from mmiod.device.pci import Bar, Capability, Identity, MsiX, PciFunction
from mmiod.device.registers import Register
from mmiod.device.virtio.device import DeviceStatus, VirtioDevice
from mmiod.device.virtio.queue import NO_VECTOR, Queue
from mmiod.device.virtio.structures import MULTIPLIER, Kind, Structure
from mmiod.values import ones

VENDOR: Final = 0x1AF4
FIRST_DEVICE: Final = 0x1040
"""Of PCI device IDs (4.1.2)."""
COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
"""Offsets in BAR 0, one page for each."""
COMMON_LENGTH, PAGE = 0x3C, 0x1000


@plain
class Isr(enum.IntFlag):
    """The ISR status (4.1.4.5)."""

    QUEUE = 1
    CONFIGURATION = 2


class VirtioPci(VirtioDevice, PciFunction):
    """The transport; a subclass says `class_code`, and its `vectors` of MSI-X: one more than queues."""

    interrupt_pin_number = 1
    structures = Bar(0x4000, number=0, unaligned=True)
    messages = Bar(0x1000, number=1)

    device_feature_select = Register(0x00, size=4, region=structures)
    device_feature = Register(0x04, size=4, access="r", region=structures)
    driver_feature_select = Register(0x08, size=4, region=structures)
    driver_feature = Register(0x0C, size=4, region=structures)
    config_msix_vector = Register(0x10, size=2, reset=NO_VECTOR, region=structures)
    num_queues = Register(0x12, size=2, access="r", region=structures)
    device_status = Register(0x14, fields=DeviceStatus, region=structures)
    config_generation = Register(0x15, access="r", region=structures)
    queue_select = Register(0x16, size=2, region=structures)
    queue_size = Register(0x18, size=2, region=structures)
    queue_msix_vector = Register(0x1A, size=2, region=structures)
    queue_enable = Register(0x1C, size=2, region=structures)
    queue_notify_off = Register(0x1E, size=2, access="r", region=structures)
    queue_desc = Register(0x20, size=8, region=structures)
    queue_driver = Register(0x28, size=8, region=structures)
    queue_device = Register(0x30, size=8, region=structures)
    queue_notify_data = Register(0x38, size=2, access="r", region=structures)
    queue_reset = Register(0x3A, size=2, region=structures)
    isr_status = Register(ISR, access="rc", mask=3, fields=Isr, region=structures)
    configuration = Buffer(DEVICE, PAGE, region=structures)
    doorbells = Buffer(NOTIFY, PAGE, region=structures)

    msix: ClassVar[MsiX]
    window: ClassVar[Structure]

    def __init_subclass__(cls, *, class_code: int, vectors: int, **rest: object) -> None:
        """Make identity and capabilities; MSI-X is the first, so that it can be left out."""
        cls.identity = Identity(VENDOR, FIRST_DEVICE + cls.device_type, class_code, 1, VENDOR, 0x1100)
        declared: dict[str, Capability] = {
            "msix": MsiX(0x40, vectors=vectors, table=(cls.messages, 0), pending=(cls.messages, 0x800)),
            "common": Structure(0x50, kind=Kind.COMMON, at=COMMON, length=COMMON_LENGTH),
            "isr": Structure(0x60, kind=Kind.ISR, at=ISR, length=1),
            "specific": Structure(0x70, kind=Kind.DEVICE, at=DEVICE, length=PAGE),
            "notify": Structure(0x80, kind=Kind.NOTIFY, at=NOTIFY, length=PAGE),
            "window": Structure(0x98, kind=Kind.PCI),
        }
        for name, capability in declared.items():
            capability.name = name
            setattr(cls, name, capability)
        super().__init_subclass__(**rest)

    def __init__(self, *arguments: object) -> None:
        """Without MSI-X the list begins behind it."""
        super().__init__(*arguments)  # type: ignore[arg-type]
        if not self.config.msix:
            self.capabilities = self.capabilities[1:]  # type: ignore[misc]  # this one's own

    # --- common configuration (4.1.4.3)

    @property
    def _selected(self) -> Queue | None:
        return self.queue(self.queue_select)

    @device_feature.value
    def _device_feature(self) -> int:
        return self.feature_word(self.device_feature_select)

    @driver_feature.value
    def _driver_feature(self) -> int:
        return self.accepted_word(self.driver_feature_select)

    @driver_feature.on_write
    def _driver_feature_written(self, value: int) -> None:
        self.accept_word(self.driver_feature_select, value)

    @config_msix_vector.on_write
    def _config_vector_written(self, value: int) -> None:
        self.config_msix_vector = self._vector(value)

    @num_queues.value
    def _num_queues(self) -> int:
        return len(self.state.queues)

    @device_status.value
    def _device_status(self) -> int:
        return self.state.status

    @device_status.on_write
    def _device_status_written(self, value: int) -> None:
        self.write_status(value)

    @config_generation.value
    def _generation(self) -> int:
        return self.state.generation

    @queue_size.value
    def _queue_size(self) -> int:
        return self._selected.size if self._selected else 0

    @queue_size.on_write
    def _queue_size_written(self, value: int) -> None:
        if self._selected:
            self.resize_queue(self.queue_select, value)

    @queue_msix_vector.value
    def _queue_vector(self) -> int:
        return self._selected.vector if self._selected else NO_VECTOR

    @queue_msix_vector.on_write
    def _queue_vector_written(self, value: int) -> None:
        if self._selected:
            self._selected.vector = self._vector(value)

    def _vector(self, value: int) -> int:
        """4.1.5.1.2.1: a vector that is not there reads back as none."""
        return value if self.config.msix and value < self.msix.vectors else NO_VECTOR

    @queue_enable.value
    def _queue_enable(self) -> int:
        return int(self._selected.enabled) if self._selected else 0

    @queue_enable.on_write
    def _queue_enable_written(self, value: int) -> None:
        if self._selected and value == 1:
            self.enable_queue(self.queue_select)

    @queue_notify_off.value
    def _queue_notify_off(self) -> int:
        return self.queue_select if self._selected else 0

    @queue_notify_data.value
    @queue_reset.value
    def _nothing(self) -> int:
        return 0

    @queue_reset.on_write
    def _queue_reset_written(self, value: int) -> None:
        if self._selected and value == 1:
            self.reset_queue(self.queue_select)

    @queue_desc.value
    def _queue_desc(self) -> int:
        return self._selected.descriptors if self._selected else 0

    @queue_desc.on_write
    def _queue_desc_written(self, value: int) -> None:
        if self._selected and not self._selected.enabled:
            self._selected.descriptors = value

    @queue_driver.value
    def _queue_driver(self) -> int:
        return self._selected.driver if self._selected else 0

    @queue_driver.on_write
    def _queue_driver_written(self, value: int) -> None:
        if self._selected and not self._selected.enabled:
            self._selected.driver = value

    @queue_device.value
    def _queue_device(self) -> int:
        return self._selected.device if self._selected else 0

    @queue_device.on_write
    def _queue_device_written(self, value: int) -> None:
        if self._selected and not self._selected.enabled:
            self._selected.device = value

    # --- the other structures

    @configuration.on_read
    def _read_configuration(self, offset: int, size: int) -> int:
        return int.from_bytes(self.own_config()[offset : offset + size], "little")

    @doorbells.on_write
    def _rung(self, offset: int, _size: int, _value: int) -> None:
        self.notified(offset // MULTIPLIER)

    def doorbell_writes(self) -> Iterator[Doorbell]:
        """4.1.5.2: each queue has its own, and is rung by its number."""
        for number in range(len(self.queue_sizes())):
            yield Doorbell(self.structures.name, NOTIFY + MULTIPLIER * number, 2, number)

    def read_window(self) -> int | Pending | None:
        """4.1.4.9: what is in a BAR."""
        found = self._windowed()
        if found is None:
            return 0
        bar, offset, size = found
        return self.answerers[bar.name].read(self, offset, size)

    def write_window(self, value: int) -> None:
        """Alike."""
        found = self._windowed()
        if found is not None:
            bar, offset, size = found
            self.answerers[bar.name].write(self, offset, size, value & ones(size))

    def _windowed(self) -> tuple[Bar, int, int] | None:
        number, offset, size = (self.window.value(self, name) for name in ("bar", "at", "size"))
        for bar in self.bars:
            if bar.number == number and size in {1, 2, 4} and offset + size <= bar.length:
                return bar, offset, size
        return None

    # --- interrupts

    @isr_status.on_read
    def _isr_was_read(self) -> None:
        self.set_intx(False)

    def tell_queue(self, queue: Queue) -> None:
        """By the queue's vector, or INTx."""
        self._tell(queue.vector, Isr.QUEUE)

    def tell_configuration(self) -> None:
        """By its vector, or INTx."""
        self._tell(self.config_msix_vector, Isr.CONFIGURATION)

    def _tell(self, vector: int, cause: Isr) -> None:
        if self.config.msix and self.msix.enabled(self):
            if vector != NO_VECTOR:
                self.send_message(vector)
            return
        self.isr_status |= cause
        self.set_intx(True)

    def reset_transport(self) -> None:
        """Selectors, vector and interrupt are as after power-on."""
        for register in (
            VirtioPci.device_feature_select,
            VirtioPci.driver_feature_select,
            VirtioPci.queue_select,
            VirtioPci.config_msix_vector,
            VirtioPci.isr_status,
        ):
            self.values[register.name] = register.reset
        self.set_intx(False)
