"""The HPET by IA-PC HPET Specification 1.0a; numbers are its sections."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from devices.legacy.hpet import CONFIGURATION, LATE, MIN_TICKS, TICK_NS, Hpet, HpetConfig
from mmiod.testing import Harness

US = 1_000
ENABLE, LEGACY = 1, 2
LEVEL, INT, PERIODIC, SET, NARROW, FSB = (
    CONFIGURATION[name].mask
    for name in ("INT_TYPE_CNF", "INT_ENB_CNF", "TYPE_CNF", "VAL_SET_CNF", "32MODE_CNF", "FSB_EN_CNF")
)
TO_20, TO_21 = 20 << 9, 21 << 9
ONES = (1 << 64) - 1


class Block(Harness[Hpet]):
    """The block, with its timers by number."""

    def __init__(self, config: HpetConfig | None = None) -> None:
        super().__init__(Hpet, config)

    def timer(self, number: int, offset: int, size: int = 8) -> int:
        """Read a timer's register."""
        return self.read_at(0x20 * number + offset, size, "comparators")

    def set_timer(self, number: int, offset: int, value: int, size: int = 8) -> None:
        """Write a timer's register."""
        self.write_at(0x20 * number + offset, value, size, "comparators")

    def program(self, number: int, configuration: int, value: int) -> None:
        """Configuration, then comparator."""
        self.set_timer(number, 0x00, configuration | INT, 4)
        self.set_timer(number, 0x08, value)

    def ticks(self, count: int) -> None:
        """Let the counter count."""
        self.advance(count * TICK_NS)

    def rises(self, line: str) -> int:
        """How often a line has risen."""
        return self.context.edges.count((line, True))


@pytest.fixture
def block() -> Block:
    """A block after reset."""
    return Block()


def test_it_says_what_it_can(block: Block) -> None:
    """2.3.4: Intel's, 10^7 fs, legacy replacement, 64 bits, the last timer is 2; what the HPET table says."""
    assert block.read("capabilities") == 0x0098_9680_8086_A201
    assert [0x00F0_0000_0000_8030] * 3 == [block.timer(number, 0) for number in range(3)]


def test_reset_values(block: Block) -> None:
    """2.3.5-2.3.9: halted at 0, nothing pending, comparators all ones, routes 0."""
    general = [block.read(name) for name in ("configuration", "interrupt_status", "main_counter")]
    assert [0, 0, 0] == general
    assert [ONES] * 3 == [block.timer(number, 8) for number in range(3)]
    assert [0] * 3 == [block.timer(number, 16) for number in range(3)]


def test_behind_the_last_timer_nothing_answers(block: Block) -> None:
    """2.3.4, NUM_TIM_CAP; inspection then shows the last one."""
    block.set_timer(3, 0x08, 5)
    assert 0 == block.timer(3, 0x08)
    assert ONES == block.device.inspect()["comparator"]


def test_the_counter_runs_at_100_mhz_while_enabled(block: Block) -> None:
    """2.3.5, ENABLE_CNF; 2.3.7: written only while halted."""
    seen = []
    for value in (0, ENABLE, 0):
        block.write("configuration", value)
        block.write("main_counter", 1000)
        block.advance(US)
        seen.append(block.read("main_counter"))
    assert [1000, 1100, 1000] == seen


def test_the_counter_wraps_at_64_bits(block: Block) -> None:
    """2.3.7, and a half of it can be written."""
    block.write("main_counter", ONES)
    block.write_at(0xF0, 0xFFFF_FFFE, 4, "general")
    block.write("configuration", ENABLE)
    block.ticks(5)
    assert 3 == block.read("main_counter")


def test_a_one_shot_level_stays_until_it_is_acknowledged(block: Block) -> None:
    """2.3.6, Tn_INT_STS: set, and cleared by writing 1; 2.3.9.2.1: the comparator does not change."""
    block.program(1, LEVEL | TO_20, 100)
    block.write("configuration", ENABLE)
    levels = []
    for count in (99, 1, 1000):
        block.ticks(count)
        levels.append((block.levels["irq20"], block.read("interrupt_status")))
    block.write("interrupt_status", 2)
    levels.append((block.levels["irq20"], block.read("interrupt_status")))
    assert [(False, 0), (True, 2), (True, 2), (False, 0)] == levels
    assert 100 == block.timer(1, 8)


