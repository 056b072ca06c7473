"""The 16550A UART of a PC's serial port.

Specification: `mmiod.device.uart16550`; IBM PC/AT Technical Reference, serial/parallel adapter.
"""

from __future__ import annotations

from mmiod.device import IrqOutput
from mmiod.device.uart16550 import MCR, Uart

API = 1


class Uart16550(Uart):
    """16550A at eight ports.

    OUT2 gates the interrupt, as on a PC's adapter; the gate is the bit of MCR, so that
    interrupts work in loopback.  Threat: as the UART's.
    """

    irq = IrqOutput()

    def interrupt(self, level: bool) -> None:
        """By way of the gate."""
        self.irq.set_level(level and bool(self.mcr & MCR.OUT2))
