"""PciFunction: the configuration header, sizing and moving BARs, command enables, INTx.

Numbers are sections of the PCI Local Bus Specification 3.0.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.device import Register
from mmiod.device.pci import Bar, Command, Identity, PciFunction
from mmiod.errors import DeclarationError
from mmiod.testing import Harness
from mmiod.values import Space

CONFIG = "config_space"
COMMAND, STATUS = 0x04, 0x06
BAR0, BAR2, BAR3, BAR4, BAR5 = 0x10, 0x18, 0x1C, 0x20, 0x24


class Card(PciFunction):
    """One BAR of each kind."""

    identity = Identity(0x1AF4, 0x1234, 0x028000, revision=7, subsystem_vendor=0xABCD, subsystem=0x4321)
    interrupt_pin_number = 2
    small = Bar(0x1000, number=0)
    large = Bar(0x4000, number=2, wide=True, prefetchable=True)
    ports = Bar(32, number=4, io=True)


def card(command: int = 0) -> Harness[Card]:
    """A card after reset, with this command register."""
    harness = Harness(Card)
    write(harness, COMMAND, command, 2)
    return harness


def read(harness: Harness[Card], offset: int, size: int = 4) -> int:
    """Configuration read."""
    return harness.read_at(offset, size, CONFIG)


def write(harness: Harness[Card], offset: int, value: int, size: int = 4) -> None:
    """Configuration write."""
    harness.write_at(offset, value, size, CONFIG)


def place(harness: Harness[Card], name: str) -> int | None:
    """Where a BAR is on the map."""
    return harness.context.placed[name][1]


# --- the header (6.1, 6.2) -----------------------------------------------------------


def test_the_header_says_who_the_function_is() -> None:
    """IDs, class code, revision, header type and pin are where figure 6-1 has them, and read-only."""
    harness = card()
    expected = {0x00: 0x1234_1AF4, 0x08: 0x0280_0007, 0x2C: 0x4321_ABCD}
    for offset, value in expected.items():
        write(harness, offset, 0xFFFF_FFFF)
        assert value == read(harness, offset)
    assert (0x00, 0x02) == (read(harness, 0x0E, 1), read(harness, 0x3D, 1))


def test_unimplemented_registers_read_0_and_ignore_writes() -> None:
    """6.1: reserved and unimplemented registers; BARs 1 and 5, the ROM, CardBus, the end of the space."""
    harness = card()
    for offset in (0x14, BAR5, 0x28, 0x30, 0x34, 0x40, 0xFC):
        write(harness, offset, 0xFFFF_FFFF)
        assert read(harness, offset) == 0


def test_scratch_registers_of_the_header_keep_bytes() -> None:
    """Cache line size and interrupt line are software's; no long bursts, no latency timer (6.2.4)."""
    harness = card()
    write(harness, 0x0C, 0xFFFF_2010)
    write(harness, 0x3C, 0xFFFF_FF0B)
    assert (0x0010, 0x0000_020B) == (read(harness, 0x0C), read(harness, 0x3C))


class Bridge(Card):
    """Function 0 of several."""

    multifunction = True


def test_function_0_of_several_says_so() -> None:
    """Header type bit 7 (6.2.1)."""
    assert Harness(Bridge).read_at(0x0E, 1, CONFIG) == 0x80


@settings(max_examples=60)
@given(offset=st.integers(0, 63), values=st.lists(st.integers(0, 2**32 - 1), max_size=6))
def test_parts_of_a_register_read_as_the_whole(offset: int, values: list[int]) -> None:
    """Whatever was written, bytes and words show the same as the doubleword (3.2.2.3.4, byte enables)."""
    harness = card()
    for number, value in enumerate(values):
        write(harness, 4 * ((offset + number) % 16), value)
    whole = read(harness, offset & ~3)
    assert whole >> 8 * (offset & 3) & 0xFF == read(harness, offset, 1)
    assert whole >> 8 * (offset & 2) & 0xFFFF == read(harness, offset & ~1, 2)


# --- command and status (6.2.2, 6.2.3) -----------------------------------------------


def test_command_keeps_implemented_bits_only() -> None:
    """What a function does not do (special cycles, MWI, parity, ...) is hardwired to 0."""
    assert read(card(0xFFFF), COMMAND, 2) == 0x0507


def test_a_byte_write_of_command_keeps_the_other_byte() -> None:
    """Writes go by byte enables."""
    harness = card(0x0507)
    write(harness, COMMAND, 0x02, 1)
    write(harness, COMMAND + 1, 0x04, 1)
    assert read(harness, COMMAND, 2) == 0x0402


def test_status_errors_are_cleared_by_ones_and_the_rest_is_read_only() -> None:
    """6.2.3; a doubleword write of command with ones above clears them, too."""
    harness = card()
    harness.device.status = 0xFFFF
    write(harness, STATUS, 0x4100, 2)
    assert read(harness, STATUS, 2) == 0xBEFF
    write(harness, COMMAND, 0xFFFF_0000)
    assert read(harness, STATUS, 2) == 0x06FF


