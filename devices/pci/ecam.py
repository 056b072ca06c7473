"""PCI configuration space in memory: the enhanced configuration access mechanism.

Specifications: PCI Express Base 3.0, 7.2.2; PCI Firmware 3.2, 4.1 (MCFG).

Modelled: 256 MiB, 1 MiB for each of 256 buses; an access of 1, 2 or 4 bytes is one access
in `Space.PCI_CONFIG`, whose addresses are laid out in the same way, so that ECAM and
CF8h/CFCh reach the same functions.  Larger accesses arrive as doublewords, low to high
(a root complex need not support them, 7.2.2).
Not modelled: a register that places it (a Q35's PCIEXBAR); the machine file does.

A hostile guest makes nothing grow: there is no state.
"""

from __future__ import annotations

from typing import Final

from mmiod.device import Device, Region, Window
from mmiod.values import Space

API: Final = 1

LENGTH: Final = 256 << 20


class Ecam(Device):
    """`configuration` belongs at a multiple of 256 MiB."""

    configuration = Region(LENGTH, implemented=(1, 4), window=Window(Space.PCI_CONFIG))

    @configuration.on_read
    def _read(self, offset: int, size: int) -> int:
        return self.bus.read(Space.PCI_CONFIG, offset, size)

    @configuration.on_write
    def _write(self, offset: int, size: int, value: int) -> None:
        self.bus.write(Space.PCI_CONFIG, offset, size, value)
