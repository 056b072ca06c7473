"""8259A pair, by Intel's datasheet 231468-003 (headings are its) and PIIX3 for ELCR."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from devices.legacy.pic8259 import Pic8259
from mmiod.testing.harness import Harness

EOI = 0x20
POLL = 0x0C
READ_IRR = 0x0A
READ_ISR = 0x0B


def make(master_icw4: int = 0x01, slave_icw4: int = 0x01) -> Harness[Pic8259]:
    """A pair as a PC's firmware sets it up: vectors 08h and 70h, edge-triggered, nothing masked."""
    pic = Harness(Pic8259)
    for region, words in (
        ("master", (0x11, 0x08, 0x04, master_icw4)),
        ("slave", (0x11, 0x70, 0x02, slave_icw4)),
    ):
        for at, word in enumerate(words):
            pic.write_at(min(at, 1), word, region=region)
    return pic


def intr(pic: Harness[Pic8259]) -> bool:
    """The level of INTR."""
    return pic.levels["intr"]


def inta(pic: Harness[Pic8259]) -> int:
    """Take the interrupt: its vector."""
    return pic.acknowledge("intr")


def raise_lines(pic: Harness[Pic8259], *lines: int) -> None:
    """Drive inputs high."""
    for line in lines:
        pic.drive(f"ir{line}", level=True)


def status(pic: Harness[Pic8259], ocw3: int, region: str = "master") -> int:
    """What A0 = 0 reads after this OCW3."""
    pic.write_at(0, ocw3, region=region)
    return pic.read_at(0, region=region)


def test_a_request_interrupts_and_is_acknowledged() -> None:
    """Interrupt Sequence: IRR -> INT; INTA sets ISR, clears IRR, gives ICW2 base + level."""
    pic = make()
    assert not intr(pic)
    raise_lines(pic, 4)
    assert intr(pic)
    assert (0x10, 0x00) == (status(pic, READ_IRR), status(pic, READ_ISR))
    assert inta(pic) == 0x0C
    assert not intr(pic)
    assert (0x00, 0x10) == (status(pic, READ_IRR), status(pic, READ_ISR))


def test_the_slave_answers_for_the_cascade() -> None:
    """Cascade Mode: the slave gives the vector; both have a bit in service."""
    pic = make()
    raise_lines(pic, 12)
    assert status(pic, READ_IRR) == 0x04
    assert inta(pic) == 0x74
    assert (0x04, 0x10) == (status(pic, READ_ISR), status(pic, READ_ISR, "slave"))


def test_icw2_gives_the_upper_bits() -> None:
    """ICW2: T7-T3; the level fills the lower three bits."""
    pic = make()
    for at, word in enumerate((0x11, 0x2F, 0x04, 0x01)):
        pic.write_at(min(at, 1), word, region="master")
    raise_lines(pic, 1)
    assert inta(pic) == 0x29


@pytest.mark.parametrize(("icw1", "words"), [(0x13, 2), (0x12, 1), (0x11, 3), (0x10, 2)])
def test_number_of_icws(icw1: int, words: int) -> None:
    """Figure 6: ICW3 only without SNGL, ICW4 only with IC4; after them A0 = 1 is OCW1."""
    pic = make()
    pic.write_at(0, icw1, region="master")
    for _ in range(words):
        pic.write_at(1, 0x00, region="master")
        assert pic.read_at(1, region="master") == 0
    pic.write_at(1, 0xA5, region="master")
    assert pic.read_at(1, region="master") == 0xA5


def test_icw1_clears() -> None:
    """ICW1: edge sense reset, IMR cleared, IR7 lowest, special mask off, status reads IRR."""
    pic = make(master_icw4=0x03)
    raise_lines(pic, 3)
    pic.write_at(1, 0xF0, region="master")
    for ocw in (0xC2, 0x68, READ_ISR):
        pic.write_at(0, ocw, region="master")
    for at, word in enumerate((0x11, 0x08, 0x04, 0x01)):
        pic.write_at(min(at, 1), word, region="master")
    assert not intr(pic), "a high input must fall and rise again"
    assert pic.read_at(1, region="master") == 0
    pic.drive("ir3", level=False)
    raise_lines(pic, 3, 4)
    assert pic.read_at(0, region="master") == 0x18
    assert inta(pic) == 0x0B


def test_fully_nested_mode() -> None:
    """Fully Nested Mode: IR0 is highest; equal and lower levels wait for the EOI."""
    pic = make()
    raise_lines(pic, 5, 6)
    assert inta(pic) == 0x0D
    assert not intr(pic)
    raise_lines(pic, 1)
    assert inta(pic) == 0x09
    pic.write_at(0, EOI, region="master")
    assert (status(pic, READ_ISR), intr(pic)) == (0x20, False)
    pic.write_at(0, EOI, region="master")
    assert inta(pic) == 0x0E