# --- base address registers (6.2.5) ----------------------------------------------------


@pytest.mark.parametrize(
    ("offset", "sized"),
    [(BAR0, 0xFFFF_F000), (BAR2, 0xFFFF_C00C), (BAR3, 0xFFFF_FFFF), (BAR4, 0xFFFF_FFE1)],
)
def test_all_ones_read_back_as_size_and_type(offset: int, sized: int) -> None:
    """6.2.5.1: the size is the complement plus one; low bits tell memory, I/O, 64-bit, prefetchable."""
    harness = card()
    before = read(harness, offset)
    assert before == (sized & 0xF if offset != BAR3 else 0)
    write(harness, offset, 0xFFFF_FFFF)
    assert sized == read(harness, offset)


@pytest.mark.parametrize("length", [16, 0x100, 1 << 31])
def test_a_memory_bar_of_any_size_reads_it_back(length: int) -> None:
    """From 16 bytes to 2 GiB."""
    plugin = type("Sized", (PciFunction,), {"bar": Bar(length, number=1)})
    harness: Harness[PciFunction] = Harness(plugin)
    harness.write_at(0x14, 0xFFFF_FFFF, 4, CONFIG)
    assert length == (1 << 32) - harness.read_at(0x14, 4, CONFIG)


def test_a_64_bit_bar_of_more_than_4_gib_reads_its_size_back() -> None:
    """Its low register has no address bits at all."""
    harness: Harness[PciFunction] = Harness(
        type("Huge", (PciFunction,), {"bar": Bar(1 << 36, number=0, wide=True)})
    )
    harness.write_at(BAR0, 0xFFFF_FFFF, 4, CONFIG)
    harness.write_at(0x14, 0xFFFF_FFFF, 4, CONFIG)
    assert (0x4, 0xFFFF_FFF0) == (harness.read_at(BAR0, 4, CONFIG), harness.read_at(0x14, 4, CONFIG))


def test_after_reset_nothing_decodes() -> None:
    """6.2.2: the enables are 0 after reset; every BAR was taken off the map."""
    harness = card()
    expected = {"small": (Space.MMIO, None), "large": (Space.MMIO, None), "ports": (Space.PIO, None)}
    assert expected == harness.context.placed


def test_a_bar_decodes_where_it_was_written_once_its_space_is_enabled() -> None:
    """Memory and I/O have an enable each, and it does not matter which was written first."""
    harness = card()
    for offset, value in ((BAR0, 0xFEB0_0000), (BAR2, 0xC000_0000), (BAR4, 0xC040)):
        write(harness, offset, value)
    seen = []
    for command in (Command.MEMORY_SPACE, Command.IO_SPACE, 0):
        write(harness, COMMAND, command, 2)
        seen.append([place(harness, name) for name in ("small", "large", "ports")])
    assert [[0xFEB0_0000, 0xC000_0000, None], [None, None, 0xC040], [None] * 3] == seen


def test_a_bar_moves_while_it_decodes() -> None:
    """The old place is free, the new one taken."""
    harness = card(Command.MEMORY_SPACE)
    places = []
    for base in (0xFEB0_0000, 0xE000_1000, 0):
        write(harness, BAR0, base)
        places.append(place(harness, "small"))
    assert [0xFEB0_0000, 0xE000_1000, None] == places


def test_low_bits_of_an_address_are_dropped() -> None:
    """A BAR decodes at multiples of its length only."""
    harness = card(Command.MEMORY_SPACE)
    write(harness, BAR0, 0xFEB0_0FFF)
    assert (0xFEB0_0000, 0xFEB0_0000) == (read(harness, BAR0), place(harness, "small"))


def test_a_byte_write_moves_a_bar() -> None:
    """Configuration writes go by byte enables: the other bytes of the address stay."""
    harness = card(Command.MEMORY_SPACE)
    write(harness, BAR0, 0xFEB0_0000)
    write(harness, BAR0 + 2, 0xC1, 1)
    write(harness, BAR0, 0xFFFF, 2)
    assert place(harness, "small") == 0xFEC1_F000


def test_a_64_bit_bar_moves_above_4_gib_by_its_upper_half() -> None:
    """6.2.5.1: two registers, one address."""
    harness = card(Command.MEMORY_SPACE)
    write(harness, BAR2, 0xC000_0000)
    write(harness, BAR3, 0x12)
    assert place(harness, "large") == 0x12_C000_0000
    write(harness, BAR2, 0)
    assert place(harness, "large") == 0x12_0000_0000


def test_a_bar_that_is_being_sized_does_not_decode() -> None:
    """Firmware may size with decoding enabled: all ones must not land at the end of the space."""
    harness = card(Command.MEMORY_SPACE | Command.IO_SPACE)
    for offset in (BAR0, BAR4, BAR2, BAR3):
        write(harness, offset, 0xFFFF_FFFF)
    assert [None] * 3 == [place(harness, name) for name in ("small", "ports", "large")]


