"""The 8254 timer of a PC, with port 61h, where its counter 2 is gated and seen.

Specification: Intel 8254 datasheet (231164-005), "Programming the 8254", "Mode Definitions";
Intel 82371SB (PIIX3, 290550), 2.5.4.1 NMI status and control register (port 61h).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import define, field, frozen

from mmiod.device import Device, Field, IrqOutput, Region, Register, Timer

API = 1

FREQUENCY_HZ: Final = 1_193_182
NS_PER_S: Final = 1_000_000_000
REFRESH_TICKS: Final = 18
"""CLKs between two DRAM refreshes on an AT: 15 us."""

BCD = Field(0)
M = Field(1, 3)
RW = Field(4, 2)
SC = Field(6, 2)
LATCH: Final = 0
WORD: Final = 3
READ_BACK: Final = 3
NOT_COUNT = Field(5)
NOT_STATUS = Field(4)

CONTROL: Final = {"BCD": BCD, "M": M, "RW": RW, "SC": SC}
NMI_STATUS: Final = {"GATE2": Field(0), "SPKR": Field(1), "REFRESH": Field(4), "OUT2": Field(5)}


def ticks(now_ns: int) -> int:
    """CLK pulses until a guest time."""
    return now_ns * FREQUENCY_HZ // NS_PER_S


def ns_of(tick: int) -> int:
    """The first ns at which `ticks` gives `tick`."""
    return -(-tick * NS_PER_S // FREQUENCY_HZ)


@frozen
class Mode:
    """When OUT changes, in CLKs since the count was loaded, and how the gate acts."""

    starts_high: bool
    changes: Callable[[int], tuple[int, ...]]
    periodic: bool = False
    triggered: bool = False
    """The gate's rising edge starts it, and its level is nothing."""

    def out(self, count: int, elapsed: int) -> bool:
        """The level of OUT."""
        position = elapsed % count if self.periodic else elapsed
        changed = sum(change <= position for change in self.changes(count))
        return self.starts_high != bool(changed & 1)

    def next_change(self, count: int, elapsed: int) -> int | None:
        """When OUT changes after `elapsed`."""
        cycle = elapsed - elapsed % count if self.periodic else 0
        return next((cycle + change for change in self.changes(count) if cycle + change > elapsed), None)


