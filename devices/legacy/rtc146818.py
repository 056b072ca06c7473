"""The MC146818A real-time clock and CMOS RAM of a PC.

Specification: Motorola MC146818A datasheet (ADI1026), "Address Map", "Registers", "Interrupts",
"Update Cycle"; IBM PC AT Technical Reference (1502494), "Real-time clock/CMOS RAM"; the
bytes that firmware reads: SeaBIOS rel-1.16.2, src/hw/rtc.h and src/fw/paravirt.c.
"""

from __future__ import annotations

import calendar
import enum
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from attrs import define, field, frozen, validators

from mmiod.device import Device, Field, IrqOutput, Region, Register, Timer, plain

API = 1

NS_PER_S: Final = 1_000_000_000
UPDATE_NS: Final = 244_000
"""How long UIP announces an update ("Update Cycle", tBUC)."""
HALF_S: Final = NS_PER_S // 2
CRYSTAL_HZ: Final = 32_768
CENTURY: Final = 0x32
PS2_CENTURY: Final = 0x37
"""Where a PS/2 has the century: the same byte."""
SECONDS_ALARM, MINUTES_ALARM, HOURS, HOURS_ALARM = 1, 3, 4, 5
PM: Final = 0x80
"""Bit of the hour on a 12-hour clock."""
PARTS: Final[Mapping[int, Callable[[time.struct_time], int]]] = {
    0: lambda now: now.tm_sec,
    2: lambda now: now.tm_min,
    HOURS: lambda now: now.tm_hour,
    6: lambda now: (now.tm_wday + 1) % 7 + 1,  # Sunday is 1
    7: lambda now: now.tm_mday,
    8: lambda now: now.tm_mon,
    9: lambda now: now.tm_year % 100,
    CENTURY: lambda now: now.tm_year // 100,
}
"""Time and date, by their bytes."""
TIME: Final = tuple(PARTS)
ANY: Final = 0xC0
"""An alarm byte with both of these bits matches whatever the time is."""

DEVICES: Final = {"a": 1, "c": 2, "d": 3, "n": 4}
"""Boot devices as SeaBIOS numbers them: floppy, disk, CD, network."""
EQUIPMENT: Final = 0x06
"""A floating point unit, and an interface for a pointing device."""

RS = Field(0, 4)
DV = Field(4, 3)
REGISTER_A: Final = {"RS": RS, "DV": DV, "UIP": Field(7)}
UIP: Final = 0x80
B = enum.IntFlag("B", "DSE HOURS_24 DM SQWE UIE AIE PIE SET")
"""Register B."""
plain(B)
HOURS_24, DM, SET = B.HOURS_24, B.DM, B.SET


@plain
class C(enum.IntFlag):
    """Register C; each flag has the place of its enable in B."""

    UF = 0x10
    AF = 0x20
    PF = 0x40
    IRQF = 0x80


ENABLES: Final = B.UIE | B.AIE | B.PIE
EVENTS: Final = (C.PF, C.AF, C.UF)
VRT: Final = 0x80
Code = Callable[[int], int]
"""Between a number and its byte."""


@frozen
class RtcConfig:
    """`boot` names the devices in the order that firmware tries: a floppy, c disk, d CD, n network."""

    boot: str = field(default="cad", validator=validators.matches_re("[acdn]{0,3}"))


@define
class RtcState:
    """The chip's memory and what its clock has done."""

    ram: bytearray = field(factory=bytearray)
    """128 bytes; registers A and B are in it, time and date only while they stand."""
    offset_ns: int = 0
    """The clock's time minus the wall's."""
    flags: int = 0
    """Register C up to `seen_ns`."""
    seen_ns: int = 0
    """Events of the clock's time before this are in `flags`, or were read."""


