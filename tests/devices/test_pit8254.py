"""8254, by Intel's datasheet 231164-005; figures 15-20 are its waveforms of the modes."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from devices.legacy.pit8254 import Pit8254
from mmiod.testing.harness import Harness

FREQUENCY_HZ = 1_193_182
LSB, MSB, WORD = 0x10, 0x20, 0x30


def at_tick(pit: Harness[Pit8254], tick: int) -> None:
    """Let time pass until CLK pulse `tick` since power-on."""
    pit.advance(-(-tick * 1_000_000_000 // FREQUENCY_HZ) - pit.context.clock.now_ns)


def control(pit: Harness[Pit8254], value: int) -> None:
    """Write the control word register."""
    pit.write_at(3, value, region="counters")


def count(pit: Harness[Pit8254], counter: int, *values: int) -> None:
    """Write bytes of a count."""
    for value in values:
        pit.write_at(counter, value, region="counters")


def read(pit: Harness[Pit8254], counter: int, size: int = 1) -> int:
    """Read `size` bytes, low first."""
    return sum(pit.read_at(counter, region="counters") << 8 * n for n in range(size))


def gate2(pit: Harness[Pit8254], level: bool) -> None:
    """Drive the gate of counter 2."""
    pit.write_at(0, int(level), region="port61")


def out2(pit: Harness[Pit8254]) -> int:
    """OUT of counter 2, 0 or 1."""
    return pit.read_at(0, region="port61") >> 5 & 1


def irq(pit: Harness[Pit8254]) -> bool:
    """OUT of counter 0."""
    return pit.levels["irq"]


def waveform(pit: Harness[Pit8254], ticks: range) -> list[tuple[int, int]]:
    """Count and OUT of counter 2 at each tick; the low byte, as figures 15-20 show it."""
    found = []
    for tick in ticks:
        at_tick(pit, tick)
        found.append((read(pit, 2), out2(pit)))
    return found


def test_mode_0() -> None:
    """Figure 15: CW=10h, LSB=4: loaded by the first CLK, OUT rises N + 1 CLKs after writing."""
    pit = Harness(Pit8254)
    gate2(pit, level=True)
    control(pit, 0x90)
    assert out2(pit) == 0
    count(pit, 2, 4)
    expected = [(4, 0), (3, 0), (2, 0), (1, 0), (0, 1), (0xFF, 1), (0xFE, 1)]
    assert expected == waveform(pit, range(1, 8))


def test_mode_0_gate_holds_the_count() -> None:
    """Figure 15, second: GATE 0 disables counting and has no effect on OUT."""
    pit = Harness(Pit8254)
    gate2(pit, level=True)
    control(pit, 0x90)
    count(pit, 2, 3)
    at_tick(pit, 2)
    gate2(pit, level=False)
    assert waveform(pit, range(3, 5)) == [(2, 0), (2, 0)]
    gate2(pit, level=True)
    assert waveform(pit, range(5, 8)) == [(1, 0), (0, 1), (0xFF, 1)]


def test_mode_0_count_written_while_gated() -> None:
    """Mode 0: a count written while GATE is 0 counts N CLKs from the gate's rise."""
    pit = Harness(Pit8254)
    control(pit, 0x90)
    count(pit, 2, 2)
    at_tick(pit, 50)
    gate2(pit, level=True)
    assert waveform(pit, range(51, 53)) == [(1, 0), (0, 1)]


def test_mode_0_first_byte_stops_the_count() -> None:
    """Mode 0, two-byte count: the first byte disables counting and OUT goes low at once."""
    pit = Harness(Pit8254)
    gate2(pit, level=True)
    control(pit, 0xB0)
    count(pit, 2, 1, 0)
    at_tick(pit, 10)
    assert out2(pit) == 1
    count(pit, 2, 2)
    assert waveform(pit, range(100, 102))[-1][1] == 0
    count(pit, 2, 0)
    assert [level for _, level in waveform(pit, range(102, 105))] == [0, 0, 1]


