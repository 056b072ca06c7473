"""A disk over PCI: the guest's /dev/vda.

Specification: VIRTIO 1.2, 4.1 and 5.2; `mmiod.device.virtio`.  The machine file names the
image: `streams = { image = "block:disk.img" }`.

Modelled: reads, writes, flush, discard, zeroes, the serial number, several queues.  Not
modelled: the legacy interface, lifetime, secure erase, zones, write cache modes, topology.
A hostile guest makes nothing grow: 32 requests of 1 MiB are under way at most.
"""

from __future__ import annotations

from mmiod.device.virtio import Disk, VirtioPci

API = 1


class VirtioBlk(Disk, VirtioPci, class_code=0x010000, vectors=9):
    """1AF4h:1042h."""
