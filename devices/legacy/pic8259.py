"""The pair of 8259A interrupt controllers of a PC, with its edge/level registers.

Specification: Intel 8259A datasheet (231468-003), "Programming the 8259A", "Operation
Command Words" and what follows; Intel 82371SB (PIIX3, 290550), 2.5.5 ELCR1, ELCR2.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

from attrs import define, field

from mmiod.device import Device, IrqInputs, IrqOutput, Region, Register, plain

API = 1

CASCADE: Final = 2
"""The master's input that the slave's INT drives."""
SPURIOUS: Final = 7

ICW1 = enum.IntFlag("ICW1", "IC4 SNGL ADI LTIM D4")
ICW4 = enum.IntFlag("ICW4", "UPM AEOI MS BUF SFNM")
OCW2 = enum.IntFlag("OCW2", "L0 L1 L2 D3 D4 EOI SL R")
OCW3 = enum.IntFlag("OCW3", "RIS RR P D3 D4 SMM ESMM")
for flags in (ICW1, ICW4, OCW2, OCW3):
    plain(flags)
LEVEL: Final = OCW2.L0 | OCW2.L1 | OCW2.L2


@define
class Chip:
    """One 8259A without its inputs: `irr`, the interrupt request register, comes from outside."""

    master: bool = False
    expected: list[int] = field(factory=list)
    """Numbers of the ICWs that A0 = 1 takes next."""
    edges: int = 0
    """Inputs that rose and were not acknowledged since."""
    isr: int = 0
    imr: int = 0
    base: int = 0
    lowest: int = 7
    """The input of the lowest priority."""
    auto_eoi: bool = False
    rotate_on_auto_eoi: bool = False
    special_fully_nested: bool = False
    special_mask: bool = False
    reads_isr: bool = False
    polled: bool = False

    def by_priority(self) -> Iterator[int]:
        """All inputs, the highest priority first."""
        return ((self.lowest + 1 + n) & 7 for n in range(8))

    def highest(self, irr: int) -> int | None:
        """The request to serve now; None where there is none, or its like is in service."""
        blocking = self.isr & ~(self.imr if self.special_mask else 0)
        wanted = irr & ~self.imr
        for level in self.by_priority():
            reentrant = self.special_fully_nested and self.master and level == CASCADE
            blocks = blocking >> level & 1
            if wanted >> level & 1 and (reentrant or not blocks):
                return level
            if blocks:
                return None
        return None

    def take(self, level: int) -> None:
        """Put a request in service: what INTA or a poll's read does."""
        self.edges &= ~(1 << level)
        if not self.auto_eoi:
            self.isr |= 1 << level
        elif self.rotate_on_auto_eoi:
            self.lowest = level

    def poll(self, irr: int) -> int:
        """The poll word: bit 7 and the level, if there is a request."""
        self.polled = False
        level = self.highest(irr)
        if level is None:
            return 0
        self.take(level)
        return 0x80 | level

    def data(self, value: int) -> None:
        """A write with A0 = 1: the next ICW, or OCW1."""
        word = self.expected.pop(0) if self.expected else 1
        if word == 1:
            self.imr = value
        elif word == 2:
            self.base = value & 0xF8
        elif word == 4:
            self.auto_eoi = bool(value & ICW4.AEOI)
            self.special_fully_nested = bool(value & ICW4.SFNM)

    def ocw2(self, value: int) -> None:
        """End of interrupt and priorities."""
        rotate, specific = bool(value & OCW2.R), bool(value & OCW2.SL)
        level: int | None = value & LEVEL
        if value & OCW2.EOI:
            if not specific:
                level = self._in_service()
            if level is None:
                return
            self.isr &= ~(1 << level)
            if rotate:
                self.lowest = level
        elif specific and rotate and level is not None:
            self.lowest = level
        elif not specific:
            self.rotate_on_auto_eoi = rotate

    def _in_service(self) -> int | None:
        """What a non-specific EOI ends; in special mask mode never a masked level."""
        served = self.isr & ~(self.imr if self.special_mask else 0)
        return next((level for level in self.by_priority() if served >> level & 1), None)

    def ocw3(self, value: int) -> None:
        """Special mask mode, poll, and what A0 = 0 reads."""
        if value & OCW3.ESMM:
            self.special_mask = bool(value & OCW3.SMM)
        self.polled |= bool(value & OCW3.P)  # until the read; "overrides" RR for that read alone
        if value & OCW3.RR:
            self.reads_isr = bool(value & OCW3.RIS)


def initialized(icw1: int, *, master: bool) -> Chip:
    """A chip after ICW1: all else cleared, the edge sense too (datasheet, "ICW1 and ICW2")."""
    expected = [2] + [3] * (not icw1 & ICW1.SNGL) + [4] * (icw1 & ICW1.IC4)
    return Chip(master=master, expected=expected)


@define
class PicState:
    """Both chips."""

    master: Chip = field(factory=lambda: Chip(master=True))
    slave: Chip = field(factory=Chip)
    cascade: bool = False
    """The slave's INT, which the master sees as an edge."""


