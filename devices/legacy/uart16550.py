"""The 16550A UART of a PC's serial port.

Specification: `mmiod.device.uart16550`; IBM PC/AT Technical Reference, serial/parallel adapter.
"""

from __future__ import annotations

from mmiod.device import IrqOutput
from mmiod.device.uart16550 import OUT2, Cause, Uart

API = 1


class Uart16550(Uart):
    """16550A at eight ports.

    OUT2 gates the interrupt, as on a PC's adapter; the gate is the bit of MCR, so that
    interrupts work in loopback.  Threat: as the UART's.
    """

    irq = IrqOutput()
    gated = True

    def on_settle(self) -> None:
        """INTR, by way of the gate."""
        self.irq.set_level(bool(self.ier) and not self.iir & Cause.NONE and bool(self.mcr & OUT2))