def test_an_edge_has_no_status_and_each_interrupt_is_another(block: Block) -> None:
    """2.3.6: software should ignore the bit; 2.3.8, INT_TYPE_CNF: another edge for another interrupt."""
    block.program(0, PERIODIC | SET | TO_20, 1000)
    block.write("configuration", ENABLE)
    block.ticks(3500)
    assert (3, 0) == (block.rises("irq20"), block.read("interrupt_status"))
    assert block.levels["irq20"]


def test_a_period_adds_to_the_comparator_at_each_match(block: Block) -> None:
    """2.3.9.2.2, its example: 123h, 246h, 369h."""
    block.program(0, PERIODIC | SET | LEVEL | TO_20, 0x123)
    block.write("configuration", ENABLE)
    seen = []
    for _ in range(3):
        seen.append(block.timer(0, 8))
        block.ticks(0x123)
    assert [0x123, 0x246, 0x369] == seen


def test_value_set_clears_itself_and_parts_first_match_from_period(block: Block) -> None:
    """2.3.8, Tn_VAL_SET_CNF; 2.3.9.2.2: later writes are of the period, from the next match on."""
    block.program(0, PERIODIC | SET | LEVEL | TO_20, 5000)
    assert not block.timer(0, 0) & SET
    block.set_timer(0, 8, 700)
    block.write("configuration", ENABLE)
    seen = []
    for count in (4999, 1, 700):
        block.ticks(count)
        seen.append(block.timer(0, 8))
    assert [5000, 5700, 6400] == seen


def test_halves_are_set_one_by_one(block: Block) -> None:
    """2.3.9.2.2: VAL_SET, low half, VAL_SET, high half works in any environment."""
    for offset, half in ((8, 0x89AB_CDEF), (12, 0x123)):
        block.set_timer(0, 0, PERIODIC | SET, 4)
        block.set_timer(0, offset, half, 4)
    assert 0x123_89AB_CDEF == block.timer(0, 8)
    assert [0x89AB_CDEF, 0x123] == [block.timer(0, offset, 4) for offset in (8, 12)]


def test_32_bit_mode_compares_the_low_half(block: Block) -> None:
    """2.3.8, Tn_32MODE_CNF: the upper half becomes 0; the comparator wraps through 0 (2.3.9.2.2)."""
    block.set_timer(0, 0, NARROW | PERIODIC | SET | LEVEL | INT | TO_20, 4)
    assert 0xFFFF_FFFF == block.timer(0, 8)
    block.set_timer(0, 8, 0xFFFF_0000, 4)
    block.set_timer(0, 8, 0x2_0000, 4)
    block.write("main_counter", 0x1_FFFE_0000)
    block.write("configuration", ENABLE)
    block.ticks(0x1_0000)
    assert (1, 0x0001_0000) == (block.read("interrupt_status"), block.timer(0, 8))


def test_another_mode_finds_another_match(block: Block) -> None:
    """2.3.8, Tn_32MODE_CNF, while the counter runs: what was passed by in 64 bits is ahead in 32."""
    block.write("main_counter", 1 << 32)
    block.program(0, LEVEL | TO_20, 100)
    block.write("configuration", ENABLE)
    block.set_timer(0, 0, NARROW | LEVEL | INT | TO_20, 4)
    seen = []
    for count in (99, 1):
        block.ticks(count)
        seen.append(block.read("interrupt_status"))
    assert [0, 1] == seen


def test_a_period_is_set_by_halves_too(block: Block) -> None:
    """2.3.9.2.2: without VAL_SET they change the period alone."""
    block.program(0, PERIODIC | SET | LEVEL | TO_20, 1000)
    for offset, half in ((12, 1), (8, 2000)):
        block.set_timer(0, offset, half, 4)
    block.write("configuration", ENABLE)
    block.ticks(1000)
    assert 1000 + (1 << 32) + 2000 == block.timer(0, 8)