def test_an_io_bar_does_not_decode_beyond_64_kib() -> None:
    """An x86 has 16 address lines for ports; the last ports are within."""
    harness = card(Command.IO_SPACE)
    places = []
    for base in (0xFFE0, 0x1_0000, 0xFFFF_FFE0):
        write(harness, BAR4, base)
        places.append(place(harness, "ports"))
    assert [0xFFE0, None, None] == places


@settings(max_examples=80)
@given(
    st.lists(
        st.tuples(st.integers(COMMAND, 0x27), st.sampled_from([1, 2, 4]), st.integers(0, 2**32 - 1)),
        max_size=30,
    )
)
def test_no_write_places_a_bar_wrongly(script: list[tuple[int, int, int]]) -> None:
    """Whatever was written: a placed BAR is aligned, in its space, enabled, where its register says."""
    harness = card()
    for offset, size, value in script:
        write(harness, offset & -size, value & (1 << 8 * size) - 1, size)
        command = read(harness, COMMAND, 2)
        for bar in Card.bars:
            base = place(harness, bar.name)
            if base is None:
                continue
            low = read(harness, 0x10 + 4 * bar.number) & ~(3 if bar.io else 15)
            high = read(harness, 0x14 + 4 * bar.number) if bar.wide else 0
            assert base == (high << 32 | low)
            assert base > 0
            assert base % bar.length == 0
            assert base + bar.length <= 1 << (16 if bar.io else 64 if bar.wide else 32)
            assert command & (Command.IO_SPACE if bar.io else Command.MEMORY_SPACE)


def test_a_reset_takes_the_bars_off_the_map() -> None:
    """Base addresses and enables are 0 again."""
    harness = card(Command.MEMORY_SPACE)
    write(harness, BAR0, 0xFEB0_0000)
    harness.device.reset()
    assert (None, 0, 0) == (place(harness, "small"), read(harness, BAR0), read(harness, COMMAND, 2))


# --- INTx (6.2.4, 6.2.2 bit 10, 6.2.3 bit 3) -------------------------------------------


def test_interrupt_disable_holds_the_line_but_not_the_status() -> None:
    """Bit 10 of command masks INTx#; bit 3 of status shows the interrupt all the same."""
    harness = card()
    harness.device.set_intx(True)
    levels = [harness.levels["intx"]]
    write(harness, COMMAND, Command.INTERRUPT_DISABLE, 2)
    levels.append(harness.levels["intx"])
    assert read(harness, STATUS, 2) & 8
    write(harness, COMMAND, 0, 2)
    levels.append(harness.levels["intx"])
    harness.device.set_intx(False)
    levels.append(harness.levels["intx"])
    assert [True, False, True, False] == levels
    assert not read(harness, STATUS, 2) & 8


def test_a_reset_lets_intx_go() -> None:
    """Line and status."""
    harness = card()
    harness.device.set_intx(True)
    harness.device.reset()
    assert (False, 0) == (harness.levels["intx"], read(harness, STATUS, 2))


# --- what the author of a function may not write -----------------------------------------


@pytest.mark.parametrize(
    ("length", "io", "message"),
    [(0x300, False, "BAR 0: 0x300 bytes"), (8, False, "BAR 0: 0x8 bytes"), (2, True, "BAR 0: 0x2 bytes")],
)
def test_a_length_that_no_bar_can_express_is_refused(length: int, io: bool, message: str) -> None:
    """6.2.5.1: powers of two, from 16 bytes of memory or 4 of I/O."""
    with pytest.raises(DeclarationError, match=f"{message} is no power of two it can express"):
        Bar(length, io=io)


@pytest.mark.parametrize(
    ("number", "io", "wide"), [(6, False, False), (5, False, True), (-1, True, False), (0, True, True)]
)
def test_a_bar_that_does_not_exist_is_refused(number: int, io: bool, wide: bool) -> None:
    """There are six registers, a 64-bit BAR takes two, and I/O has 32 bits."""
    with pytest.raises(DeclarationError, match=f"BAR {number}: no such base address register"):
        Bar(0x100, number=number, io=io, wide=wide)


def test_two_bars_on_one_register_are_refused() -> None:
    """The upper half of a 64-bit BAR is a register as well."""
    bars = {"one": Bar(0x100, number=0, wide=True), "two": Bar(0x100, number=1)}
    with pytest.raises(DeclarationError, match="two declarations of Clash make bar1"):
        type("Clash", (PciFunction,), dict(bars))


def test_a_register_over_the_header_is_refused() -> None:
    """A function adds registers behind the header, or replaces one by its name."""
    with pytest.raises(DeclarationError, match="mine and vendor_id both claim reads at offset 0x0"):
        type("Clash", (PciFunction,), {"mine": Register(0, region=PciFunction.config_space)})
