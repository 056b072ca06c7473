"""The IDE function of a PIIX3: it tells firmware and systems that the legacy IDE ports are there.

Specification: Intel 82371FB (PIIX) and 82371SB (PIIX3), order number 290550, PCI
configuration registers of function 1.

Modelled: the identity and IDETIM as storage; the disk is devices/legacy/ata.py at its fixed ports.
Not modelled: bus mastering (and so programming interface 00h where the chip has 80h, and no
BMIBA), and what IDETIM does: a channel is decoded whether or not its bit 15 says so.

A hostile guest makes nothing grow: the state is the registers.
"""

from __future__ import annotations

from mmiod.device import Field, Register
from mmiod.device.pci import Identity, PciFunction

API = 1

IDETIM = {"IDE_DECODE_ENABLE": Field(15)}


class Piix3Ide(PciFunction):
    """82371SB, function 1."""

    identity = Identity(0x8086, 0x7010, 0x010100, subsystem_vendor=0x1AF4, subsystem=0x1100)

    idetim_primary = Register(0x40, size=2, fields=IDETIM, region=PciFunction.config_space)
    idetim_secondary = Register(0x42, size=2, fields=IDETIM, region=PciFunction.config_space)
