"""MC146818A, by Motorola's datasheet ADI1026 (headings are its); CMOS bytes by SeaBIOS rel-1.16.2."""

from __future__ import annotations

import calendar
import datetime as dt

import pytest
from hypothesis import given, settings, strategies as st

from devices.legacy.rtc146818 import B, C, Rtc146818, RtcConfig
from mmiod.testing.harness import WALL_START_S, Harness

SECOND = 1_000_000_000
TIME = (0, 2, 4, 6, 7, 8, 9, 0x32)


def get(rtc: Harness[Rtc146818], cell: int) -> int:
    """Read a cell through the ports."""
    rtc.write_at(0, cell)
    return rtc.read_at(1)


def put(rtc: Harness[Rtc146818], cell: int, value: int) -> None:
    """Write a cell through the ports."""
    rtc.write_at(0, cell)
    rtc.write_at(1, value)


def shown(rtc: Harness[Rtc146818]) -> list[int]:
    """Time and date, in the order of `TIME`."""
    return [get(rtc, cell) for cell in TIME]


def set_time(rtc: Harness[Rtc146818], *values: int) -> None:
    """Set time and date as "Programming" says: SET, the bytes, SET off."""
    b = get(rtc, 0x0B)
    put(rtc, 0x0B, b | B.SET)
    for cell, value in zip(TIME, values, strict=True):
        put(rtc, cell, value)
    put(rtc, 0x0B, b)


def irq(rtc: Harness[Rtc146818]) -> bool:
    """The level of IRQ, true when asserted."""
    return rtc.levels["irq"]


def test_it_shows_the_wall_clock() -> None:
    """BCD, 24 hours at power-on: 2023-11-14 22:13:20, a Tuesday (day 3), century 20."""
    rtc = Harness(Rtc146818)
    assert shown(rtc) == [0x20, 0x13, 0x22, 0x03, 0x14, 0x11, 0x23, 0x20]
    rtc.advance(47 * 60 * SECOND)
    assert shown(rtc)[:3] == [0x20, 0x00, 0x23]


@pytest.mark.parametrize(
    ("b", "expected"),
    [
        (B.HOURS_24, [0x20, 0x13, 0x22, 0x03, 0x14, 0x11, 0x23]),
        (0, [0x20, 0x13, 0x90, 0x03, 0x14, 0x11, 0x23]),
        (B.DM | B.HOURS_24, [20, 13, 22, 3, 14, 11, 23]),
        (B.DM, [20, 13, 0x80 | 10, 3, 14, 11, 23]),
    ],
)
def test_data_modes(b: int, expected: list[int]) -> None:
    """Register B, DM and 24/12: BCD or binary; on a 12-hour clock bit 7 is PM (Table 3)."""
    rtc = Harness(Rtc146818)
    put(rtc, 0x0B, b)
    assert expected == shown(rtc)[:7]


@pytest.mark.parametrize(("hour", "byte"), [(0, 0x12), (1, 0x01), (11, 0x11), (12, 0x92), (23, 0x91)])
def test_twelve_hours(hour: int, byte: int) -> None:
    """Table 3: midnight is 12 AM, noon 12 PM; written and read alike."""
    rtc = Harness(Rtc146818)
    put(rtc, 0x0B, 0)
    set_time(rtc, 0, 0, byte, 1, 1, 1, 0, 0x20)
    assert get(rtc, 4) == byte
    put(rtc, 0x0B, B.DM | B.HOURS_24)
    assert get(rtc, 4) == hour


def test_setting_the_time() -> None:
    """Register B, SET: updates stop, bytes are kept as written, and the clock goes on from them."""
    rtc = Harness(Rtc146818)
    put(rtc, 0x0B, B.SET | B.HOURS_24)
    values = (0x59, 0x59, 0x23, 0x07, 0x31, 0x12, 0x99, 0x19)
    for cell, value in zip(TIME, values, strict=True):
        put(rtc, cell, value)
        rtc.advance(2 * SECOND)
    assert list(values) == shown(rtc)
    put(rtc, 0x0B, B.HOURS_24)
    rtc.advance(SECOND)
    assert shown(rtc) == [0, 0, 0, 0x07, 1, 1, 0, 0x20]


