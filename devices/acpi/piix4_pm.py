"""The power management function of a PIIX4: ACPI's PM1 block and its timer.

Specifications: Intel 82371AB (PIIX4), order number 290562, function 3; ACPI 6.5, 4.8.3.1 and 4.8.3.3.

Modelled: PMBA and PMREGMISC, which place the 64 bytes of PM I/O space; PMTMR at
3.579545 MHz, computed from guest time; PMSTS.TMROF_STS, PMEN, PMCNTRL with the SCI;
SUS_EN, which asks for shutdown when SUS_TYP says soft off; APMC and APMS.
Not modelled: SMM.  DEVACTB.APMC_EN is therefore set from reset, as if an earlier
stage of firmware had installed its handler; SeaBIOS then leaves SMM alone.  A write of
APMC raises no SMI; what a handler does for an operating system is done here: F1h sets
SCI_EN, F0h clears it (ACPI 6.5, 4.8.2.5; the numbers are those of the FADT in
`mmiod.device.acpi`, and QEMU's).  No power button, RTC alarm or sleep states other than
soft off, no general purpose events (what is not modelled reads ones), no SMBus.

A hostile guest makes nothing grow; one timer is armed while TMROF_EN is set.  It may
put the PM I/O space over other BARs' ports: what the machine file placed wins.

`pm_io` is placed by PMBA, `apm` belongs at port B2h, `sci` is active high at IRQ 9.
"""

from __future__ import annotations

import enum
from typing import Final

from attrs import define, field, frozen, validators

from mmiod.device import Count, Field, IrqOutput, Region, Register, Request, Timer, plain
from mmiod.device.pci import Identity, PciFunction, Status
from mmiod.values import Space

API: Final = 1

FREQUENCY_HZ: Final = 3_579_545
NS_PER_S: Final = 1_000_000_000
SOFT_OFF: Final = 0
"""PMCNTRL.SUS_TYP."""


@plain
class Pmsts(enum.IntFlag):
    """PMSTS, power management status."""

    TMROF_STS = 1 << 0


@plain
class Pmen(enum.IntFlag):
    """PMEN, power management resume enable."""

    TMROF_EN = 1 << 0
    GBL_EN = 1 << 5
    PWRBTN_EN = 1 << 8
    RTC_EN = 1 << 10


@plain
class Pmregmisc(enum.IntFlag):
    """PMREGMISC, miscellaneous power management."""

    PMIOSE = 1 << 0


SCI_EN: Final = 1 << 0
SUS_EN: Final = 1 << 13
ACPI_ENABLE, ACPI_DISABLE = 0xF1, 0xF0
"""Commands in APMC."""


@frozen
class PmConfig:
    """How wide PMTMR is, in bits: 24 as in a PIIX4, or 32 (FADT flag TMR_VAL_EXT)."""

    timer_width: int = field(default=24, validator=validators.in_((24, 32)))


@define
class PmState:
    """`overflows` counts the timer's, up to when TMROF_STS was last cleared."""

    overflows: int = 0


class Piix4Pm(PciFunction):
    """82371AB, function 3."""

    identity = Identity(0x8086, 0x7113, 0x068000, revision=3, subsystem_vendor=0x1AF4, subsystem=0x1100)
    interrupt_pin_number = 1
    config: PmConfig
    state: PmState

    config_space = PciFunction.config_space
    pm_io = Region(64, implemented=(1, 4), hole=0xFF)
    apm = Region(2, implemented=(1, 1))
    sci = IrqOutput()
    overflow = Timer()

    pmba = Register(
        0x40,
        size=4,
        access="reserved",
        reset=1,
        fields={"RTE": Field(0, access="r"), "BASE": Field(6, 10, access="rw")},
        region=config_space,
    )
    devactb = Register(0x58, size=4, reset=1 << 25, fields={"APMC_EN": Field(25)}, region=config_space)
    pmregmisc = Register(0x80, mask=int(Pmregmisc.PMIOSE), fields=Pmregmisc, region=config_space)

    pmsts = Register(0x00, size=2, access="w1c", fields=Pmsts, mask=int(Pmsts.TMROF_STS), region=pm_io)
    pmen = Register(0x02, size=2, fields=Pmen, mask=0x0521, published=True, region=pm_io)
    pmcntrl = Register(
        0x04,
        size=2,
        access="reserved",
        fields={
            "SCI_EN": Field(0, access="rw"),
            "BRLD_EN_BM": Field(1, access="rw"),
            "GBL_RLS": Field(2, access="singlepulse"),
            "SUS_TYP": Field(10, 3, access="rw"),
            "SUS_EN": Field(13, access="singlepulse"),
        },
        published=True,
        region=pm_io,
    )
    pmtmr = Register(0x08, size=4, access="r", region=pm_io)
    apmc = Register(0, region=apm)
    apms = Register(1, published=True, posted=True, region=apm)

    def on_reset(self) -> None:
        """PCISTS is 0280h; the timer runs on, so its past overflows are acknowledged."""
        self.status = Status.FAST_BACK_TO_BACK | 1 << 9
        self.state.overflows = self._overflows()

    def place_regions(self, _value: int = 0) -> None:
        """Put the PM I/O space where PMBA says, if PMREGMISC lets it decode."""
        super().place_regions()
        base = self.pmba & 0xFFC0 if self.pmregmisc & Pmregmisc.PMIOSE else None
        self.context.place(self.pm_io, Space.PIO, base)

    pmba.on_write(place_regions)
    pmregmisc.on_write(place_regions)

    # --- the timer -------------------------------------------------------------------

    def _ticks(self) -> int:
        return self.clock.now_ns * FREQUENCY_HZ // NS_PER_S

    def _overflows(self) -> int:
        """How often the most significant bit has changed (ACPI 4.8.3.3)."""
        return self._ticks() >> self.config.timer_width - 1

    @pmtmr.counts
    def _timer(self) -> Count:
        return Count(FREQUENCY_HZ, self.config.timer_width)

    @pmsts.value
    def _status(self) -> int:
        return Pmsts.TMROF_STS if self._overflows() > self.state.overflows else 0

    @pmsts.on_write
    def _acknowledge(self, value: int) -> None:
        if value & Pmsts.TMROF_STS:
            self.state.overflows = self._overflows()
        self._update()

    @pmen.on_write
    def _enables_written(self, value: int) -> None:  # noqa: ARG002
        self._update()

    @overflow.on_fire
    def _overflowed(self) -> None:
        self._update()

    @pmcntrl.on_write
    def _control_written(self, value: int) -> None:
        self._update()
        if value & SUS_EN:
            self._suspend(self.pmcntrl >> 10 & 7)

    @apmc.on_write
    def _smi_command_written(self, value: int) -> None:
        if value in {ACPI_ENABLE, ACPI_DISABLE}:
            self.pmcntrl = self.pmcntrl & ~SCI_EN | (value == ACPI_ENABLE)
            self._update()

    def _suspend(self, kind: int) -> None:
        self.context.notify("sleep_state_requested", sus_typ=kind)
        if kind == SOFT_OFF:
            self.context.request(Request.SHUTDOWN)

    def _update(self) -> None:
        """Drive SCI, and wake up for the next overflow if somebody wants to know."""
        active = self.pmsts & self.pmen
        self.sci.set_level(bool(active) and bool(self.pmcntrl & SCI_EN))
        if self.pmen & Pmen.TMROF_EN and not active:
            ticks = self.state.overflows + 1 << self.config.timer_width - 1
            self.overflow.set(-(-ticks * NS_PER_S // FREQUENCY_HZ))
        else:
            self.overflow.cancel()
