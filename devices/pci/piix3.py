"""The ISA bridge of a 440FX chipset: routes PCI interrupts to ISA ones.

Specification: Intel 82371FB (PIIX) and 82371SB (PIIX3), order number 290550, PCI
configuration registers of function 0.

Modelled: the identity; PIRQRC[A:D], with a wired-OR of all PIRQ# that share an IRQ; the
other registers of function 0 as storage with their reset values.
Not modelled: what those registers do (ISA decoding, bus timing, APIC chip select, SMI:
a write of SMIEN raises none), MBIRQ0 and MBDMA routing.  RC is at devices/pci/host.py,
ELCR at the 8259s, the IDE and USB functions are not there.

`pirq0`..`pirq3` are PIRQA#..PIRQD# with 1 for asserted, `irq0`..`irq15` drive the 8259s.
A hostile guest makes nothing grow: the state is the registers.
"""

from __future__ import annotations

from typing import Final

from mmiod.device import Field, IrqInputs, IrqOutputs, Register
from mmiod.device.pci import Command, Identity, PciFunction

API: Final = 1

ROUTABLE: Final = frozenset({3, 4, 5, 6, 7, 9, 10, 11, 12, 14, 15})
"""What PIRQRC may name; the other numbers are reserved."""
DISABLED: Final = 0x80


def _storage(offset: int, reset: int, *, size: int = 1) -> Register:
    return Register(offset, size=size, reset=reset, region=PciFunction.config_space)


def _pirqrc(offset: int) -> Register:
    fields = {"IRQ": Field(0, 4), "DISABLE": Field(7)}
    register = Register(offset, reset=DISABLED, mask=0x8F, fields=fields, region=PciFunction.config_space)
    register.writer = "_routing_written"
    return register


class Piix3(PciFunction):
    """82371SB, function 0."""

    identity = Identity(0x8086, 0x7000, 0x060100, subsystem_vendor=0x1AF4, subsystem=0x1100)
    multifunction = True

    pirq = IrqInputs(4)
    irq = IrqOutputs(16)

    iort = _storage(0x4C, 0x4D)
    xbcs = _storage(0x4E, 0x0003, size=2)
    pirqrca = _pirqrc(0x60)
    pirqrcb = _pirqrc(0x61)
    pirqrcc = _pirqrc(0x62)
    pirqrcd = _pirqrc(0x63)
    tom = _storage(0x69, 0x02)
    mstat = _storage(0x6A, 0x0000, size=2)
    mbirq0 = _storage(0x70, 0x80)
    mbdma0 = _storage(0x76, 0x0C)
    mbdma1 = _storage(0x77, 0x0C)
    pcsc = _storage(0x78, 0x0002, size=2)
    apicbase = _storage(0x80, 0x00)
    dlc = _storage(0x82, 0x00)
    smicntl = _storage(0xA0, 0x08)
    smien = _storage(0xA2, 0x0000, size=2)
    see = _storage(0xA4, 0x0000_0000, size=4)
    ftmr = _storage(0xA8, 0x0F)
    smireq = _storage(0xAA, 0x0000, size=2)
    ctltmr = _storage(0xAC, 0x00)
    cthtmr = _storage(0xAE, 0x00)

    def on_reset(self) -> None:
        """PCICMD is 0007h and PCISTS 0200h."""
        self.command = Command.IO_SPACE | Command.MEMORY_SPACE | Command.BUS_MASTER
        self.status = 1 << 9

    @pirq.on_change
    def _pirq_changed(self, line: int, level: bool) -> None:  # noqa: ARG002
        self._drive()

    def _routing_written(self, value: int) -> None:  # noqa: ARG002
        self._drive()

    def _drive(self) -> None:
        """Raise every IRQ to which an asserted PIRQ# is routed."""
        routes = (self.pirqrca, self.pirqrcb, self.pirqrcc, self.pirqrcd)
        asserted = {route for route, level in zip(routes, self.pirq, strict=True) if level}
        for number, line in enumerate(self.irq):
            line.set_level(number in ROUTABLE and number in asserted)
