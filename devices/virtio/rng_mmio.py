"""An entropy source by memory-mapped registers, for hypervisors of the exit protocol.

Specification: VIRTIO 1.2, 4.2 and 5.4; `mmiod.device.virtio`.  Linux finds it by a device tree, an
ACPI object LNRO0005, or `virtio_mmio.device=512@ADDRESS:IRQ`.
`streams = { source = "random" }`, `at = { registers = "mmio:0xfeb00000" }`.

Not modelled: the legacy interface, shared memory.
A hostile guest makes nothing grow: one queue, 64 bytes ahead.
"""

from __future__ import annotations

from mmiod.device.virtio import Entropy, VirtioMmio

API = 1


class VirtioRngMmio(Entropy, VirtioMmio):
    """Device 4."""
