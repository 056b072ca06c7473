"""The host bridge of a 440FX chipset: PCI device 00:00.0 as firmware sees it.

Specification: Intel 82441FX PCI and Memory Controller (PMC), order number 290549.

Modelled: the identity; PAM0-PAM6 and SMRAM as storage.  The subsystem ID is QEMU's
(1AF4h:1100h; the chip has none): SeaBIOS takes it as the sign that fw_cfg and the debug
port may be asked.
Not modelled: what the registers do.  PAM and SMRAM do not change the memory map, which is
the hypervisor's (it maps the BIOS area as RAM from the start), and DLCK does not lock.
All other registers (cache, DRAM and error control) read 0 and ignore writes.

A hostile guest makes nothing grow: the state is the registers.
"""

from __future__ import annotations

import enum
from typing import Final

from mmiod.device import Field, Register
from mmiod.device.pci import Command, Identity, PciFunction, Status

API: Final = 1


class Smram(enum.IntFlag):
    """SMRAM, system management RAM control."""

    C_BASE_SEG = 7
    G_SMRAME = 1 << 3
    DLCK = 1 << 4
    DCLS = 1 << 5
    DOPEN = 1 << 6


def _pam(offset: int, mask: int = 0x33) -> Register:
    """A PAM register: read and write enable of two segments."""
    fields = {"LOW_RE": Field(0), "LOW_WE": Field(1), "HIGH_RE": Field(4), "HIGH_WE": Field(5)}
    known = {name: bits for name, bits in fields.items() if bits.mask & mask}
    return Register(offset, mask=mask, fields=known, region=PciFunction.config_space)


class I440Fx(PciFunction):
    """82441FX, device 0 function 0."""

    identity = Identity(0x8086, 0x1237, 0x060000, revision=2, subsystem_vendor=0x1AF4, subsystem=0x1100)

    pam0 = _pam(0x59, mask=0x30)
    pam1 = _pam(0x5A)
    pam2 = _pam(0x5B)
    pam3 = _pam(0x5C)
    pam4 = _pam(0x5D)
    pam5 = _pam(0x5E)
    pam6 = _pam(0x5F)
    smram = Register(0x72, reset=0x02, fields=Smram, region=PciFunction.config_space)

    def on_reset(self) -> None:
        """PCICMD is 0006h and PCISTS 0280h."""
        self.command = Command.MEMORY_SPACE | Command.BUS_MASTER
        self.status = Status.FAST_BACK_TO_BACK | 1 << 9