def test_a_passed_comparator_is_missed_until_the_counter_wraps(block: Block) -> None:
    """2.3.9.2.1: "the interrupt will be missed"; in 32-bit mode it comes 2^32 ticks later."""
    block.write("main_counter", 200)
    block.program(0, NARROW | LEVEL | TO_20, 100)
    block.program(1, LEVEL | TO_20, 100)
    block.write("configuration", ENABLE)
    seen = []
    for count in (100_000, (1 << 32) - 100_101, 1):
        block.ticks(count)
        seen.append(block.read("interrupt_status"))
    assert [0, 0, 1] == seen


@pytest.mark.parametrize("mode", [0, NARROW])
def test_a_posted_comparator_that_came_late_matches_at_the_next_tick(block: Block, mode: int) -> None:
    """Its writer has seen the counter below it, and waits for the interrupt; not so after a second."""
    block.program(0, mode | LEVEL | TO_20, 100_000)
    block.write("configuration", ENABLE)
    block.ticks(LATE + 20)
    block.write("interrupt_status", 1)
    seen = []
    for value in (19, 21):
        block.set_timer(0, 8, value, 4)
        block.ticks(1)
        seen.append(block.read("interrupt_status"))
    block.write("interrupt_status", 1)
    block.ticks(1_000_000)
    assert [0, 1, 0] == [*seen, block.read("interrupt_status")]


def test_disabled_timers_have_status_but_no_interrupt(block: Block) -> None:
    """2.3.8, Tn_INT_ENB_CNF: the timer still operates; enabled later, what is pending interrupts."""
    block.program(2, LEVEL | TO_20, 100)
    block.set_timer(2, 0, LEVEL | TO_20, 4)
    block.write("configuration", ENABLE)
    block.ticks(200)
    assert (4, False) == (block.read("interrupt_status"), block.levels["irq20"])
    block.set_timer(2, 0, LEVEL | INT | TO_20, 4)
    assert block.levels["irq20"]


def test_a_halt_holds_interrupts_back_and_keeps_status(block: Block) -> None:
    """2.3.5, ENABLE_CNF: no interrupts while 0, and status is not cleared."""
    block.program(0, LEVEL | TO_20, 100)
    levels = []
    for value in (ENABLE, 0, ENABLE):
        block.write("configuration", value)
        block.ticks(100)
        levels.append((block.levels["irq20"], block.read("interrupt_status")))
    assert [(True, 1), (False, 1), (True, 1)] == levels


def test_a_halt_ends_an_edge(block: Block) -> None:
    """2.3.5, ENABLE_CNF: what comes after it is another interrupt, or none."""
    block.program(0, TO_20, 100)
    for value in (ENABLE, 0, ENABLE):
        block.write("configuration", value)
        block.ticks(150)
    assert (1, False) == (block.rises("irq20"), block.levels["irq20"])


def test_two_timers_share_a_line(block: Block) -> None:
    """2.4.3: level-triggered, it is low once both are acknowledged."""
    for number in (0, 1):
        block.program(number, LEVEL | TO_21, 100)
    block.write("configuration", ENABLE)
    block.ticks(100)
    levels = [block.levels["irq21"]]
    for status in (1, 2):
        block.write("interrupt_status", status)
        levels.append(block.levels["irq21"])
    assert [True, True, False] == levels


def test_a_route_that_is_not_supported_leads_nowhere() -> None:
    """2.3.8, Tn_INT_ROUTE_CNF: software must only write valid values."""
    block = Block(HpetConfig(routes=1 << 5))
    for number, route in enumerate((5, 20)):
        block.program(number, LEVEL | route << 9, 100)
    block.write("configuration", ENABLE)
    block.ticks(100)
    assert {"irq5"} == {name for name, level in block.levels.items() if level}


def test_legacy_replacement_takes_the_place_of_pit_and_rtc(block: Block) -> None:
    """2.3.5, LEG_RT_CNF: timer 0 is IRQ0, timer 1 IRQ8, whatever their routes; PIT and RTC are cut off."""
    for number in range(3):
        block.program(number, LEVEL | TO_20, 100)
    block.drive("rtc", level=True)
    seen = [block.levels["irq8"]]
    block.write("configuration", ENABLE | LEGACY)
    seen.append(block.levels["irq8"])
    block.drive("pit", level=True)
    seen.append(block.levels["irq0"])
    block.ticks(100)
    high = {name for name, level in block.levels.items() if level}
    block.write("configuration", 0)
    assert ([True, False, False], {"irq0", "irq8", "irq20"}) == (seen, high)
    assert {"irq0", "irq8"} == {name for name, level in block.levels.items() if level}