def test_specific_eoi() -> None:
    """End of Interrupt: SL names the level whose bit is reset."""
    pic = make()
    raise_lines(pic, 5)
    inta(pic)
    raise_lines(pic, 1)
    inta(pic)
    pic.write_at(0, 0x60 | 5, region="master")
    assert status(pic, READ_ISR) == 0x02


def test_a_mask_holds_requests_back() -> None:
    """OCW1: a masked input does not interrupt; its request stays in IRR."""
    pic = make()
    pic.write_at(1, 0x10, region="master")
    raise_lines(pic, 4)
    assert (intr(pic), status(pic, READ_IRR)) == (False, 0x10)
    pic.write_at(1, 0x00, region="master")
    assert intr(pic)


def test_an_edge_counts_once() -> None:
    """Level triggered and LTIM 0: a line that stays high asks once; it must fall and rise."""
    pic = make()
    raise_lines(pic, 4)
    inta(pic)
    pic.write_at(0, EOI, region="master")
    found = [intr(pic)]
    pic.drive("ir4", level=False)
    pic.drive("ir4", level=True)
    found.append(intr(pic))
    assert found == [False, True]


def test_a_level_counts_while_it_lasts() -> None:
    """PIIX3 2.5.5: a line that ELCR makes level-triggered asks again after EOI while it is high."""
    pic = make()
    pic.write("elcr2", 0x08)
    raise_lines(pic, 11)
    assert inta(pic) == 0x73
    assert not intr(pic)
    pic.write_at(0, EOI, region="slave")
    pic.write_at(0, EOI, region="master")
    found = [intr(pic)]
    pic.drive("ir11", level=False)
    found.append(intr(pic))
    assert found == [True, False]


def test_elcr_bits() -> None:
    """PIIX3 2.5.5: IRQ0, 1, 2, 8 and 13 must be edge-triggered; their bits read 0."""
    pic = make()
    pic.write_at(0, 0xFFFF, size=2, region="elcr")
    assert pic.read_at(0, size=2, region="elcr") == 0xDEF8


@pytest.mark.parametrize("elcr", [0x00, 0x20])
def test_a_dropped_request_is_spurious(elcr: int) -> None:
    """IR Triggering Timing Requirements: low before INTA gives IR7 with nothing in service."""
    pic = make()
    pic.write("elcr1", elcr)
    raise_lines(pic, 5)
    pic.drive("ir5", level=False)
    assert not intr(pic)
    assert inta(pic) == 0x0F
    assert status(pic, READ_ISR) == 0


def test_a_real_ir7_is_in_service() -> None:
    """The same: software tells a spurious IR7 from a real one by ISR bit 7."""
    pic = make()
    raise_lines(pic, 7)
    assert inta(pic) == 0x0F
    assert status(pic, READ_ISR) == 0x80


def test_rotation_on_eoi() -> None:
    """Automatic Rotation: the level served becomes the lowest."""
    pic = make()
    raise_lines(pic, 4)
    inta(pic)
    pic.write_at(0, 0xA0, region="master")
    raise_lines(pic, 3, 5)
    assert inta(pic) == 0x0D


def test_rotation_on_specific_eoi() -> None:
    """Specific Rotation: E7h is an EOI for level 7 and makes it the lowest."""
    pic = make()
    raise_lines(pic, 2 + 1)
    inta(pic)
    pic.write_at(0, 0xE0 | 3, region="master")
    assert status(pic, READ_ISR) == 0
    raise_lines(pic, 1, 4)
    assert inta(pic) == 0x0C


def test_set_priority() -> None:
    """Specific Rotation: C5h makes IR5 the lowest, IR6 the highest, without an EOI."""
    pic = make()
    pic.write_at(0, 0xC5, region="master")
    raise_lines(pic, 0, 5, 6)
    found = []
    for _ in range(3):
        found.append(inta(pic))
        pic.write_at(0, EOI, region="master")
    assert found == [0x0E, 0x08, 0x0D]


def test_automatic_eoi() -> None:
    """Automatic End of Interrupt: nothing stays in service."""
    pic = make(master_icw4=0x03)
    raise_lines(pic, 3, 4)
    assert [0x0B, 0x0C] == [inta(pic), inta(pic)]
    assert status(pic, READ_ISR) == 0


def test_rotation_in_automatic_eoi() -> None:
    """Automatic Rotation: 80h rotates at each INTA, 00h ends it."""
    pic = make(master_icw4=0x03)
    pic.write_at(0, 0x80, region="master")
    raise_lines(pic, 0)
    inta(pic)
    pic.drive("ir0", level=False)
    raise_lines(pic, 0, 1)
    assert inta(pic) == 0x09
    pic.write_at(0, 0x00, region="master")
    assert inta(pic) == 0x08
    raise_lines(pic, 3, 5)
    assert inta(pic) == 0x0B