def test_writing_without_set() -> None:
    """A byte written while the clock runs changes that byte only."""
    rtc = Harness(Rtc146818)
    put(rtc, 2, 0x45)
    assert shown(rtc) == [0x20, 0x45, 0x22, 0x03, 0x14, 0x11, 0x23, 0x20]


def test_the_divider_reset_holds_the_clock() -> None:
    """Register A, DV 11x: no updates; the first one is half a second after its end."""
    rtc = Harness(Rtc146818)
    rtc.advance(SECOND // 4)
    put(rtc, 0x0A, 0x76)
    rtc.advance(10 * SECOND)
    assert get(rtc, 0) == 0x20
    put(rtc, 0x0A, 0x26)
    rtc.advance(SECOND // 2 - 1)
    found = [get(rtc, 0)]
    rtc.advance(1)
    found.append(get(rtc, 0))
    assert found == [0x20, 0x21]


def test_set_keeps_the_phase_of_the_second() -> None:
    """SET stops the copy of the time, not the divider chain: the second ends when it would have."""
    rtc = Harness(Rtc146818)
    rtc.advance(SECOND * 3 // 4)
    set_time(rtc, 0x30, 0, 0, 1, 1, 1, 0x24, 0x20)
    rtc.advance(SECOND // 4 - 1)
    found = [get(rtc, 0)]
    rtc.advance(1)
    found.append(get(rtc, 0))
    assert found == [0x30, 0x31]


def test_update_in_progress() -> None:
    """Update Cycle: UIP is high for 244 us before the update, never while the clock stands."""
    rtc = Harness(Rtc146818)
    rtc.advance(SECOND - 244_001)
    found = [get(rtc, 0x0A)]
    rtc.advance(1)
    found.append(get(rtc, 0x0A))
    rtc.advance(244_000)
    found.append(get(rtc, 0x0A))
    put(rtc, 0x0B, B.SET)
    rtc.advance(SECOND - 1)
    found.append(get(rtc, 0x0A))
    assert found == [0x26, 0xA6, 0x26, 0x26]


def test_registers() -> None:
    """UIP, C and D cannot be written; D says that the battery is good; SET clears UIE."""
    rtc = Harness(Rtc146818)
    for cell, value, expected in ((0x0A, 0xFF, 0x7F), (0x0B, 0xFF, 0xEF), (0x0C, 0xFF, 0), (0x0D, 0, 0x80)):
        put(rtc, cell, value)
        assert expected == get(rtc, cell)


def test_update_interrupt() -> None:
    """Interrupts, UIE: at each update; IRQ is held until register C is read, which clears it."""
    rtc = Harness(Rtc146818)
    get(rtc, 0x0C)
    put(rtc, 0x0B, B.HOURS_24 | B.UIE)
    rtc.advance(SECOND - 1)
    assert not irq(rtc)
    rtc.advance(1)
    assert irq(rtc)
    assert rtc.context.deadlines == {}, "nothing to wait for before C is read"
    assert C.IRQF | C.UF | C.PF == get(rtc, 0x0C)
    assert (irq(rtc), get(rtc, 0x0C)) == (False, 0)
    rtc.advance(SECOND)
    assert irq(rtc)


def test_flags_are_set_without_their_enables() -> None:
    """Register C: UF, AF and PF are set whatever register B says; IRQF only by an enabled one."""
    rtc = Harness(Rtc146818)
    put(rtc, 0x0A, 0x20)
    get(rtc, 0x0C)
    rtc.advance(SECOND)
    assert get(rtc, 0x0C) == C.UF
    rtc.advance(SECOND)
    put(rtc, 0x0B, B.UIE)
    assert irq(rtc), "a flag that is set interrupts when it is enabled"


@pytest.mark.parametrize(
    ("rate", "hertz"),
    [(1, 256), (2, 128), (3, 8192), (6, 1024), (15, 2)],
)
def test_periodic_interrupt(rate: int, hertz: int) -> None:
    """Table 5, 32.768 kHz: rates 1 and 2 are 256 and 128 Hz, 3 to 15 8192 to 2 Hz."""
    rtc = Harness(Rtc146818)
    put(rtc, 0x0A, 0x20 | rate)
    get(rtc, 0x0C)
    put(rtc, 0x0B, B.PIE)
    for n in (1, 2, 3):
        rtc.advance(-(-n * SECOND // hertz) - 1 - rtc.context.clock.now_ns)
        assert not irq(rtc)
        rtc.advance(1)
        assert irq(rtc)
        assert get(rtc, 0x0C) & C.PF


def test_no_rate_no_periodic_flag() -> None:
    """Table 5: RS 0 is none; neither is there one in the divider's reset."""
    rtc = Harness(Rtc146818)
    for a in (0x20, 0x76):
        put(rtc, 0x0A, a)
        get(rtc, 0x0C)
        rtc.advance(SECOND)
        assert not get(rtc, 0x0C) & C.PF


def test_alarm() -> None:
    """Alarm: at the update that makes the time equal, each day."""
    rtc = Harness(Rtc146818)
    for cell, value in ((1, 0x30), (3, 0x00), (5, 0x23)):
        put(rtc, cell, value)
    get(rtc, 0x0C)
    put(rtc, 0x0B, B.HOURS_24 | B.AIE)
    wait = (46 * 60 + 40 + 30) * SECOND
    for _ in range(2):
        rtc.advance(wait - 1)
        assert not irq(rtc)
        rtc.advance(1)
        assert shown(rtc)[:3] == [0x30, 0x00, 0x23]
        assert irq(rtc)
        assert get(rtc, 0x0C) & C.AF
        wait = 86_400 * SECOND


@pytest.mark.parametrize(
    ("alarm", "period"),
    [((0xFF, 0xFF, 0xFF), 1), ((0x20, 0xC0, 0xFF), 60), ((0x20, 0x13, 0xE5), 3600)],
)
def test_alarm_bytes_that_match_always(alarm: tuple[int, int, int], period: int) -> None:
    """Alarm: C0h to FFh are "don't care": each second, each minute, each hour."""
    rtc = Harness(Rtc146818)
    for cell, value in zip((1, 3, 5), alarm, strict=True):
        put(rtc, cell, value)
    get(rtc, 0x0C)
    put(rtc, 0x0B, B.HOURS_24 | B.AIE)
    for _ in range(2):
        rtc.advance(period * SECOND - 1)
        assert not irq(rtc)
        rtc.advance(1)
        assert irq(rtc)
        get(rtc, 0x0C)


def test_an_impossible_alarm_never_comes() -> None:
    """An alarm byte that no time has leaves no timer."""
    rtc = Harness(Rtc146818)
    put(rtc, 5, 0x24)
    put(rtc, 0x0B, B.HOURS_24 | B.AIE)
    assert rtc.context.deadlines == {}


def test_index_port() -> None:
    """PC AT: port 70h cannot be read; bit 7 masks NMI and is no part of the address."""
    rtc = Harness(Rtc146818)
    put(rtc, 0x40, 0x77)
    assert get(rtc, 0xC0) == 0x77
    assert rtc.read_at(0) == 0xFF
    assert rtc.device.index == 0xC0


def test_a_reset_clears_enables_only() -> None:
    """RESET: PIE, AIE, UIE and SQWE clear, flags too; time, RAM, DM and 24/12 stay."""
    rtc = Harness(Rtc146818)
    put(rtc, 0x40, 0x77)
    put(rtc, 0x0B, 0x7E)
    rtc.write_at(0, 0x04)
    rtc.write_at(1, 7)
    rtc.advance(2 * SECOND)
    rtc.device.reset()
    assert (get(rtc, 0x0B), get(rtc, 0x0C), get(rtc, 0x40)) == (0x06, 0, 0x77)
    assert shown(rtc)[:3] == [22, 13, 7]
    assert rtc.context.deadlines == {}


@pytest.mark.parametrize("mib", [1, 16, 96, 160, 3072])
def test_firmware_finds_the_ram(mib: int) -> None:
    """SeaBIOS src/fw/paravirt.c, qemu_preinit and the RAM above 4 GiB (CMOS_MEM_*)."""

    class Memory:
        below_4g = mib << 20
        above_4g = 5 << 30

    rtc = Harness(Rtc146818)
    rtc.context.memory = Memory()  # type: ignore[assignment]  # only sizes are asked
    rtc.device.reset()
    ram = [get(rtc, cell) for cell in range(128)]
    above_16m = ram[0x34] << 16 | ram[0x35] << 24
    found = above_16m + (16 << 20) if above_16m else (ram[0x30] << 10 | ram[0x31] << 18) + (1 << 20)
    assert mib << 20 == found
    assert ram[0x5B] << 16 | ram[0x5C] << 24 | ram[0x5D] << 32 == 5 << 30
    assert (ram[0x15] | ram[0x16] << 8, ram[0x14]) == (640, 0x06)
    assert ram[0x17:0x19] == ram[0x30:0x32]


@pytest.mark.parametrize(("boot", "order"), [("cad", 0x312), ("a", 0x001), ("ndc", 0x234), ("", 0)])
def test_boot_order(boot: str, order: int) -> None:
    """SeaBIOS src/boot.c: 3Dh and the upper half of 38h; bit 0 of 38h skips a signature check."""
    rtc = Harness(Rtc146818, RtcConfig(boot=boot))
    assert order == get(rtc, 0x3D) | (get(rtc, 0x38) & 0xF0) << 4
    assert get(rtc, 0x38) & 0x0F == 0


@pytest.mark.parametrize("boot", ["x", "cadn", "C"])
def test_a_wrong_boot_order_is_refused(boot: str) -> None:
    """The configuration names known devices, three at most."""
    with pytest.raises(ValueError, match="boot"):
        RtcConfig(boot=boot)


def test_a_reset_keeps_what_the_guest_stored() -> None:
    """The first reset fills the RAM, later ones leave all of it but the size of RAM."""
    rtc = Harness(Rtc146818)
    put(rtc, 0x3D, 0x23)
    rtc.device.reset()
    assert get(rtc, 0x3D) == 0x23


@settings(max_examples=150)
@given(
    st.datetimes(dt.datetime(1900, 1, 1), dt.datetime(2199, 12, 31)),  # noqa: DTZ001
    st.sampled_from([0, B.DM, B.HOURS_24, B.DM | B.HOURS_24]),
    st.integers(0, 400 * 86_400),
)
def test_the_calendar(start: dt.datetime, b: int, wait: int) -> None:
    """Any date that was set goes on as the Gregorian calendar does, in each format."""
    rtc = Harness(Rtc146818)
    put(rtc, 0x0B, B.DM | B.HOURS_24)
    day = start.isoweekday() % 7 + 1
    century, year = divmod(start.year, 100)
    set_time(rtc, start.second, start.minute, start.hour, day, start.day, start.month, year, century)
    put(rtc, 0x0B, b)
    set_time(rtc, *shown(rtc))
    rtc.advance(wait * SECOND)
    put(rtc, 0x0B, B.DM | B.HOURS_24)
    now = start.replace(microsecond=0) + dt.timedelta(seconds=wait)
    century, year = divmod(now.year, 100)
    expected = [now.second, now.minute, now.hour, now.isoweekday() % 7 + 1, now.day, now.month, year, century]
    assert expected == shown(rtc)


@settings(max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("put"), st.integers(0, 0x32), st.integers(0, 255)),
            st.tuples(st.just("get"), st.integers(0, 0x32), st.just(0)),
            st.tuples(st.just("advance"), st.integers(0, 3 * SECOND), st.just(0)),
        ),
        max_size=30,
    )
)
def test_the_line_is_irqf(steps: list[tuple[str, int, int]]) -> None:
    """After any sequence, impossible dates too: the line is IRQF, and some date is shown."""
    rtc = Harness(Rtc146818)
    put(rtc, 0x0A, 0x2F)
    for action, number, value in steps:
        if action == "put":
            put(rtc, number, 0x2F if number == 0x0A else value)
        elif action == "get":
            get(rtc, number)
        else:
            rtc.advance(number)
        assert irq(rtc) == bool(rtc.device.register_c & C.IRQF)


def test_the_wall_clock_of_the_harness_is_the_one_shown() -> None:
    """The constant in the first test is the harness's start."""
    assert calendar.timegm((2023, 11, 14, 22, 13, 20)) == WALL_START_S
