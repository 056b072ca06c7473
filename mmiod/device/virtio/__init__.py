"""Virtio 1.2: queues, devices, and the transports that hold them.

class VirtioRng(Entropy, VirtioPci, class_code=0x00FF00, vectors=2): ...
"""

from mmiod.device.virtio.device import (
    DeviceStatus as DeviceStatus,
    Feature as Feature,
    VirtioConfig as VirtioConfig,
    VirtioDevice as VirtioDevice,
    VirtioState as VirtioState,
)
from mmiod.device.virtio.disk import Disk as Disk
from mmiod.device.virtio.entropy import Entropy as Entropy
from mmiod.device.virtio.mmio import VirtioMmio as VirtioMmio
from mmiod.device.virtio.pci import VirtioPci as VirtioPci
from mmiod.device.virtio.queue import (
    BrokenQueue as BrokenQueue,
    Chain as Chain,
    Queue as Queue,
    Span as Span,
    divide as divide,
    gather as gather,
    length_of as length_of,
    scatter as scatter,
)