def test_special_mask_mode() -> None:
    """Special Mask Mode: a masked level in service lets lower ones through; EOI spares it."""
    pic = make()
    raise_lines(pic, 3)
    inta(pic)
    raise_lines(pic, 6)
    pic.write_at(1, 0x08, region="master")
    assert not intr(pic)
    pic.write_at(0, 0x68, region="master")
    assert inta(pic) == 0x0E
    pic.write_at(0, EOI, region="master")
    assert status(pic, READ_ISR) == 0x08
    pic.write_at(0, 0x48, region="master")
    raise_lines(pic, 5)
    assert not intr(pic), "fully nested again"


def test_special_fully_nested_mode() -> None:
    """Special Fully Nested Mode: a higher request of a slave in service gets through."""
    pic = make(master_icw4=0x11)
    raise_lines(pic, 12)
    assert inta(pic) == 0x74
    raise_lines(pic, 13)
    assert not intr(pic)
    raise_lines(pic, 9)
    assert inta(pic) == 0x71
    raise_lines(pic, 3)
    assert not intr(pic), "lower levels of the master wait"


def test_a_slave_itself_is_never_special() -> None:
    """Special Fully Nested Mode: it is for the master; IR2 of the slave waits for its own EOI."""
    pic = make(master_icw4=0x11, slave_icw4=0x11)
    raise_lines(pic, 10)
    inta(pic)
    pic.drive("ir10", level=False)
    raise_lines(pic, 10)
    assert not intr(pic)


def test_normally_a_slave_in_service_is_locked_out() -> None:
    """The same: in normal nested mode the whole slave waits."""
    pic = make()
    raise_lines(pic, 12)
    inta(pic)
    raise_lines(pic, 9)
    assert not intr(pic)


@pytest.mark.parametrize("a0", [0, 1])
def test_poll(a0: int) -> None:
    """Poll Command: the next read is INTA and gives bit 7 and the level; then reads are normal."""
    pic = make()
    pic.write_at(1, 0x80, region="master")
    raise_lines(pic, 6, 7)
    pic.write_at(0, POLL, region="master")
    assert pic.read_at(a0, region="master") == 0x86
    assert pic.read_at(1, region="master") == 0x80
    assert status(pic, READ_ISR) == 0x40
    assert status(pic, POLL) == 0x00


def test_poll_overrides_a_read() -> None:
    """Reading the 8259A Status: with P and RR both set the next read is the poll's."""
    pic = make()
    raise_lines(pic, 1)
    assert status(pic, POLL | READ_ISR) == 0x81
    assert pic.read_at(0, region="master") == 0x02, "ISR, by the same OCW3"


def test_a_poll_waits_for_its_read() -> None:
    """Poll Command: the next RD is the acknowledge, whatever is written in between."""
    pic = make()
    raise_lines(pic, 1)
    pic.write_at(0, POLL, region="master")
    assert status(pic, READ_ISR) == 0x81


def test_the_status_choice_is_kept() -> None:
    """Reading the 8259A Status: no OCW3 is needed before each read."""
    pic = make()
    raise_lines(pic, 1)
    inta(pic)
    assert [0x02, 0x02] == [status(pic, READ_ISR), pic.read_at(0, region="master")]


def test_ir2_is_the_cascade() -> None:
    """Its own wire does nothing."""
    pic = make()
    raise_lines(pic, 2)
    assert (intr(pic), status(pic, READ_IRR)) == (False, 0)


OPERATIONS = st.one_of(
    st.tuples(st.just("drive"), st.integers(0, 15), st.booleans()),
    st.tuples(st.just("write"), st.integers(0, 3), st.integers(0, 255)),
    st.tuples(st.just("inta"), st.just(0), st.just(0)),
)


@settings(max_examples=100)
@given(st.lists(OPERATIONS, max_size=50))
def test_intr_says_whether_inta_has_something(steps: list[tuple[str, int, int]]) -> None:
    """After any sequence: INTA changes ISR or a priority exactly when INTR was high."""
    pic = make()
    for action, number, value in steps:
        if action == "drive":
            pic.drive(f"ir{number}", level=bool(value))
        elif action == "write":
            pic.write_at(number & 1, value, region="slave" if number & 2 else "master")
        else:
            master = pic.device.state.master
            before, was_high = master.isr, intr(pic)
            vector = inta(pic)
            if not was_high:
                assert (before, master.base + 7) == (master.isr, vector)
            elif not master.auto_eoi and not before & 0x04:
                assert (master.isr ^ before).bit_count() == 1