RATE: Final = 2
SQUARE: Final = 3
MODES: Final = (
    Mode(starts_high=False, changes=lambda count: (count,)),
    Mode(starts_high=False, changes=lambda count: (count,), triggered=True),
    Mode(starts_high=True, changes=lambda count: (count - 1, count), periodic=True),
    Mode(starts_high=True, changes=lambda count: ((count + 1) // 2, count), periodic=True),
    Mode(starts_high=True, changes=lambda count: (count, count + 1)),
    Mode(starts_high=True, changes=lambda count: (count, count + 1), triggered=True),
)


@define
class Load:
    """A count in the counting element: at tick `start` it had counted `phase` CLKs."""

    count: int
    start: int
    phase: int = 0


@define
class Counter:
    """One counter.  All times are ticks; its value and OUT are computed from them."""

    control: int = 0
    """RW, M and BCD of the last control word."""
    gate: bool = True
    count: int = 0
    """The count register, 1 .. 65536 (10000 in BCD); 0 before the first write."""
    load: Load | None = None
    coming: Load | None = None
    """What replaces `load` at its `start`."""
    untriggered: bool = False
    """A count was written that the gate has not started yet (modes 1 and 5)."""
    shown: int = 0
    """What a read gives while no count is loaded."""
    low_byte: int | None = None
    reads_high: bool = False
    latched_count: int | None = None
    latched_high: bool = False
    """The latch's low byte was read."""
    latched_status: int | None = None

    @property
    def number(self) -> int:
        """The mode's number; 6 and 7 are 2 and 3."""
        number = M.of(self.control)
        return number & 3 if number > 5 else number

    @property
    def mode(self) -> Mode:
        """The mode."""
        return MODES[self.number]

    @property
    def modulus(self) -> int:
        """Where the counting element wraps."""
        return 10_000 if BCD.of(self.control) else 0x10000

    # --- what a tick shows

    def active(self, tick: int) -> Load | None:
        """The load that counts at `tick`."""
        return self.coming if self.coming is not None and tick >= self.coming.start else self.load

    def elapsed(self, load: Load, tick: int) -> int:
        """CLKs that a load has counted; between writing and loading it shows as loaded."""
        counts = self.gate or self.mode.triggered
        return load.phase + (max(0, tick - load.start) if counts else 0)

    def out(self, tick: int) -> bool:
        """The level of OUT."""
        load = self.active(tick)
        if load is None:
            return self.number != 0
        if self.mode.periodic and not self.gate:
            return True
        return self.mode.out(load.count, self.elapsed(load, tick))

    def next_change(self, tick: int) -> int | None:
        """The tick of the next change of OUT, if nobody touches the counter."""
        change = self._change_of(self.active(tick), tick)
        coming = self.coming
        if coming is None or tick >= coming.start or (change is not None and change < coming.start):
            return change
        if self.out(coming.start) != self.out(tick):
            return coming.start
        return self._change_of(coming, coming.start)

    def _change_of(self, load: Load | None, tick: int) -> int | None:
        if load is None or not (self.gate or self.mode.triggered):
            return None
        change = self.mode.next_change(load.count, self.elapsed(load, tick))
        return None if change is None else load.start + change - load.phase

    def element(self, tick: int) -> int:
        """The counting element as a guest reads it."""
        load = self.active(tick)
        return (
            self.shown
            if load is None
            else self._read_out(self._remaining(load.count, self.elapsed(load, tick)))
        )

    def _read_out(self, count: int) -> int:
        value = count % self.modulus
        return int(str(value), 16) if BCD.of(self.control) else value

    def _remaining(self, count: int, elapsed: int) -> int:
        if self.number == RATE:
            return count - elapsed % count
        if self.number == SQUARE:  # an odd count is loaded as the even one below, and counts by two
            half, position = (count + 1) // 2, elapsed % count
            return (count & ~1) - 2 * (position if position < half else position - half)
        return count - elapsed

    def status(self, tick: int) -> int:
        """The status byte: OUT, null count, control word."""
        load = self.coming or self.load
        null = load is None or tick < load.start or self.untriggered
        return self.out(tick) << 7 | null << 6 | self.control

    # --- what changes it

    def write(self, value: int, tick: int) -> None:
        """A byte of the count register."""
        access = RW.of(self.control)
        if access == WORD and self.low_byte is None:
            self.low_byte = value
            if self.number == 0:  # the first byte stops the count and OUT goes low
                self.shown, self.load = self.element(tick), None
            return
        word = value << 8 if access == 2 else value
        if access == WORD:
            word, self.low_byte = value << 8 | (self.low_byte or 0), None
        self._set_count(word, tick)

    def _set_count(self, word: int, tick: int) -> None:
        if BCD.of(self.control):
            word = sum((word >> 4 * digit & 15) * 10**digit for digit in range(4))
        least = 2 if self.mode.periodic else 1  # 1 is illegal there
        self.count = max(word or self.modulus, least)
        if self.mode.triggered:
            self.shown, self.untriggered = self._read_out(self.count), True
            return
        load = self._settle(tick)
        if load is not None and self.mode.periodic and self.gate:
            self.coming = self._after_cycle(load, tick)
        else:
            self.load = Load(self.count, tick + 1)

    def _after_cycle(self, load: Load, tick: int) -> Load:
        """Where a new count takes over: mode 2 at the period's end, mode 3 at the half's."""
        elapsed = self.elapsed(load, tick)
        end = elapsed - elapsed % load.count + load.count
        phase = 0
        if self.number == SQUARE and self.mode.out(load.count, elapsed):
            end += (load.count + 1) // 2 - load.count
            phase = (self.count + 1) // 2
        return Load(self.count, load.start + end - load.phase, phase)

    def _settle(self, tick: int) -> Load | None:
        """Make what is active at `tick` the load."""
        self.load = self.active(tick)
        if self.coming is self.load:
            self.coming = None
        return self.load

    def set_gate(self, gate: bool, tick: int) -> None:
        """Drive the gate: it holds the count, and its rising edge resumes or starts it."""
        if gate == self.gate:
            return
        load = self._settle(tick)
        if load is not None and not self.mode.triggered:
            self.coming = None
            self.load = Load(load.count, tick, self.elapsed(load, tick))
        self.gate = gate
        if gate and self.count and self.mode.triggered:
            self.coming, self.untriggered = Load(self.count, tick + 1), False
        elif gate and self.count and self.mode.periodic:
            self.load = Load(self.count, tick + 1)

    # --- reading

    def latch_count(self, tick: int) -> None:
        """Hold the count until it is read; a second latch does nothing."""
        if self.latched_count is None:
            self.latched_count, self.latched_high = self.element(tick), False

    def latch_status(self, tick: int) -> None:
        """Hold the status until it is read."""
        if self.latched_status is None:
            self.latched_status = self.status(tick)

    def peek(self, tick: int) -> int:
        """The byte that the next read gives."""
        if self.latched_status is not None:
            return self.latched_status
        value = self.element(tick) if self.latched_count is None else self.latched_count
        return value >> 8 * self._high & 0xFF

    @property
    def _high(self) -> bool:
        access = RW.of(self.control)
        if access != WORD:
            return access == 2
        return self.reads_high if self.latched_count is None else self.latched_high

    def advance(self) -> None:
        """A byte was read."""
        if self.latched_status is not None:
            self.latched_status = None
        elif self.latched_count is None:
            self.reads_high = not self.reads_high
        elif self._high or RW.of(self.control) != WORD:
            self.latched_count = None
        else:
            self.latched_high = True


def _undefined(*, gate: bool = True) -> Counter:
    """A counter that was never programmed: the datasheet leaves its mode open; OUT is high."""
    return Counter(control=SQUARE << 1, gate=gate)


@define
class PitState:
    """What the ports hide."""

    counters: list[Counter] = field(factory=lambda: [_undefined(), _undefined(), _undefined(gate=False)])
    speaker: bool = False


class Pit8254(Device):
    """8254: three counters, six modes, latch, read-back, BCD, and port 61h.

    Counter 0 drives `irq`.  CLK is 1.193182 MHz of guest time, exactly: tick n begins at
    the ns n * 10^9 / 1193182, rounded up.  Nothing counts; values are computed when read.

    Not modelled: sound, refresh by counter 1 (REFRESH toggles each 18 CLKs whatever it
    does), parity and IOCHK# (port 61h bits 2, 3, 6, 7 read 0), counting before the first
    count is written (undefined; here it stands and shows the count that was there before,
    OUT is as the mode's control word puts it, and high out of reset).
    A count of 1, illegal in modes 2 and 3, is 2.

    Threat: nothing grows.  Mode 2 with a count of 2 asks for 1.2 million changes a second;
    a timer that is late passes over what it missed, as one pulse.
    """

    counters = Region(4)
    port61 = Region(1)
    irq = IrqOutput()
    change = Timer()
    state: PitState

    counter0 = Register(0, region=counters)
    counter1 = Register(1, region=counters)
    counter2 = Register(2, region=counters)
    control = Register(3, access="w", region=counters, fields=CONTROL)
    nmi_status = Register(0, region=port61, fields=NMI_STATUS)

    def on_reset(self) -> None:
        """OUT0 is high."""
        self._drive()

    @property
    def tick(self) -> int:
        """CLK pulses until now."""
        return ticks(self.clock.now_ns)

    @change.on_fire
    def _changed(self) -> None:
        if self.state.counters[0].out(self.tick) == self.irq.level:
            self.irq.set_level(not self.irq.level)  # late: a whole pulse went by
        self._drive()

    def _drive(self) -> None:
        """Show OUT0 and wait for its next change."""
        counter, tick = self.state.counters[0], self.tick
        self.irq.set_level(counter.out(tick))
        change = counter.next_change(tick)
        if change is None:
            self.change.cancel()
        else:
            self.change.set(ns_of(change))

    @control.on_write
    def _controlled(self, value: int) -> None:
        number, counters = SC.of(value), self.state.counters
        if number == READ_BACK:
            self._read_back(value)
        elif RW.of(value) == LATCH:
            counters[number].latch_count(self.tick)
        else:
            old = counters[number]
            counters[number] = Counter(value & 0x3F, old.gate, shown=old.element(self.tick))
            self._drive()

    def _read_back(self, value: int) -> None:
        for number, counter in enumerate(self.state.counters):
            if value >> 1 + number & 1:
                if not NOT_COUNT.of(value):
                    counter.latch_count(self.tick)
                if not NOT_STATUS.of(value):
                    counter.latch_status(self.tick)

    @counter0.value
    def _byte0(self) -> int:
        return self.state.counters[0].peek(self.tick)

    @counter1.value
    def _byte1(self) -> int:
        return self.state.counters[1].peek(self.tick)

    @counter2.value
    def _byte2(self) -> int:
        return self.state.counters[2].peek(self.tick)

    @counter0.on_read
    def _read0(self) -> None:
        self.state.counters[0].advance()

    @counter1.on_read
    def _read1(self) -> None:
        self.state.counters[1].advance()

    @counter2.on_read
    def _read2(self) -> None:
        self.state.counters[2].advance()

    @counter0.on_write
    def _write0(self, value: int) -> None:
        self.state.counters[0].write(value, self.tick)
        self._drive()

    @counter1.on_write
    def _write1(self, value: int) -> None:
        self.state.counters[1].write(value, self.tick)

    @counter2.on_write
    def _write2(self, value: int) -> None:
        self.state.counters[2].write(value, self.tick)

    # --- port 61h

    @nmi_status.value
    def _nmi_status(self) -> int:
        counter, tick = self.state.counters[2], self.tick
        refresh = tick // REFRESH_TICKS & 1
        return counter.gate | self.state.speaker << 1 | refresh << 4 | counter.out(tick) << 5

    @nmi_status.on_write
    def _gated(self, value: int) -> None:
        self.state.counters[2].set_gate(bool(value & 1), self.tick)
        self.state.speaker = bool(value & 2)