def test_mode_1() -> None:
    """Figure 16: the gate starts a low pulse of N CLKs, and starts it anew (retriggerable)."""
    pit = Harness(Pit8254)
    control(pit, 0x92)
    count(pit, 2, 3)
    at_tick(pit, 10)
    assert out2(pit) == 1
    gate2(pit, level=True)
    gate2(pit, level=False)
    assert waveform(pit, range(11, 16)) == [(3, 0), (2, 0), (1, 0), (0, 1), (0xFF, 1)]
    gate2(pit, level=True)
    assert waveform(pit, range(16, 18)) == [(3, 0), (2, 0)]
    gate2(pit, level=False)
    gate2(pit, level=True)
    assert waveform(pit, range(18, 22)) == [(3, 0), (2, 0), (1, 0), (0, 1)]


def test_mode_1_new_count_waits_for_the_trigger() -> None:
    """Figure 16, third: a new count does not affect the one-shot that runs."""
    pit = Harness(Pit8254)
    control(pit, 0x92)
    count(pit, 2, 2)
    gate2(pit, level=True)
    assert waveform(pit, range(1, 2)) == [(2, 0)]
    count(pit, 2, 4)
    assert waveform(pit, range(2, 5)) == [(1, 0), (0, 1), (0xFF, 1)]
    gate2(pit, level=False)
    gate2(pit, level=True)
    assert waveform(pit, range(5, 7)) == [(4, 0), (3, 0)]


def test_mode_2() -> None:
    """Figure 17: CW=14h, LSB=3: 3 2 1 and again, OUT low while the count is 1."""
    pit = Harness(Pit8254)
    gate2(pit, level=True)
    control(pit, 0x94)
    assert out2(pit) == 1
    count(pit, 2, 3)
    assert waveform(pit, range(1, 8)) == [(3, 1), (2, 1), (1, 0), (3, 1), (2, 1), (1, 0), (3, 1)]


def test_mode_2_gate_synchronizes() -> None:
    """Figure 17, second: GATE 0 sets OUT high at once; its rise reloads the count."""
    pit = Harness(Pit8254)
    gate2(pit, level=True)
    control(pit, 0x94)
    count(pit, 2, 3)
    at_tick(pit, 3)
    assert out2(pit) == 0
    gate2(pit, level=False)
    assert out2(pit) == 1
    gate2(pit, level=True)
    assert waveform(pit, range(4, 8)) == [(3, 1), (2, 1), (1, 0), (3, 1)]


def test_mode_2_new_count_waits_for_the_period() -> None:
    """Figure 17, third: a new count is loaded at the end of the current period."""
    pit = Harness(Pit8254)
    gate2(pit, level=True)
    control(pit, 0x94)
    count(pit, 2, 4)
    at_tick(pit, 2)
    count(pit, 2, 5)
    expected = [(2, 1), (1, 0), (5, 1), (4, 1), (3, 1), (2, 1), (1, 0), (5, 1)]
    assert expected == waveform(pit, range(3, 11))


@pytest.mark.parametrize(
    ("n", "expected"),
    [
        (4, [(4, 1), (2, 1), (4, 0), (2, 0), (4, 1)]),
        (5, [(4, 1), (2, 1), (0, 1), (4, 0), (2, 0), (4, 1), (2, 1), (0, 1), (4, 0)]),
    ],
)
def test_mode_3(n: int, expected: list[tuple[int, int]]) -> None:
    """Figure 18: even counts halve; odd N is high for (N + 1) / 2 and low for (N - 1) / 2."""
    pit = Harness(Pit8254)
    gate2(pit, level=True)
    control(pit, 0x96)
    count(pit, 2, n)
    assert expected == waveform(pit, range(1, 1 + len(expected)))