class Pic8259(Device):
    """Two 8259A: ICW1-4, OCW1-3, all priority and EOI modes, poll, ELCR instead of LTIM.

    Inputs `ir0` .. `ir15`; `ir2` is the cascade and ignores its wire.  A request in edge
    mode lasts while its input stays high ("IR triggering timing requirements"): a source
    that drops it before INTA, as `Line.pulse` does, has asked for nothing.  INTA without a
    request answers level 7 of the master and puts nothing in service.

    Not modelled: ICW3 (the cascade is wired: slave on IR2, ID 2), MCS-80/85 mode, buffered
    mode, the time between both INTA pulses (so a spurious interrupt is the master's IR7,
    never the slave's).  Out of reset both chips are as after ICW1-4 with base 0.

    Threat: nothing grows; inputs 0, 1, 2, 8 and 13 cannot be made level-triggered.
    """

    master = Region(2)
    slave = Region(2)
    elcr = Region(2)
    ir = IrqInputs(16)
    intr = IrqOutput()
    state: PicState

    master_status = Register(0, access="r", region=master)
    master_command = Register(0, access="w", region=master, fields=OCW2)
    master_imr = Register(1, published=lambda pic: not pic.state.master.polled, region=master)
    slave_status = Register(0, access="r", region=slave)
    slave_command = Register(0, access="w", region=slave, fields=OCW2)
    slave_imr = Register(1, published=lambda pic: not pic.state.slave.polled, region=slave)
    elcr1 = Register(0, published=True, region=elcr, mask=0xF8)
    elcr2 = Register(1, published=True, region=elcr, mask=0xDE)

    # --- requests

    @ir.on_change
    def _input_changed(self, line: int, level: bool) -> None:
        if line != CASCADE:
            self._sense(line, level)
            self._drive()

    def _sense(self, line: int, level: bool) -> None:
        chip, bit = self._chip(line), 1 << (line & 7)
        chip.edges = chip.edges | bit if level else chip.edges & ~bit

    def _chip(self, line: int) -> Chip:
        return self.state.slave if line & 8 else self.state.master

    def _irr(self, chip: Chip) -> int:
        """Level-triggered inputs that are high, and edges."""
        levels = sum(level << line for line, level in enumerate(self.ir))
        levels = levels & self.elcr1 if chip.master else levels >> 8 & self.elcr2
        return chip.edges | levels

    @intr.on_acknowledge
    def _acknowledged(self) -> int:
        vector, level = self._inta(self.state.master)
        if level == CASCADE:
            vector, _ = self._inta(self.state.slave)
        self._drive()
        return vector

    def _inta(self, chip: Chip) -> tuple[int, int]:
        level = chip.highest(self._irr(chip))
        if level is None:
            return chip.base + SPURIOUS, SPURIOUS
        chip.take(level)
        if not chip.master:
            self._lower_cascade()
        return chip.base + level, level

    def _lower_cascade(self) -> None:
        """The slave's INT goes low where it is acknowledged, so that what is left is an edge again."""
        if self.state.cascade:
            self.state.cascade = False
            self._sense(CASCADE, level=False)

    def _drive(self) -> None:
        master, slave = self.state.master, self.state.slave
        cascade = slave.highest(self._irr(slave)) is not None
        if cascade != self.state.cascade:
            self.state.cascade = cascade
            self._sense(CASCADE, cascade)
        self.intr.set_level(master.highest(self._irr(master)) is not None)

    # --- ports

    def _command(self, chip: Chip, value: int) -> Chip:
        """A write with A0 = 0; gives the chip that is there afterwards."""
        if value & OCW2.D4:
            chip = initialized(value, master=chip.master)
            self._lower_cascade()
        elif value & OCW2.D3:
            chip.ocw3(value)
        else:
            chip.ocw2(value)
        return chip

    def _polled(self, chip: Chip) -> int | None:
        """After OCW3 with P the next read is an INTA, whatever A0 is."""
        if not chip.polled:
            return None
        word = chip.poll(self._irr(chip))
        if not chip.master:
            self._lower_cascade()
        self._drive()
        return word

    @master_status.value
    def _master_status(self) -> int:
        return self.state.master.isr if self.state.master.reads_isr else self._irr(self.state.master)

    @slave_status.value
    def _slave_status(self) -> int:
        return self.state.slave.isr if self.state.slave.reads_isr else self._irr(self.state.slave)

    @master_imr.value
    def _master_mask(self) -> int:
        return self.state.master.imr

    @slave_imr.value
    def _slave_mask(self) -> int:
        return self.state.slave.imr

    @master_status.on_read
    @master_imr.on_read
    def _master_was_read(self) -> int | None:
        return self._polled(self.state.master)

    @slave_status.on_read
    @slave_imr.on_read
    def _slave_was_read(self) -> int | None:
        return self._polled(self.state.slave)

    @master_command.on_write
    def _master_commanded(self, value: int) -> None:
        self.state.master = self._command(self.state.master, value)
        self._drive()

    @slave_command.on_write
    def _slave_commanded(self, value: int) -> None:
        self.state.slave = self._command(self.state.slave, value)
        self._drive()

    @master_imr.on_write
    def _master_data(self, value: int) -> None:
        self.state.master.data(value)
        self._drive()

    @slave_imr.on_write
    def _slave_data(self, value: int) -> None:
        self.state.slave.data(value)
        self._drive()

    @elcr1.on_write
    @elcr2.on_write
    def _trigger_changed(self, _value: int) -> None:
        self._drive()
