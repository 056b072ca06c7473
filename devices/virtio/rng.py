"""An entropy source over PCI: the guest's /dev/hwrng.

Specification: VIRTIO 1.2, 4.1 and 5.4; `mmiod.device.virtio`.  The machine file says where the
bytes are from: `streams = { source = "random" }`.

Not modelled: the legacy interface, and what `mmiod.device.virtio.pci` names.
A hostile guest makes nothing grow: one queue, 64 bytes ahead.
"""

from __future__ import annotations

from mmiod.device.virtio import Entropy, VirtioPci

API = 1


class VirtioRng(Entropy, VirtioPci, class_code=0x00FF00, vectors=2):
    """1AF4h:1044h."""