@pytest.mark.parametrize(
    ("written_at", "expected"),
    [
        (2, [1, 0, 0, 0, 1, 1, 1, 0]),  # in the high half: the low half is the new count's
        (3, [1, 0, 0, 1, 1, 1, 0, 0]),  # in the low half: the next period is
    ],
)
def test_mode_3_new_count_waits_for_the_half(written_at: int, expected: list[int]) -> None:
    """Mode 3: a new count is loaded at the end of the current half-cycle."""
    pit = Harness(Pit8254)
    gate2(pit, level=True)
    control(pit, 0x96)
    count(pit, 2, 4)
    found = []
    for tick in range(2, 2 + len(expected)):
        at_tick(pit, tick)
        found.append(out2(pit))
        if tick == written_at:
            count(pit, 2, 6)
    assert expected == found


def test_mode_4() -> None:
    """Figure 19: OUT goes low for one CLK when the count is 0, once."""
    pit = Harness(Pit8254)
    gate2(pit, level=True)
    control(pit, 0x98)
    count(pit, 2, 3)
    expected = [(3, 1), (2, 1), (1, 1), (0, 0), (0xFF, 1), (0xFE, 1)]
    assert expected == waveform(pit, range(1, 7))


def test_mode_5() -> None:
    """Figure 20: as mode 4, started and restarted by the gate."""
    pit = Harness(Pit8254)
    control(pit, 0x9A)
    count(pit, 2, 3)
    at_tick(pit, 10)
    assert out2(pit) == 1
    gate2(pit, level=True)
    assert waveform(pit, range(11, 13)) == [(3, 1), (2, 1)]
    gate2(pit, level=False)
    gate2(pit, level=True)
    assert waveform(pit, range(13, 18)) == [(3, 1), (2, 1), (1, 1), (0, 0), (0xFF, 1)]


def test_a_count_of_0_is_the_largest() -> None:
    """Mode Definitions: 0 is 2^16, in BCD 10^4."""
    pit = Harness(Pit8254)
    control(pit, WORD)
    count(pit, 0, 0, 0)
    at_tick(pit, 2)
    assert read(pit, 0, 2) == 0xFFFF
    control(pit, WORD | 1)
    count(pit, 0, 0, 0)
    at_tick(pit, 5)
    assert read(pit, 0, 2) == 0x9998


def test_bcd() -> None:
    """Control word, BCD: four decades are written, count down and are read."""
    pit = Harness(Pit8254)
    control(pit, WORD | 1)
    count(pit, 0, 0x00, 0x12)
    at_tick(pit, 2)
    assert read(pit, 0, 2) == 0x1199
    at_tick(pit, 1203)
    assert read(pit, 0, 2) == 0x9998


def test_access_modes() -> None:
    """RW: the low byte only, the high byte only, or low then high; the other byte is 0."""
    pit = Harness(Pit8254)
    for access, written, expected in ((LSB, (0x12,), [0x12] * 2), (MSB, (0x34,), [0x34] * 2)):
        control(pit, 0x40 | access)
        count(pit, 1, *written)
        assert expected == [read(pit, 1), read(pit, 1)]
    control(pit, 0x40 | WORD)
    count(pit, 1, 0x12, 0x34)
    assert [read(pit, 1) for _ in range(4)] == [0x12, 0x34, 0x12, 0x34]


def test_latch() -> None:
    """Counter Latch Command: held until read; a second latch before that is ignored."""
    pit = Harness(Pit8254)
    control(pit, WORD)
    count(pit, 0, 0x00, 0x10)
    at_tick(pit, 1)
    control(pit, 0x00)
    at_tick(pit, 0x101)
    control(pit, 0x00)
    assert read(pit, 0, 2) == 0x1000
    assert read(pit, 0, 2) == 0x0F00


def test_reprogramming_drops_a_latch() -> None:
    """Counter Latch Command: the latch lasts until the counter is reprogrammed."""
    pit = Harness(Pit8254)
    control(pit, WORD)
    count(pit, 0, 0x34, 0x12)
    control(pit, 0x00)
    control(pit, WORD)
    count(pit, 0, 0x78, 0x56)
    assert read(pit, 0, 2) == 0x5678


