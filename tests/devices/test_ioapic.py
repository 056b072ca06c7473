"""The I/O APIC by Intel 82093AA datasheet (290566), and its messages by the SDM, volume 3, 10.11."""

from __future__ import annotations

import pytest

from devices.legacy.ioapic import IoApic
from mmiod.testing import Harness

LEVEL, MASKED, REMOTE_IRR = 1 << 15, 1 << 16, 1 << 14
ID, VERSION, ARBITRATION, TABLE = 0, 1, 2, 0x10


class Chip(Harness[IoApic]):
    """The chip, with its registers by number."""

    def __init__(self) -> None:
        super().__init__(IoApic)

    def get(self, number: int) -> int:
        """Through the window."""
        self.write("ioregsel", number)
        return self.read("iowin")

    def put(self, number: int, value: int) -> None:
        """Through the window."""
        self.write("ioregsel", number)
        self.write("iowin", value)

    def redirect(self, line: int, low: int, high: int = 0) -> None:
        """An entry, its high half first."""
        self.put(TABLE + 2 * line + 1, high)
        self.put(TABLE + 2 * line, low)

    def sent(self) -> list[tuple[int, int]]:  # type: ignore[override]
        """Messages since the last look."""
        messages = list(self.context.messages)
        self.context.messages.clear()
        return messages


@pytest.fixture
def chip() -> Chip:
    """After reset."""
    return Chip()


def test_reset_values(chip: Chip) -> None:
    """3.2.1-3.2.4: ID 0, 24 entries, all masked."""
    assert [0, 0x0017_0020, 0] == [chip.get(number) for number in (ID, VERSION, ARBITRATION)]
    assert [0x1_0000, 0] * 24 == [chip.get(number) for number in range(TABLE, TABLE + 48)]


def test_the_id_is_the_arbitration_id_too(chip: Chip) -> None:
    """3.2.1: bits 27:24; 3.2.3: loaded whenever the ID is written; the version is read-only."""
    chip.put(ID, 0xFFFF_FFFF)
    chip.put(VERSION, 0)
    chip.put(ARBITRATION, 0)
    assert [0x0F00_0000, 0x0017_0020, 0x0F00_0000] == [chip.get(n) for n in (ID, VERSION, ARBITRATION)]


def test_numbers_that_are_no_register_read_zero(chip: Chip) -> None:
    """3.1: IOREGSEL has 8 bits, of which not all select something."""
    for number in (0x03, 0x0F, 0x40, 0xFF):
        chip.put(number, 0xFFFF_FFFF)
    assert [0] * 4 == [chip.get(number) for number in (0x03, 0x0F, 0x40, 0xFF)]
    assert 0xFF == chip.read("ioregsel")


def test_the_window_takes_32_bits_only(chip: Chip) -> None:
    """3.0: accesses to IOWIN are 32 bits wide; IOREGSEL's byte may be read as one."""
    chip.put(TABLE, 0x31)
    chip.write_at(0x10, 0xFF)
    assert (0, 0x31, TABLE) == (chip.read_at(0x10, 2), chip.read("iowin"), chip.read_at(0, 1))


def test_status_bits_are_read_only(chip: Chip) -> None:
    """3.2.4: Delivery Status and Remote IRR."""
    chip.put(TABLE, 0xFFFF_FFFF)
    assert 0 == chip.get(TABLE) & 0x5000


def test_an_edge_is_one_message(chip: Chip) -> None:
    """3.2.4, Trigger Mode 0: the rise counts; SDM 10.11: destination, its mode, vector, delivery mode."""
    chip.redirect(5, 0x0931, 0xA500_0000)
    for level in (True, False, True):
        chip.drive("irq5", level)
    assert [(0xFEEA_5004, 0x0131)] * 2 == chip.sent()
    assert not chip.get(TABLE + 10) & REMOTE_IRR


def test_an_edge_at_a_masked_input_is_lost(chip: Chip) -> None:
    """3.2.4, Interrupt Mask: "ignored (i.e., not delivered or held pending)"."""
    chip.drive("irq5", level=True)
    chip.redirect(5, 0x31)
    assert [] == chip.sent()


def test_a_level_is_sent_once_until_its_end(chip: Chip) -> None:
    """3.2.4, Remote IRR: set when accepted, reset by an EOI of its vector; what is left comes again."""
    chip.redirect(9, LEVEL | 0x61)
    chip.drive("irq9", level=True)
    first = (chip.sent(), chip.get(TABLE + 18) & REMOTE_IRR)
    chip.write("eoi", 0x60)
    other = (chip.sent(), chip.get(TABLE + 18) & REMOTE_IRR)
    chip.write("eoi", 0x61)
    again = (chip.sent(), chip.get(TABLE + 18) & REMOTE_IRR)
    chip.drive("irq9", level=False)
    chip.write("eoi", 0x61)
    last = (chip.sent(), chip.get(TABLE + 18) & REMOTE_IRR)
    message = (0xFEE0_0000, 0xC061)
    assert [([message], REMOTE_IRR), ([], REMOTE_IRR), ([message], REMOTE_IRR), ([], 0)] == [
        first,
        other,
        again,
        last,
    ]


def test_a_level_that_came_and_went_while_in_service_is_not_sent(chip: Chip) -> None:
    """3.2.4, Trigger Mode 1: level sensitive."""
    chip.redirect(9, LEVEL | 0x61)
    for level in (True, False, True, False):
        chip.drive("irq9", level)
    chip.write("eoi", 0x61)
    assert 1 == len(chip.sent())


def test_a_masked_level_comes_when_it_is_unmasked(chip: Chip) -> None:
    """3.2.4, Interrupt Mask: level-sensitive inputs are looked at again."""
    chip.redirect(9, MASKED | LEVEL | 0x61)
    chip.drive("irq9", level=True)
    before = chip.sent()
    chip.redirect(9, LEVEL | 0x61)
    assert ([], 1) == (before, len(chip.sent()))


def test_an_input_that_is_asserted_when_it_becomes_level_triggered_is_seen(chip: Chip) -> None:
    """3.2.4, Trigger Mode 1: the level counts, not its change."""
    chip.drive("irq9", level=True)
    chip.redirect(9, LEVEL | 0x61)
    assert 1 == len(chip.sent())


def test_edge_mode_clears_remote_irr(chip: Chip) -> None:
    """3.2.4: its meaning is undefined for edges; systems without EOI register end a level like this."""
    chip.redirect(9, LEVEL | 0x61)
    chip.drive("irq9", level=True)
    chip.drive("irq9", level=False)
    chip.put(TABLE + 18, MASKED | 0x61)
    chip.put(TABLE + 18, MASKED | LEVEL | 0x61)
    assert not chip.get(TABLE + 18) & REMOTE_IRR


def test_registers_are_there_again_every_256_bytes(chip: Chip) -> None:
    """3.1: FEC0xy00h; of a block only the low byte is decoded here, the rest is its place."""
    chip.write_at(0x300, VERSION, 4)
    assert 0x0017_0020 == chip.read_at(0xF10, 4)


def test_all_inputs_with_a_vector_are_ended(chip: Chip) -> None:
    """3.2.4, Remote IRR: each entry looks at the vector of the EOI message."""
    for line in (16, 17):
        chip.redirect(line, LEVEL | 0x71)
        chip.drive(f"irq{line}", level=True)
        chip.drive(f"irq{line}", level=False)
    chip.write("eoi", 0x71)
    assert [0, 0] == [chip.get(TABLE + 2 * line) & REMOTE_IRR for line in (16, 17)]
