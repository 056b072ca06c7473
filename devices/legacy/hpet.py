"""The high precision event timer of a PC: a counter, and three comparators that interrupt.

Specification: IA-PC HPET (High Precision Event Timers) Specification, revision 1.0a, chapter
2; numbers in comments are its sections.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from typing import Final

from attrs import Attribute, define, field, frozen

from mmiod.device import Copies, Count, Device, Field, IrqInput, IrqOutputs, Region, Register, Timer, plain

API = 1

TICK_NS: Final = 10
NS_PER_S: Final = 1_000_000_000
TIMERS: Final = 3
LINES: Final = 24
"""Inputs of an I/O APIC."""
LEGACY: Final = (0, 8)
"""Those of PIT and RTC, which timers 0 and 1 replace (2.3.5, LEG_RT_CNF)."""
COUNTER_MASK: Final = (1 << 64) - 1
MIN_TICKS: Final = 500
"""Between two interrupts of a timer: 5 us; the specification lets faster ones get lost (2.3.9.2.2)."""
LATE: Final = 100_000_000
"""Ticks, 1 s, by which the write of a comparator may come too late: it was posted."""
FARTHEST_NS: Final = 1 << 63
"""A match that is centuries away needs no alarm."""


@plain
class GeneralConfiguration(enum.IntFlag):
    """General Configuration (2.3.5)."""

    ENABLE_CNF = 1 << 0
    LEG_RT_CNF = 1 << 1


@plain
class InterruptStatus(enum.IntFlag):
    """General Interrupt Status (2.3.6)."""

    T0_INT_STS = 1 << 0
    T1_INT_STS = 1 << 1
    T2_INT_STS = 1 << 2


CAPABILITIES: Final = {
    "REV_ID": Field(0, 8),
    "NUM_TIM_CAP": Field(8, 5),
    "COUNT_SIZE_CAP": Field(13),
    "LEG_RT_CAP": Field(15),
    "VENDOR_ID": Field(16, 16),
    "COUNTER_CLK_PERIOD": Field(32, 32),
}
"""General Capabilities and ID (2.3.4)."""
CAPABLE: Final = TICK_NS * 1_000_000 << 32 | 0x8086_A001 | TIMERS - 1 << 8
"""A period in fs, Intel's, legacy replacement, 64 bits, revision 1."""
CONFIGURATION: Final = {
    "INT_TYPE_CNF": Field(1, access="rw"),
    "INT_ENB_CNF": Field(2, access="rw"),
    "TYPE_CNF": Field(3, access="rw"),
    "PER_INT_CAP": Field(4),
    "SIZE_CAP": Field(5),
    "VAL_SET_CNF": Field(6, access="rw"),
    "32MODE_CNF": Field(8, access="rw"),
    "INT_ROUTE_CNF": Field(9, 5, access="rw"),
    "FSB_EN_CNF": Field(14, access="rw"),
    "FSB_INT_DEL_CAP": Field(15),
}
"""Timer n Configuration and Capabilities (2.3.8)."""
ROUTE: Final = CONFIGURATION["INT_ROUTE_CNF"]
WRITABLE: Final = sum(bits.mask for bits in CONFIGURATION.values() if bits.access)
TIMER_CAPABLE: Final = 0x8030
"""PER_INT_CAP, SIZE_CAP, FSB_INT_DEL_CAP."""
VALUE_SET: Final = CONFIGURATION["VAL_SET_CNF"].mask
SHAPE: Final = CONFIGURATION["TYPE_CNF"].mask | CONFIGURATION["32MODE_CNF"].mask
"""What decides where a comparator matches."""
LOW: Final = 0xFFFF_FFFF
HIGH: Final = COUNTER_MASK ^ LOW
POSTED: Final = ("comparator", "comparator_low", "comparator_high")