class Rtc146818(Device):
    """MC146818A: time, alarm, three interrupts, 114 bytes of RAM and their extension to 128.

    Time is `clock.wall_s` and what the guest added; a second begins where guest time is a
    multiple of 10^9 ns, or 500 ms after the divider's reset ended.  Nothing ticks: time, UIP
    and the flags of register C are computed when read, and a timer runs only towards an
    interrupt that is enabled and not pending.  While SET or the divider's reset holds the
    clock, time and date are plain bytes.  RAM and time are battery-backed; what firmware asks
    is filled in, RAM size (15h-18h, 30h, 31h, 34h, 35h, 5Bh-5Dh) at each reset, equipment (14h)
    and boot order (38h, 3Dh) at the first.

    Not modelled: daylight saving (DSE is kept), the square wave, time bases other than
    32.768 kHz, a day of week of its own (it follows the date), NMI
    (bit 7 of port 70h is kept).  Dates follow the Gregorian calendar with the century at 32h.

    Threat: nothing grows.  The periodic interrupt comes 8192 times a second at most, and
    only as often as the guest reads register C.  Impossible dates count on into possible ones.
    """

    survives_reset = frozenset({"ram", "offset_ns"})

    ports = Region(2, implemented=(1, 1), hole=0xFF)
    irq = IrqOutput()
    event = Timer()
    state: RtcState
    config: RtcConfig

    index = Register(
        0, access="w", fields={"ADDRESS": Field(0, 7), "NMI_DISABLE": Field(7)},
        published=True, posted=True, unaffected_by=("index",),
    )  # fmt: skip
    register_a = Register(1, fields=REGISTER_A, when=lambda rtc: rtc.cell == 0x0A)
    register_b = Register(1, fields=B, when=lambda rtc: rtc.cell == 0x0B)
    register_c = Register(1, access="r", fields=C, when=lambda rtc: rtc.cell == 0x0C)
    register_d = Register(1, access="r", reset=VRT, when=lambda rtc: rtc.cell == 0x0D)
    data = Register(1, when=lambda rtc: not 0x0A <= rtc.cell <= 0x0D)

    def on_reset(self) -> None:
        """Clear the enables ("RESET"); at power-on, fill the RAM."""
        if not self.state.ram:
            self.state.ram = self._first_content()
        self._enter_memory()
        self.state.ram[0x0B] &= ~(ENABLES | B.SQWE)
        self.state.seen_ns = self._now()

    def _first_content(self) -> bytearray:
        ram = bytearray(128)
        ram[0x0A:0x0C] = bytes((0x26, B.HOURS_24))
        ram[0x14] = EQUIPMENT
        order = sum(DEVICES[name] << 4 * place for place, name in enumerate(self.config.boot))
        ram[0x3D], ram[0x38] = order & 0xFF, order >> 4 & 0xF0
        return ram

    def _enter_memory(self) -> None:
        """RAM size, anew at each reset: the next hypervisor of this VM may have another."""
        ram, low, high = self.state.ram, self.memory.below_4g, self.memory.above_4g
        extended = min(max(low - (1 << 20), 0) >> 10, 0xFFFF)
        above_16m = min(max(low - (16 << 20), 0) >> 16, 0xFFFF)
        ram[0x15:0x17] = min(low >> 10, 640).to_bytes(2, "little")
        ram[0x17:0x19] = ram[0x30:0x32] = extended.to_bytes(2, "little")
        ram[0x34:0x36] = above_16m.to_bytes(2, "little")
        ram[0x5B:0x5E] = min(high >> 16, 0xFFFFFF).to_bytes(3, "little")

    # --- the clock

    @property
    def cell(self) -> int:
        """The address that port 71h reaches."""
        address = self.index & 0x7F
        return CENTURY if address == PS2_CENTURY else address

    @property
    def held(self) -> bool:
        """The divider is in reset."""
        return self.state.ram[0x0A] & 0x60 == 0x60

    @property
    def stands(self) -> bool:
        """No updates: time and date are the guest's to write."""
        return self.held or bool(self.state.ram[0x0B] & SET)

    def _now(self) -> int:
        """The clock's time, ns since 1970."""
        clock = self.clock
        return clock.wall_s * NS_PER_S + clock.now_ns % NS_PER_S + self.state.offset_ns

    def _start(self, phase: int) -> None:
        """Let the clock show what is in RAM, `phase` ns into the second."""
        start = self._seconds_in_ram() * NS_PER_S + phase
        self.state.offset_ns += start - self._now()
        self.state.seen_ns = start

    def _seconds_in_ram(self) -> int:
        ram = self.state.ram
        second, minute, _, _, day, month, year, century = (self._decode(ram[cell]) for cell in TIME)
        hour = self._decode_hour(ram[HOURS])
        full_year = min(max(100 * century + year, 1), 9999)
        return calendar.timegm((full_year, (month - 1) % 12 + 1, day, hour, minute, second))

    def _time(self) -> dict[int, int]:
        """The bytes of time and date as they are now."""
        now = time.gmtime(self._now() // NS_PER_S)
        return {cell: self._byte(cell, now) for cell in TIME}

    def _byte(self, cell: int, now: time.struct_time) -> int:
        number = PARTS[cell](now)
        return self._encode_hour(number) if cell == HOURS else self._encode(number)

    def _encode(self, number: int) -> int:
        binary = self.state.ram[0x0B] & DM
        return (number if binary else number // 10 << 4 | number % 10) & 0xFF

    def _decode(self, byte: int) -> int:
        return byte if self.state.ram[0x0B] & DM else (byte >> 4) * 10 + (byte & 15)

    def _encode_hour(self, hour: int) -> int:
        if self.state.ram[0x0B] & HOURS_24:
            return self._encode(hour)
        return self._encode(hour % 12 or 12) | (PM if hour >= 12 else 0)

    def _decode_hour(self, byte: int) -> int:
        if self.state.ram[0x0B] & HOURS_24:
            return self._decode(byte)
        return self._decode(byte & ~PM) % 12 + (12 if byte & PM else 0)

    # --- events

    def _period(self) -> int:
        """Crystal pulses between two periodic interrupts, 0 for none (Table 5)."""
        rate = RS.of(self.state.ram[0x0A])
        return 0 if not rate or self.held else 1 << (rate + 7 if rate <= 2 else rate) - 1

    def _periods(self, ns: int) -> int:
        return ns * CRYSTAL_HZ // (self._period() * NS_PER_S)

    def _next_periodic(self, after_ns: int) -> int | None:
        if not self._period():
            return None
        return -(-(self._periods(after_ns) + 1) * self._period() * NS_PER_S // CRYSTAL_HZ)

    def _next_update(self, after_ns: int) -> int | None:
        return None if self.stands else (after_ns // NS_PER_S + 1) * NS_PER_S

    def _next_alarm(self, after_ns: int) -> int | None:
        """The first update after `after_ns` whose time of day has the bytes of the alarm."""
        if self.stands:
            return None
        seconds = self._matching(SECONDS_ALARM, 60, self._encode, self._decode)
        minutes = self._matching(MINUTES_ALARM, 60, self._encode, self._decode)
        hours = self._matching(HOURS_ALARM, 24, self._encode_hour, self._decode_hour)
        past = after_ns // NS_PER_S
        today = past - past % 86_400
        matches = (
            start + second
            for day in (today, today + 86_400)
            for hour in hours
            if day + hour * 3600 + 3599 > past
            for start in (day + hour * 3600 + minute * 60 for minute in minutes)
            if start + 59 > past
            for second in seconds
            if start + second > past
        )
        found = next(matches, None)
        return None if found is None else found * NS_PER_S

    def _matching(self, cell: int, count: int, encode: Code, decode: Code) -> Iterable[int]:
        """The numbers below `count` whose byte an alarm byte matches."""
        byte = self.state.ram[cell]
        if byte & ANY == ANY:
            return range(count)
        number = decode(byte)
        return (number,) if number < count and encode(number) == byte else ()

    def _next_event(self, flag: C, after_ns: int) -> int | None:
        """When a flag of register C is set after `after_ns`, in the clock's ns."""
        if flag == C.PF:
            return self._next_periodic(after_ns)
        if flag == C.UF:
            return self._next_update(after_ns)
        return self._next_alarm(after_ns)

    def _flags(self) -> int:
        """PF, AF and UF as they are now."""
        now, seen, flags = self._now(), self.state.seen_ns, self.state.flags
        for flag in EVENTS:
            if not flags & flag:
                due = self._next_event(flag, seen)
                flags |= flag if due is not None and due <= now else 0
        return flags

    def _settle(self, *, read: bool = False) -> None:
        """Bring `flags` up to now, before something changes what sets them."""
        self.state.flags = 0 if read else self._flags()
        self.state.seen_ns = self._now()

    @event.on_fire
    def _drive(self) -> None:
        """Show IRQF; while it is low, wait for the first event that would raise it."""
        enabled = self.state.ram[0x0B] & ENABLES
        pending = bool(self._flags() & enabled)
        self.irq.set_level(pending)
        now = self._now()
        events = [self._next_event(flag, now) for flag in EVENTS if enabled & flag]
        due = min((event for event in events if event is not None), default=None)
        if pending or due is None:
            self.event.cancel()
        else:
            self.event.set(self.clock.now_ns + due - now)

    # --- ports

    def _put(self, cell: int, value: int) -> None:
        """Store a byte; time and date start from it where they do not stand."""
        self._settle()
        ram, held, stood, phase = self.state.ram, self.held, self.stands, self._now() % NS_PER_S
        if not stood:
            for at, byte in self._time().items():
                ram[at] = byte
        ram[cell] = value
        if stood or cell in TIME:
            self._start(HALF_S if held and not self.held else phase)
        self._drive()

    @data.value
    def _data(self) -> int:
        cell = self.cell
        if cell in PARTS and not self.stands:
            return self._byte(cell, time.gmtime(self._now() // NS_PER_S))
        return self.state.ram[cell]

    @data.on_write
    def _data_written(self, value: int) -> None:
        self._put(self.cell, value)

    @register_a.value
    def _a(self) -> int:
        updating = not self.stands and self._now() % NS_PER_S >= NS_PER_S - UPDATE_NS
        return self.state.ram[0x0A] | (UIP if updating else 0)

    @register_a.on_write
    def _a_written(self, value: int) -> None:
        self._put(0x0A, value & ~UIP)

    @register_b.value
    def _b(self) -> int:
        return self.state.ram[0x0B]

    @register_b.on_write
    def _b_written(self, value: int) -> None:
        self._put(0x0B, value & ~B.UIE if value & B.SET else value)  # SET clears UIE

    @register_c.value
    def _c(self) -> int:
        flags = self._flags()
        return flags | (C.IRQF if flags & self.state.ram[0x0B] & ENABLES else 0)

    @register_c.on_read
    def _c_was_read(self) -> None:
        self._settle(read=True)
        self._drive()
