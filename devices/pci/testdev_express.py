"""A PCI Express function for tests and experiments: interrupts by MSI-X, MSI and INTx.

Specification: this file.  BAR 0, 32-bit memory, 4 KiB; registers are little-endian.
  000h RAISE     w   signals the interrupt of this vector (its low 2 bits)
  004h STATUS    w1c vectors raised while the guest had enabled neither MSI-X nor MSI; INTx
                     is asserted while one is set
  800h           the MSI-X table, four entries; C00h its pending bits
MSI has four vectors with a mask and 64-bit addresses.

Not modelled: DMA, power management, extended capabilities.  A hostile guest makes nothing
grow: the state is the registers.
"""

from __future__ import annotations

from typing import Final

from mmiod.device import Register
from mmiod.device.pci import Bar, Identity, Msi, MsiX, PcieFunction

API: Final = 1

VECTORS: Final = 4


class ExpressTestFunction(PcieFunction):
    """Vendor 1234h is nobody's; 6D6Eh is "mn"."""

    identity = Identity(0x1234, 0x6D6E, 0x00FF00, revision=1)
    interrupt_pin_number = 1

    registers = Bar(0x1000, number=0)
    msi = Msi(0x80, vectors=VECTORS, masking=True)
    msix = MsiX(0xA0, vectors=VECTORS, table=(registers, 0x800), pending=(registers, 0xC00))

    raised = Register(0, size=4, access="singlepulse", mask=VECTORS - 1, region=registers)
    raised_status = Register(4, size=4, access="w1c", mask=(1 << VECTORS) - 1, region=registers)

    @raised.on_write
    def _raise(self, vector: int) -> None:
        if not self.send_message(vector):
            self.raised_status |= 1 << vector
            self._drive()

    @raised_status.on_write
    def _acknowledged(self, value: int) -> None:  # noqa: ARG002
        self._drive()

    def _drive(self) -> None:
        self.set_intx(bool(self.raised_status))