def test_read_back_of_several_counters() -> None:
    """Read-Back Command: D3-D1 choose the counters, COUNT# and STATUS# what is latched."""
    pit = Harness(Pit8254)
    for number, access in ((0, WORD), (1, LSB)):
        control(pit, number << 6 | access)
        count(pit, number, *(0x40, 0x01)[: 2 if access == WORD else 1])
    at_tick(pit, 1)
    control(pit, 0xC0 | 0x06)
    at_tick(pit, 0x20)
    assert [read(pit, 0), read(pit, 1)] == [0x30, 0x10], "status comes first"
    assert (read(pit, 0, 2), read(pit, 1)) == (0x140, 0x40)
    assert (read(pit, 0, 2), read(pit, 1)) == (0x121, 0x21)


def test_status() -> None:
    """Read-Back Command: OUT, null count until the load, and the control word as written."""
    pit = Harness(Pit8254)
    found = []
    control(pit, 0x34)
    for tick in (0, 1):
        at_tick(pit, tick)
        control(pit, 0xE2)
        found.append(read(pit, 0))
        count(pit, 0, 2, 0)
    at_tick(pit, 2)
    control(pit, 0xE2)
    found.append(read(pit, 0))
    at_tick(pit, 3)
    control(pit, 0xE2)
    found.append(read(pit, 0))
    assert found == [0xF4, 0xB4, 0x74, 0xB4]


def test_null_count_until_the_trigger() -> None:
    """Read-Back Command: in modes 1 and 5 a count is null until the gate's rise has loaded it."""
    pit = Harness(Pit8254)
    control(pit, 0x92)
    found = []
    for _ in range(2):
        count(pit, 2, 9)
        for _ in range(2):
            at_tick(pit, pit.device.tick + 2)
            control(pit, 0xE8)
            found.append(read(pit, 2) >> 6 & 1)
            gate2(pit, level=True)
        gate2(pit, level=False)
    assert found == [1, 0, 1, 0]


def test_modes_6_and_7_are_2_and_3() -> None:
    """Control word: M2 is "don't care" in modes 2 and 3."""
    pit = Harness(Pit8254)
    gate2(pit, level=True)
    for word, expected in ((0x9C, [1, 1, 1, 0]), (0x9E, [1, 1, 0, 0])):
        control(pit, word)
        count(pit, 2, 4)
        start = pit.device.tick + 1
        assert expected == [level for _, level in waveform(pit, range(start, start + 4))]


def test_the_control_word_cannot_be_read() -> None:
    """Read Operations: A1, A0 = 11 is no read; the port reads 0, as QEMU's."""
    pit = Harness(Pit8254)
    assert pit.read_at(3, region="counters") == 0


