"""Power management function: PIIX4 datasheet (290562) and ACPI 6.5, 4.8.3."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from devices.acpi.piix4_pm import Piix4Pm, PmConfig
from mmiod.device import Request
from mmiod.testing import Harness
from mmiod.values import Space

CONFIG = "config_space"
SECOND = 1_000_000_000
HALF_24_NS = 2_343_484_438
"""When bit 23 changes first: 2^23 ticks at 3.579545 MHz, rounded up to a nanosecond."""
WHOLE_24_NS = 4_686_968_875
"""When it changes back, 2^24 ticks."""


def pm(width: int = 24) -> Harness[Piix4Pm]:
    """A function whose PM I/O space is at B000h, as SeaBIOS puts it."""
    harness = Harness(Piix4Pm, PmConfig(timer_width=width))
    harness.write("pmba", 0xB001)
    harness.write("pmregmisc", 1)
    return harness


def test_it_is_function_3_of_a_piix4() -> None:
    """VID, DID, PCISTS, CLASSC, RID, interrupt pin A."""
    harness = Harness(Piix4Pm)
    expected = [0x7113_8086, 0x0280_0000, 0x0680_0003, 0x0000_0100]
    assert expected == [harness.read_at(offset, 4, CONFIG) for offset in (0x00, 0x04, 0x08, 0x3C)]


def test_pm_io_is_where_pmba_says_while_pmiose_is_set() -> None:
    """40h: bits 15:6 are the base, bit 0 reads 1; 80h bit 0 enables decoding."""
    harness = Harness(Piix4Pm)
    places = [harness.context.placed["pm_io"]]
    for register, value in (("pmba", 0xFFFF_B07F), ("pmregmisc", 0xFF), ("pmba", 0x600), ("pmregmisc", 0)):
        harness.write(register, value)
        places.append(harness.context.placed["pm_io"])
    assert [None, None, 0xB040, 0x600, None] == [base for _, base in places]
    assert {Space.PIO} == {space for space, _ in places}
    assert (0x601, 0) == (harness.read("pmba"), harness.read("pmregmisc"))


def test_a_reset_takes_pm_io_off_the_map() -> None:
    """PMBA and PMREGMISC are at their reset values."""
    harness = pm()
    harness.device.reset()
    assert harness.context.placed["pm_io"] == (Space.PIO, None)


@pytest.mark.parametrize(("width", "mask"), [(24, 0xFF_FFFF), (32, 0xFFFF_FFFF)])
@settings(max_examples=60)
@given(ns=st.integers(0, 10**14))
def test_the_timer_is_guest_time_in_ticks_of_3_579545_mhz(width: int, mask: int, ns: int) -> None:
    """Computed, exact for any time; 24 bits, or 32 where TMR_VAL_EXT is told (ACPI 4.8.3.3)."""
    harness = pm(width)
    harness.advance(ns)
    assert (ns * 3_579_545 // 10**9) & mask == harness.read("pmtmr")


def test_the_timer_counts_its_frequency_in_a_second_and_is_read_only() -> None:
    """Bits above its width read 0."""
    harness = pm()
    harness.write_at(8, 0xFFFF_FFFF, 4, "pm_io")
    assert harness.read("pmtmr") == 0
    harness.advance(SECOND)
    assert harness.read("pmtmr") == 3_579_545
    harness.advance(4 * SECOND)
    assert 5 * 3_579_545 - (1 << 24) == harness.read("pmtmr")


def test_tmrof_sts_is_set_when_the_top_bit_changes_and_cleared_by_a_one() -> None:
    """ACPI 4.8.3.1.1: on each change of bit 23, up and down; writing 0 leaves it."""
    harness = pm()
    seen = []
    for change_ns in (HALF_24_NS, WHOLE_24_NS):
        harness.advance(change_ns - 1 - harness.context.clock.now_ns)
        seen.append(harness.read("pmsts"))
        harness.advance(1)
        harness.write("pmsts", 0)
        seen.append(harness.read("pmsts"))
        harness.write("pmsts", 1)
        seen.append(harness.read("pmsts"))
    assert [0, 1, 0, 0, 1, 0] == seen


def test_sci_follows_status_enable_and_sci_en() -> None:
    """TMROF_STS, TMROF_EN and SCI_EN all set; it falls when the status is cleared."""
    harness = pm()
    harness.write("pmcntrl", 1)
    harness.write("pmen", 1)
    harness.advance(HALF_24_NS - 1)
    levels = [harness.levels["sci"]]
    harness.advance(1)
    levels.append(harness.levels["sci"])
    harness.write("pmcntrl", 0)
    levels.append(harness.levels["sci"])
    harness.write("pmcntrl", 1)
    harness.write("pmsts", 1)
    levels.append(harness.levels["sci"])
    harness.advance(HALF_24_NS)
    levels.append(harness.levels["sci"])
    assert [False, True, False, False, True] == levels


def test_without_tmrof_en_no_timer_is_armed() -> None:
    """A halted guest is not woken for what nobody wants; enabling later shows what was missed."""
    harness = pm()
    harness.write("pmcntrl", 1)
    harness.advance(3 * SECOND)
    assert {} == harness.context.deadlines
    harness.write("pmen", 1)
    assert harness.levels["sci"]
    harness.write("pmen", 0)
    assert not harness.levels["sci"]


def test_a_32_bit_timer_overflows_every_ten_minutes() -> None:
    """The change is that of bit 31."""
    harness = pm(32)
    harness.write("pmen", 1)
    assert {"overflow": -(-(1 << 31) * 10**9 // 3_579_545)} == harness.context.deadlines


def test_a_reset_clears_what_overflowed_while_the_timer_runs_on() -> None:
    """PMSTS is 0, PMTMR is still guest time."""
    harness = pm()
    harness.advance(3 * SECOND)
    assert harness.read("pmsts") == 1
    harness.device.reset()
    assert (0, 3 * 3_579_545) == (harness.read("pmsts"), harness.read("pmtmr"))


def test_enables_keep_their_bits_and_other_pm_registers_are_not_there() -> None:
    """PMEN has bits 10, 8, 5 and 0; general purpose events are not modelled."""
    harness = pm()
    harness.write("pmen", 0xFFFF)
    assert harness.read("pmen") == 0x0521
    harness.write_at(0x28, 0xFFFF_FFFF, 4, "pm_io")
    assert harness.read_at(0x28, 4, "pm_io") == 0xFFFF_FFFF


@pytest.mark.parametrize(("sus_typ", "requests"), [(0, [(Request.SHUTDOWN, 0)]), (1, []), (5, [])])
def test_sus_en_with_soft_off_asks_for_shutdown(sus_typ: int, requests: list[tuple[Request, int]]) -> None:
    """PMCNTRL: SUS_EN reads 0; other sleep states are told and do nothing."""
    harness = pm()
    harness.write("pmcntrl", sus_typ << 10)
    assert [] == harness.context.requests
    harness.write("pmcntrl", 1 << 13 | sus_typ << 10 | 1)
    assert requests == harness.context.requests
    assert [("sleep_state_requested", {"sus_typ": sus_typ})] == harness.context.events
    assert sus_typ << 10 | 1 == harness.read("pmcntrl")


def test_without_smm_apmc_is_shown_as_taken() -> None:
    """DEVACTB.APMC_EN is set from reset, so SeaBIOS installs no handler; APMC and APMS are storage."""
    harness = Harness(Piix4Pm)
    assert Piix4Pm.devactb.describe(harness.read("devactb")) == {"APMC_EN": 1}
    assert harness.read("apms") == 0
    harness.write("apmc", 0xF1)
    harness.write("apms", 0x5A)
    assert (0xF1, 0x5A) == (harness.read("apmc"), harness.read("apms"))


def test_apmc_switches_between_acpi_and_legacy_mode() -> None:
    """ACPI 6.5, 4.8.2.5: ACPI_ENABLE sets SCI_EN, ACPI_DISABLE clears it, nothing else changes it."""
    harness = pm()
    harness.write("pmcntrl", 5 << 10)
    harness.write("pmen", 1)
    harness.advance(HALF_24_NS)
    seen = []
    for command in (0xF2, 0xF1, 0x00, 0xF0):
        harness.write("apmc", command)
        seen.append((harness.read("pmcntrl"), harness.levels["sci"]))
    assert [(0x1400, False), (0x1401, True), (0x1401, True), (0x1400, False)] == seen


def test_a_timer_of_another_width_is_refused() -> None:
    """ACPI knows 24 and 32 bits."""
    with pytest.raises(ValueError, match=r"'timer_width' must be in \(24, 32\) \(got 16\)"):
        PmConfig(timer_width=16)
