"""A 16550A UART as a PCI function: a guest's own `serial` driver binds to it.

Specification: `mmiod.device.uart16550`; QEMU docs/specs/pci-serial.rst, the form with one port:
1B36h:0002h, class 070002h (16550-compatible), BAR 0 with eight I/O ports.

Modelled: all of the UART; its clock has 1.8432 MHz, as drivers take it to have.  OUT2 gates
nothing: the interrupt is INTA.  Not modelled: MSI, power management.
A hostile guest makes nothing grow but what the UART bounds.
"""

from __future__ import annotations

from mmiod.device.pci import Bar, Identity, PciFunction
from mmiod.device.uart16550 import Cause, Uart

API = 1


class PciUart(Uart, PciFunction):
    """1B36h is Red Hat's, 0002h its single UART."""

    identity = Identity(0x1B36, 0x0002, 0x070002, revision=1, subsystem_vendor=0x1AF4, subsystem=0x1100)
    interrupt_pin_number = 1

    ports = Bar(8, number=0, io=True, implemented=(1, 1))

    def on_settle(self) -> None:
        """INTR drives INTA."""
        self.set_intx(bool(self.ier) and not self.iir & Cause.NONE)
