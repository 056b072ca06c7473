"""A PCI function for tests and experiments; also the template of a PCI device.

Specification: this file.  Registers are little-endian, their offsets are in bytes.

BAR 0, 32-bit memory, 4 KiB; 4-byte registers, 8 for SCRATCH64:
  00h IDENTIFICATION    r    "mmio" in ASCII
  04h SCRATCH           rw   does nothing
  08h SCRATCH64         rw   does nothing; for wide accesses and for split ones
  10h COUNT             r    accesses to COUNT so far: a read counts after it was answered,
                             a write counts and stores nothing
  20h INTERRUPT_RAISE   w    each 1 sets that bit of INTERRUPT_STATUS; reads 0
  24h INTERRUPT_STATUS  w1c  what was raised and not acknowledged
  28h INTERRUPT_ENABLE  rw   INTx is asserted while an enabled bit of the status is set
BAR 2 and 3, 64-bit prefetchable memory, 64 KiB: RAM.
BAR 4, I/O, 16 ports: SCRATCH at +0, INTERRUPT_RAISE at +4, the same two as in BAR 0.

Not modelled: DMA, MSI, power management.  A hostile guest makes nothing grow: the RAM is
fixed, COUNT wraps at 32 bits.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from mmiod.device import Register
from mmiod.device.pci import Bar, Identity, PciFunction

API: Final = 1

RAM_LENGTH: Final = 0x10000


@define
class Ram:
    """What is in no register."""

    data: bytearray = field(factory=lambda: bytearray(RAM_LENGTH))


class TestFunction(PciFunction):
    """Vendor 1234h is nobody's; 6D6Dh is "mm"."""

    identity = Identity(0x1234, 0x6D6D, 0x00FF00, revision=1)
    interrupt_pin_number = 1
    state: Ram

    registers = Bar(0x1000, number=0)
    ram = Bar(RAM_LENGTH, number=2, wide=True, prefetchable=True, unaligned=True)
    ports = Bar(16, number=4, io=True, implemented=(1, 4))

    identification = Register(
        0x00, size=4, access="r", reset=int.from_bytes(b"mmio", "little"), region=registers
    )
    scratch = Register(0x04, size=4, region=registers)
    scratch64 = Register(0x08, size=8, region=registers)
    count = Register(0x10, size=4, access="r", region=registers)
    interrupt_raise = Register(0x20, size=4, access="singlepulse", region=registers)
    interrupt_status = Register(0x24, size=4, access="w1c", region=registers)
    interrupt_enable = Register(0x28, size=4, region=registers)

    port_scratch = Register(0, size=4, region=ports)
    port_interrupt_raise = Register(4, size=4, access="singlepulse", region=ports)

    @count.on_read
    def _count_read(self) -> None:
        self.count = self.count + 1 & 0xFFFF_FFFF

    @count.on_write
    def _count_written(self, value: int) -> None:  # noqa: ARG002
        self._count_read()

    @interrupt_raise.on_write
    def _raise(self, value: int) -> None:
        self.interrupt_status |= value
        self._drive()

    @interrupt_status.on_write
    def _acknowledged(self, value: int) -> None:  # noqa: ARG002
        self._drive()

    @interrupt_enable.on_write
    def _enabled(self, value: int) -> None:  # noqa: ARG002
        self._drive()

    def _drive(self) -> None:
        self.set_intx(bool(self.interrupt_status & self.interrupt_enable))

    @port_scratch.value
    def _scratch(self) -> int:
        return self.scratch

    @port_scratch.on_write
    def _port_scratch_written(self, value: int) -> None:
        self.scratch = value

    port_interrupt_raise.on_write(_raise)

    @ram.on_read
    def _load(self, offset: int, size: int) -> int:
        return int.from_bytes(self.state.data[offset : offset + size], "little")

    @ram.on_write
    def _store(self, offset: int, size: int, value: int) -> None:
        self.state.data[offset : offset + size] = value.to_bytes(size, "little")
