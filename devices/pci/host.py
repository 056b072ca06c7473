"""The PC's way into PCI configuration space: configuration mechanism #1.

Specifications: PCI Local Bus Specification 3.0, 3.2.2.3.2; Intel 82441FX (PMC), order
number 290549 (CONFADD, CONFDATA); Intel 82371SB (PIIX3), order number 290550 (RC).

Modelled: CONFADD at CF8h as a register that decodes doublewords only; CONFDATA at
CFCh-CFFh with accesses of 1, 2 and 4 bytes at every offset, each of which is one access
in `Space.PCI_CONFIG`; the reset control register at CF9h.  RC is the ISA bridge's in
hardware.  It lives here because it lies under CONFADD, and this device decodes the sizes
that tell them apart.
Not modelled: special cycles, the INIT-only reset (SRST = 0 resets the machine, too),
master-abort status.

A hostile guest makes nothing grow: the state is 32 bits of address and RC.
"""

from __future__ import annotations

import enum
from typing import Final

from mmiod.device import Device, Field, Region, Register, Request, Window, plain
from mmiod.values import Space, ones

API: Final = 1


@plain
class Rc(enum.IntFlag):
    """RC, reset control."""

    SRST = 1 << 1
    RCPU = 1 << 2


class PciHost(Device):
    """CONFADD and CONFDATA; `address` belongs at port CF8h, `data` at CFCh."""

    # What is no register there goes on to the bus as an ordinary I/O cycle: nobody answers.
    address = Region(4, hole=0xFF)
    data = Region(4, implemented=(1, 4), window=Window(Space.PCI_CONFIG, latch="confadd"))

    confadd = Register(
        0,
        size=4,
        whole=True,
        mask=0x80FF_FFFC,
        fields={
            "CFGE": Field(31),
            "BUS": Field(16, 8),
            "DEVICE": Field(11, 5),
            "FUNCTION": Field(8, 3),
            "REGISTER": Field(2, 6),
        },
        published=True,
        posted=True,
        region=address,
    )
    rc = Register(1, mask=int(Rc.SRST | Rc.RCPU), fields=Rc, region=address)

    @rc.on_write
    def _reset_written(self, value: int) -> None:
        if value & Rc.RCPU:
            self.context.request(Request.RESET)

    @data.on_read
    def _read_data(self, offset: int, size: int) -> int:
        if not self._enabled():
            return ones(size)
        return self.bus.read(Space.PCI_CONFIG, self._target() + offset, size)

    @data.on_write
    def _write_data(self, offset: int, size: int, value: int) -> None:
        if self._enabled():
            self.bus.write(Space.PCI_CONFIG, self._target() + offset, size, value)

    def _enabled(self) -> bool:
        return bool(self.confadd >> 31)

    def _target(self) -> int:
        """Bus, device and function are 16 adjacent bits in both layouts."""
        return (self.confadd >> 8 & 0xFFFF) << 12 | self.confadd & 0xFC