def test_a_reset_lets_pit_and_rtc_through(block: Block) -> None:
    """2.3.5, LEG_RT_CNF is 0 then; whoever was reset before may have raised its line."""
    block.write("configuration", LEGACY)
    block.drive("pit", level=True)
    block.device.reset()
    assert {"irq0"} == {name for name, level in block.levels.items() if level}


def test_messages_go_where_the_timer_says(block: Block) -> None:
    """2.3.10: the value in the low half, the address in the high; no line, no status."""
    block.set_timer(0, 0x10, 0xFEE0_1000_0000_4031)
    block.program(0, FSB | PERIODIC | SET | TO_20, 1000)
    block.write("configuration", ENABLE)
    block.ticks(2500)
    assert [(0xFEE0_1000, 0x4031)] * 2 == block.context.messages
    block.program(1, LEVEL | TO_20, 2600)
    block.ticks(200)
    levels = [block.levels["irq20"]]
    block.set_timer(1, 0, FSB | LEVEL | INT | TO_20, 4)
    assert [True, False] == [*levels, block.levels["irq20"]]
    block.write("interrupt_status", 2)
    assert (0, False) == (block.read("interrupt_status"), block.levels["irq20"])


def test_interrupts_too_near_get_lost(block: Block) -> None:
    """2.3.9.2.2: as the period approaches zero; the comparator goes on all the same."""
    block.program(0, PERIODIC | SET | TO_20, 10)
    block.write("configuration", ENABLE)
    block.ticks(10)
    assert {"match": (10 + MIN_TICKS) * TICK_NS} == block.context.deadlines
    block.ticks(100 * MIN_TICKS - 10)
    assert 101 >= block.rises("irq20") >= 99
    assert 100 * MIN_TICKS + 10 == block.timer(0, 8)


def test_a_late_alarm_loses_no_match(block: Block) -> None:
    """The next comparator, written first, is posted: what has matched interrupts behind it."""
    block.program(0, LEVEL | TO_20, 100)
    block.write("configuration", ENABLE)
    block.context.clock.now_ns += 200 * TICK_NS
    block.set_timer(0, 8, 1000)
    assert (0, False) == (block.read("interrupt_status"), block.levels["irq20"])
    block.ticks(0)
    assert (1, True) == (block.read("interrupt_status"), block.levels["irq20"])


def test_a_comparator_for_ever_arms_nothing(block: Block) -> None:
    """All ones, as after reset, is 5,800 years away."""
    block.set_timer(0, 0, INT | LEVEL, 4)
    block.write("configuration", ENABLE)
    assert {} == block.context.deadlines


def test_routes_are_lines() -> None:
    """24 of them."""
    with pytest.raises(ValueError, match="0x1000000 is no mask of lines 0 to 23"):
        HpetConfig(routes=1 << 24)


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 1 << 40),
    st.integers(1, 1 << 20),
    st.integers(MIN_TICKS, 1 << 16),
    st.lists(st.integers(1, 1 << 17), min_size=1, max_size=8),
)
def test_looking_changes_nothing(start: int, first: int, period: int, waits: list[int]) -> None:
    """Two blocks, one of them asked now and then: in the end they show and have sent the same."""
    ends = []
    for looks in (False, True):
        block = Block()
        block.write("main_counter", start)
        block.program(0, PERIODIC | SET | TO_20, start + first)
        block.set_timer(0, 8, period)
        block.write("configuration", ENABLE)
        for wait in waits:
            block.ticks(wait)
            if looks:
                block.device.inspect()
                block.timer(0, 8)
        passed = sum(waits)
        matches = 0 if passed < first else (passed - first) // period + 1
        assert start + first + matches * period == block.timer(0, 8)
        assert matches == block.rises("irq20")
        ends.append((block.device.state, block.context.edges))
    assert ends[0] == ends[1]
