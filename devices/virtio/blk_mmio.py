"""A disk by memory-mapped registers, for hypervisors of the exit protocol.

Specification: VIRTIO 1.2, 4.2 and 5.2; `mmiod.device.virtio`.  Linux finds it by a device tree, an
ACPI object LNRO0005, or `virtio_mmio.device=512@ADDRESS:IRQ`.
`streams = { image = "block:disk.img" }`, `at = { registers = "mmio:0xfeb00200" }`.

Modelled: what `virtio/blk` has.  Not modelled: the legacy interface, shared memory.
A hostile guest makes nothing grow: 32 requests of 1 MiB are under way at most.
"""

from __future__ import annotations

from mmiod.device.virtio import Disk, VirtioMmio

API = 1


class VirtioBlkMmio(Disk, VirtioMmio):
    """Device 2."""