@define
class Comparator:
    """One timer.  A tick is the main counter, but does not wrap."""

    configuration: int = 0
    """Its writable bits."""
    value: int = COUNTER_MASK
    """The comparator, until `due`."""
    period: int = 0
    """What was written last in periodic mode."""
    due: int = 0
    """Where a running counter matches next."""
    quiet: int = 0
    """No interrupt before this tick."""
    fsb_route: int = 0
    raised: bool = False
    """Its line, in edge mode."""
    owed: bool = False
    """It has matched, and the interrupt is still to come."""

    def has(self, name: str) -> bool:
        """Whether a bit of the configuration is set."""
        return bool(CONFIGURATION[name].of(self.configuration))

    @property
    def mask(self) -> int:
        """The bits that are compared."""
        return LOW if self.has("32MODE_CNF") else COUNTER_MASK

    @property
    def step(self) -> int:
        """What a match adds to the comparator."""
        return self.period & self.mask if self.has("TYPE_CNF") else 0

    def matches(self, tick: int) -> int:
        """How often it has matched since `due` was the next time."""
        distance = self.step or self.mask + 1
        return max(0, (tick - self.due) // distance + 1)

    def shown(self, tick: int) -> int:
        """The comparator at a tick (2.3.9.2.2)."""
        moved = self.value + self.matches(tick) * self.step
        return self.value & ~self.mask | moved & self.mask

    def settle(self, tick: int) -> bool:
        """Go on to the next match after a tick; whether there was one until then."""
        matches, self.value = self.matches(tick), self.shown(tick)
        self.due += matches * (self.step or self.mask + 1)
        return bool(matches)

    def aim(self, tick: int) -> None:
        """Find the next match from a tick on."""
        self.due = tick + (self.value - tick & self.mask)

    def load(self, value: int, bits: int, tick: int, late: int) -> None:
        """A write of some bits of the comparator (2.3.9.2.2), under way for at most `late` ticks."""
        periodic = self.has("TYPE_CNF")
        if periodic:
            self.period = self.period & ~bits | value
        if not periodic or self.has("VAL_SET_CNF"):
            self.value = self.value & ~bits | value
            self.aim(tick)
            passed = tick - self.value & self.mask
            if not periodic and 0 < passed <= late:
                self.due = tick + 1
        self.configuration &= ~VALUE_SET


@define
class HpetState:
    """What the registers show."""

    comparators: list[Comparator] = field(factory=lambda: [Comparator() for _ in range(TIMERS)])
    configuration: int = 0
    count: int = 0
    """The counter while it is halted."""
    origin_ns: int = 0
    """When a running counter was 0, or would have been."""


def _lines(_: object, __: Attribute[int], routes: int) -> None:
    if not 0 <= routes < 1 << LINES:
        raise ValueError(f"{routes:#x} is no mask of lines 0 to {LINES - 1}")


@frozen
class HpetConfig:
    """The lines to which a timer may be routed, as a mask: INT_ROUTE_CAP; as in Intel's chipsets 20 to 23."""

    routes: int = field(default=0xF0_0000, validator=_lines)


class Hpet(Device):
    """One block of three timers, each 32 or 64 bits wide, periodic or not, by line or by message.

    The counter runs at 100 MHz of guest time; nothing counts, values are computed when
    read.  A comparator matches where the counter is equal to it, in 32-bit mode in their
    low halves: one that was passed already is missed until the counter wraps (2.3.9.2.1), but
    a write to a running one-shot timer, which is posted, may come up to a second late, and then
    matches at the next tick.
    PIT and RTC, wired to the inputs `pit` and `rtc`, reach `irq0` and `irq8` while
    LEG_RT_CNF is 0.  In edge mode a line stays high up to the next interrupt, where it drops
    for an instant: an 8259A wants it high until INTA.  A write of the running counter is
    ignored; a route that INT_ROUTE_CAP does not name is kept and leads nowhere.

    Not modelled: several blocks, a page of their own for each (page protection).

    Threat: nothing grows.  A timer interrupts once in 5 us at most.
    """

    general = Region(0x100, valid=(4, 8), implemented=(4, 8))
    comparators = Region(0x300, valid=(4, 8), implemented=(4, 8), stride=0x20)
    irq = IrqOutputs(LINES)
    pit = IrqInput()
    rtc = IrqInput()
    match = Timer()
    state: HpetState
    config: HpetConfig

    capabilities = Register(
        0x00,
        size=8,
        access="r",
        reset=CAPABLE,
        fields=CAPABILITIES,
        published=True,
        unaffected_by=POSTED,
        region=general,
    )
    configuration = Register(
        0x10,
        size=8,
        mask=3,
        fields=GeneralConfiguration,
        published=True,
        unaffected_by=POSTED,
        region=general,
    )
    interrupt_status = Register(
        0x20,
        size=8,
        access="w1c",
        mask=7,
        fields=InterruptStatus,
        published=True,
        unaffected_by=POSTED,
        region=general,
    )
    main_counter = Register(0xF0, size=8, unaffected_by=POSTED, region=general)

    there = Copies(TIMERS)
    timer_configuration = Register(
        0, size=4, access="r", fields=CONFIGURATION, when=there, region=comparators
    )
    interrupt_routes = Register(0x04, size=4, access="r", when=there, region=comparators)
    comparator = Register(0x08, size=8, whole=True, posted=True, when=there, region=comparators)
    comparator_low = Register(0x08, size=4, posted=True, when=there, region=comparators)
    comparator_high = Register(0x0C, size=4, posted=True, when=there, region=comparators)
    fsb_route = Register(0x10, size=8, when=there, region=comparators)

    def on_reset(self) -> None:
        """PIT and RTC may be up already."""
        self._drive()

    @property
    def running(self) -> bool:
        """Whether the counter counts and timers may interrupt."""
        return bool(self.state.configuration & GeneralConfiguration.ENABLE_CNF)

    @property
    def tick(self) -> int:
        """The counter, which does not wrap here."""
        return (self.clock.now_ns - self.state.origin_ns) // TICK_NS if self.running else self.state.count

    @property
    def selected(self) -> Comparator:
        """The timer that an access meets; behind the last one nothing answers."""
        return self.state.comparators[min(self.copy, TIMERS - 1)]

    # --- matches and interrupts

    @match.on_fire
    def _matched(self) -> None:
        self._catch_up()
        self._rearm()

    def _catch_up(self) -> None:
        """Interrupt for what has matched; what matched several times interrupts once."""
        tick = self.tick
        for number, timer in enumerate(self.state.comparators):
            if not self.running:
                continue
            matched, timer.owed = timer.settle(tick) or timer.owed, False
            if matched and tick >= timer.quiet:
                timer.quiet = tick + MIN_TICKS
                self._interrupt(number, timer)

    def _interrupt(self, number: int, timer: Comparator) -> None:
        """By message, by level, which alone has a status (2.3.6), or by another edge."""
        if timer.has("FSB_EN_CNF"):
            if timer.has("INT_ENB_CNF"):
                self.context.msi(timer.fsb_route >> 32, timer.fsb_route & LOW)
        elif timer.has("INT_TYPE_CNF"):
            self.interrupt_status |= 1 << number
        else:
            timer.raised = False
            self._drive()
            timer.raised = timer.has("INT_ENB_CNF")
        self._drive()

    def _rearm(self) -> None:
        """Wake at the next match that shows."""
        ends = [
            timer.quiet if timer.owed else max(timer.due, timer.quiet)
            for timer in self.state.comparators
            if self.running and (timer.has("INT_ENB_CNF") or timer.has("INT_TYPE_CNF"))
        ]
        deadline = self.state.origin_ns + min(ends) * TICK_NS if ends else FARTHEST_NS
        if deadline < FARTHEST_NS:
            self.match.set(deadline)
        else:
            self.match.cancel()

    def _drive(self) -> None:
        high = set(self._high())
        for number, line in enumerate(self.irq):
            line.set_level(number in high)

    def _high(self) -> Iterator[int | None]:
        """The lines that something drives."""
        replaces = self.state.configuration & GeneralConfiguration.LEG_RT_CNF
        if not replaces:
            yield from (line for line, level in zip(LEGACY, (self.pit, self.rtc), strict=True) if level)
        for number, timer in enumerate(self.state.comparators):
            pending = self.interrupt_status >> number & 1 if timer.has("INT_TYPE_CNF") else timer.raised
            if pending and self.running and timer.has("INT_ENB_CNF") and not timer.has("FSB_EN_CNF"):
                yield LEGACY[number] if replaces and number < len(LEGACY) else self._route(timer)

    def _route(self, timer: Comparator) -> int | None:
        route = ROUTE.of(timer.configuration)
        return route if self.config.routes >> route & 1 else None

    @pit.on_change
    @rtc.on_change
    def _passed_on(self, _level: bool) -> None:
        self._drive()

    # --- the block

    @configuration.value
    def _configuration(self) -> int:
        return self.state.configuration

    @configuration.on_write
    def _configured(self, value: int) -> None:
        self._catch_up()
        ran, self.state.count = self.running, self.tick & COUNTER_MASK
        self.state.configuration = value
        if self.running != ran:
            self.state.origin_ns = self.clock.now_ns - self.state.count * TICK_NS
            for timer in self.state.comparators:
                timer.aim(self.state.count)
                timer.quiet, timer.raised = 0, False
        self._drive()
        self._rearm()

    @interrupt_status.on_write
    def _acknowledged(self, _value: int) -> None:
        self._drive()

    @main_counter.counts
    def _counter(self) -> Count:
        if not self.running:
            return Count(0, value=self.state.count)
        since = self.state.origin_ns % TICK_NS  # the origin may be long before guest time 0
        return Count(NS_PER_S // TICK_NS, value=(since - self.state.origin_ns) // TICK_NS, since_ns=since)

    @main_counter.on_write
    def _set_counter(self, value: int) -> None:
        if not self.running:
            self.state.count = value

    # --- a timer

    @timer_configuration.value
    def _timer_configuration(self) -> int:
        return TIMER_CAPABLE | self.selected.configuration

    @interrupt_routes.value
    def _interrupt_routes(self) -> int:
        return self.config.routes

    @timer_configuration.on_write
    def _timer_configured(self, value: int) -> None:
        self._catch_up()
        timer, before = self.selected, self.selected.configuration
        timer.configuration = value & WRITABLE
        timer.value, timer.period = timer.value & timer.mask, timer.period & timer.mask
        if (before ^ timer.configuration) & SHAPE:
            timer.aim(self.tick)
        timer.raised = timer.raised and timer.has("INT_ENB_CNF") and not timer.has("INT_TYPE_CNF")
        self._drive()
        self._rearm()

    @comparator.value
    def _comparator(self) -> int:
        return self.selected.shown(self.tick) if self.running else self.selected.value

    @comparator_low.value
    def _comparator_low(self) -> int:
        return self._comparator() & LOW

    @comparator_high.value
    def _comparator_high(self) -> int:
        return self._comparator() >> 32

    @comparator.on_write
    def _compare(self, value: int, bits: int = COUNTER_MASK) -> None:
        """Posted: it interrupts nobody, but has the alarm do that."""
        timer, tick = self.selected, self.tick
        timer.owed |= self.running and timer.settle(tick) > 0
        timer.load(value, bits, tick, LATE if self.running else 0)
        self._rearm()

    @comparator_low.on_write
    def _compare_low(self, value: int) -> None:
        self._compare(value, LOW)

    @comparator_high.on_write
    def _compare_high(self, value: int) -> None:
        self._compare(value << 32, HIGH)

    @fsb_route.value
    def _fsb_route(self) -> int:
        return self.selected.fsb_route

    @fsb_route.on_write
    def _set_fsb_route(self, value: int) -> None:
        self.selected.fsb_route = value