def test_counter_0_interrupts() -> None:
    """Mode 2 on counter 0 gives one rising edge per period, exact over an hour of guest time."""
    pit = Harness(Pit8254)
    control(pit, 0x34)
    count(pit, 0, 0, 0)
    pit.context.edges.clear()
    at_tick(pit, 10 * 65_536 + 1)
    assert [("irq", False), ("irq", True)] * 10 == pit.context.edges
    assert {"change": -(-(11 * 65_536) * 1_000_000_000 // FREQUENCY_HZ)} == pit.context.deadlines
    pit.context.edges.clear()
    pit.advance(3600 * 1_000_000_000)
    assert len(pit.context.edges) // 2 == 3600 * FREQUENCY_HZ // 65_536


def test_a_one_shot_interrupts_once() -> None:
    """Mode 0 on counter 0: the line rises at the terminal count and no timer is left."""
    pit = Harness(Pit8254)
    control(pit, WORD)
    count(pit, 0, 100, 0)
    at_tick(pit, 100)
    assert not irq(pit)
    at_tick(pit, 101)
    assert (irq(pit), pit.context.deadlines) == (True, {})


def test_a_late_timer_still_gives_an_edge() -> None:
    """A host that comes late passes over whole periods; the PIC still sees one edge."""
    pit = Harness(Pit8254)
    control(pit, 0x34)
    count(pit, 0, 1000 & 0xFF, 1000 >> 8)
    pit.context.edges.clear()
    pit.context.clock.now_ns = 3500 * 1_000_000_000 // FREQUENCY_HZ
    pit.advance(0)
    assert pit.context.edges == [("irq", False), ("irq", True)]
    at_tick(pit, 4000)
    assert pit.context.edges[2:] == [("irq", False)], "and the next change is on time"


def test_port_61() -> None:
    """PIIX3 2.5.4.1: bits 0 and 1 are kept, 4 toggles with each refresh, 5 is OUT2."""
    pit = Harness(Pit8254)
    pit.write_at(0, 0xFF, region="port61")
    assert pit.read_at(0, region="port61") & ~0x20 == 0x03
    found = []
    for tick in (0, 17, 18, 35, 36):
        at_tick(pit, tick)
        found.append(pit.read_at(0, region="port61") >> 4 & 1)
    assert found == [0, 0, 1, 1, 0]
    pit.write_at(0, 0, region="port61")
    assert pit.read_at(0, region="port61") & 0x03 == 0


class Silicon:
    """One counter as the datasheet tells it, CLK by CLK: modes 0, 2, 3 and 4 with the gate high."""

    def __init__(self, mode: int, count: int) -> None:
        """Programmed, and the count written."""
        self.mode, self.count, self.out, self.element = mode, count, mode != 0, -1

    def clock(self) -> None:
        """One CLK pulse."""
        if self.element < 0:
            self.element = self.count & ~1 if self.mode == 3 else self.count
        else:
            getattr(self, f"_mode_{self.mode}")()

    def _mode_0(self) -> None:
        self.element = self.element - 1 & 0xFFFF
        self.out |= self.element == 0

    def _mode_2(self) -> None:
        self.element = self.count if self.element == 1 else self.element - 1
        self.out = self.element != 1

    def _mode_3(self) -> None:
        end = 0 if self.count & 1 and self.out else 2
        if self.element == end:
            self.out, self.element = not self.out, self.count & ~1
        else:
            self.element -= 2

    def _mode_4(self) -> None:
        self.element = self.element - 1 & 0xFFFF
        self.out = self.element != 0


@settings(max_examples=60)
@given(st.sampled_from([0, 2, 3, 4]), st.integers(2, 40), st.integers(0, 10**12))
def test_computed_is_counted(mode: int, n: int, start_ns: int) -> None:
    """What is computed from time is what a chip counts, from any moment on; so is the line."""
    pit = Harness(Pit8254)
    pit.advance(start_ns)
    chip = Silicon(mode, n)
    control(pit, WORD | mode << 1)
    count(pit, 0, n, 0)
    first = start_ns * FREQUENCY_HZ // 1_000_000_000
    for tick in range(first + 1, first + 90):
        chip.clock()
        at_tick(pit, tick)
        assert (chip.element, chip.out) == (read(pit, 0, 2), irq(pit))


@settings(max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.integers(0, 4), st.integers(0, 255)),
            st.tuples(st.just(5), st.integers(0, 400_000)),
        ),
        max_size=40,
    )
)
def test_the_line_is_out_0(steps: list[tuple[int, int]]) -> None:
    """After any sequence of writes and waits: the line is OUT of counter 0, reads are bytes."""
    pit = Harness(Pit8254)
    for where, value in steps:
        if where == 5:
            pit.advance(value)
        elif where == 4:
            pit.write_at(0, value, region="port61")
        else:
            pit.write_at(where, value, region="counters")
        counter = pit.device.state.counters[0]
        assert counter.out(pit.device.tick) == irq(pit)
        for number in range(3):
            assert pit.device.state.counters[number].peek(pit.device.tick) in range(256)
