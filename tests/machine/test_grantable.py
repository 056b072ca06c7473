"""Pages that a guest reads itself, and doorbells: which may stand, and what is shown."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import pytest
from attrs import define, field
from hypothesis import given, settings, strategies as st

from devices.tpm.crb import TpmCrb
from mmiod.device import Buffer, Device, IrqOutput, Region, Register
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.grantable import PAGE, TABLE, GrantKind, GuestPage
from mmiod.machine.published import Page
from mmiod.machine.restart import restart
from mmiod.machine.rows import Kind
from mmiod.protocol.exit.table import NUMBERS
from mmiod.values import READ, WRITE, Space, ones
from tests.machine.machines import Rig

BASE = 0xFED4_0000
PAGES = 8


@define
class PanelState:
    """What is in the buffer."""

    blob: bytearray = field(factory=lambda: bytearray(b"0123456789abcdef"))


class Panel(Device):
    """Two pages: one that may be shown, and one with a register that is not published."""

    body = Region(2 * PAGE, hole=0x5A, mapped=True)
    rope = Region(8)
    state: PanelState
    onlookers: ClassVar[list[Callable[[], None]]] = []
    """Called while a page is drawn: behind `plain`, before `wide`."""

    plain = Register(0x10, size=4, mask=0xFFFF, published=True, posted=True, region=body)
    derived = Register(0x21, size=2, access="r", published=True, region=body)
    wide = Register(0x38, size=8, published=True, region=body)
    blob = Buffer(0xFF0, 16, published=True, region=body)
    silent = Register(PAGE + 4, region=body)
    notify = Register(0, size=2, access="w", doorbell=True, rings=(0, 3), region=rope)

    @derived.value
    def _derived(self) -> int:
        for look in self.onlookers:
            look()
        return self.plain ^ 0xFFFF

    @plain.on_write
    def _written(self, value: int) -> None:
        if value == 0xDEAD:
            raise RuntimeError("dead")
        self.plain = value

    @blob.on_read
    def _read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.state.blob[offset : offset + size], "little")

    @blob.on_write
    def _write(self, offset: int, size: int, value: int) -> None:
        self.state.blob[offset : offset + size] = value.to_bytes(size, "little")


@define(eq=False)
class Shown:
    """A machine of one device at `BASE`, and its page."""

    rig: Rig
    changes: list[int] = field(factory=list)
    words: memoryview = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Publish, as a client with grants has it."""
        self.words = memoryview(bytearray(8 * TABLE + PAGES * PAGE)).cast("Q")
        self.rig.machine.publish(self.words, lambda: self.changes.append(1))
        assert isinstance(self.rig.machine.page, Page)
        self.rig.machine.page.go()

    @classmethod
    def of(cls, plugin: type[Device], **places: int) -> Shown:
        """With each region of it at an address."""
        at = {name: Placement(Space.MMIO, address) for name, address in places.items()}
        return cls(Rig({"device": (plugin, DeviceDescription(plugin.__name__, at=at))}))

    @property
    def pages(self) -> dict[int, int]:
        """Where which page of the guest's is shown, in bytes."""
        return {one.address: one.value for one in self.rig.machine.grantable if one.kind is GrantKind.PAGE}

    @property
    def bells(self) -> list[tuple[int, int]]:
        """Address and value of each doorbell that may stand."""
        found = [one for one in self.rig.machine.grantable if one.kind is GrantKind.DOORBELL]
        return [(one.address, one.value) for one in found]

    def place(self, region: Region, address: int | None) -> None:
        """Put a region of the device somewhere; what moved it is an input that is over then."""
        self.rig.machine.place("device", region, Space.MMIO, address)
        self.rig.machine.hosts["device"].feed(None, "write", "body", 0x38, 1, 0)

    def image(self, address: int) -> bytes:
        """What the guest reads there."""
        begin = self.pages[address]
        return bytes(self.words.cast("B")[begin : begin + PAGE])

    def answered(self, address: int) -> bytes:
        """The same, by reads."""
        values = (self.rig.access(Space.MMIO, address + at, 8, READ) for at in range(0, PAGE, 8))
        return b"".join(value.to_bytes(8, "little") for value in values if isinstance(value, int))

    def write(self, offset: int, size: int, value: int) -> None:
        """A write of the guest's."""
        self.rig.access(Space.MMIO, BASE + offset, size, WRITE, value)


@pytest.fixture
def panel() -> Shown:
    """The device above."""
    return Shown.of(Panel, body=BASE, rope=BASE + 2 * PAGE)


def test_the_numbers_are_the_protocols() -> None:
    """A machine knows no protocol; this is where they meet."""
    assert [NUMBERS["grant_kind"][kind.name] for kind in GrantKind] == list(GrantKind)


def test_a_page_with_a_register_that_is_not_published_stays_trapped(panel: Shown) -> None:
    """The first page may be shown, the second has a register that says nothing."""
    assert list(panel.pages) == [BASE]
    assert panel.pages[BASE] == 8 * TABLE


def test_doorbells_are_the_values_that_a_register_is_rung_with(panel: Shown) -> None:
    """Address, size and value of each."""
    bells = [one for one in panel.rig.machine.grantable if one.kind is GrantKind.DOORBELL]
    assert [(one.address, one.size, one.value) for one in bells] == [
        (BASE + 2 * PAGE, 2, 0),
        (BASE + 2 * PAGE, 2, 3),
    ]


@settings(max_examples=20)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([0x10, 0x11, 0x21, 0x38, 0x3C, 0xFF0, 0xFF8, 0x800]), st.integers(0, 0xFFFF)
        ),
        max_size=8,
    )
)
def test_a_page_shows_what_reads_give(writes: list[tuple[int, int]]) -> None:
    """Byte for byte, after each write."""
    panel = Shown.of(Panel, body=BASE, rope=BASE + 2 * PAGE)
    for offset, value in [(0x10, 1), *writes]:
        panel.write(offset, 2, value if value != 0xDEAD else 0)
        assert panel.image(BASE) == panel.answered(BASE)


def test_quarantine_shows_ones(panel: Shown) -> None:
    """The page of a device that failed."""
    panel.write(0x10, 4, 0xDEAD)
    assert panel.rig.machine.hosts["device"].failure is not None
    assert panel.image(BASE) == b"\xff" * PAGE


def test_nothing_is_posted_to_a_device_with_a_page(panel: Shown) -> None:
    """The guest's next read would overtake it; without grants it is posted."""
    page = panel.rig.machine.page
    assert isinstance(page, GuestPage)
    assert Kind.WRITE not in {row.kind for row in page.shelves["device"].rows}
    panel.rig.machine.publish(panel.words)
    assert panel.rig.machine.page is not None
    panel.rig.machine.page.go()
    assert isinstance(panel.rig.machine.page, Page)
    assert Kind.WRITE in {row.kind for row in panel.rig.machine.page.shelves["device"].rows}


def test_what_is_withheld_may_not_stand(panel: Shown) -> None:
    """The change is told at once, and again when it is released; twice withheld it is once released."""
    machine, before = panel.rig.machine, panel.rig.machine.grantable
    told = len(panel.changes)
    machine.withhold("device", "watch")
    assert (machine.grantable, len(panel.changes)) == ([], told + 1)
    machine.withhold("device", "break")
    machine.release("device")
    assert machine.grantable == []
    machine.release("device")
    assert machine.grantable == before


def test_doorbells_follow_their_region() -> None:
    """Firmware places it when the machine is on; it moves, and is taken off: each is told of at once."""
    panel = Shown.of(Panel, body=BASE)
    assert panel.bells == []
    for base in (0xE000_0000, 0xE100_0000, None):
        told = len(panel.changes)
        panel.place(Panel.rope, base)
        assert len(panel.changes) > told
        assert panel.bells == ([] if base is None else [(base, 0), (base, 3)])
        assert list(panel.pages) == [BASE]


def test_what_moves_or_pauses_takes_nothing_from_others(panel: Shown) -> None:
    """Who withholds a device before the table is right again, or in a pause, has only that one's revoked."""
    machine, page, before = panel.rig.machine, panel.rig.machine.page, panel.rig.machine.grantable
    assert isinstance(page, GuestPage)
    page.move("device")
    machine.withhold("nobody", "watch")
    assert (page.entered, machine.grantable) == (False, before)
    page.settle()
    page.stop()
    machine.release("nobody")
    assert machine.grantable == before
    machine.withhold("device", "watch")
    assert machine.grantable == []


def test_nothing_may_stand_before_the_machine_is_on() -> None:
    """The reset that precedes it is an input already."""
    panel = Shown.of(Panel, body=BASE, rope=BASE + 2 * PAGE)
    panel.rig.machine.publish(panel.words, lambda: None)
    panel.rig.machine.reset()
    assert panel.rig.machine.grantable == []
    assert panel.rig.machine.page is not None
    panel.rig.machine.page.go()
    assert len(panel.rig.machine.grantable) == 3


def test_a_page_that_stands_goes_on_while_others_move(panel: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest reads it meanwhile: never a hole for a register, and what changed in the usual order."""
    panel.write(0x38, 8, 0x1122334455667788)
    seen = list[tuple[int, bytes]]()

    def look() -> None:
        image = panel.image(BASE)
        seen.append((image[0x10], image[0x38:0x40]))

    monkeypatch.setattr(Panel, "onlookers", [look])
    panel.rig.machine.place("device", Panel.rope, Space.MMIO, 0xE100_0000)
    panel.write(0x10, 4, 7)
    wide = bytes.fromhex("8877665544332211")
    assert set(seen) == {(7, wide)}


def test_a_page_that_is_made_anew_is_stored_at_once(panel: Shown, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a quarantine it reads ones until all of it is right."""
    panel.write(0x38, 8, 0x1122334455667788)
    panel.write(0x10, 4, 0xDEAD)
    seen = list[bytes]()
    monkeypatch.setattr(Panel, "onlookers", [lambda: seen.append(panel.image(BASE))])
    restart(panel.rig.machine, "device")
    assert seen[0] == b"\xff" * PAGE
    assert {*seen[1:], panel.image(BASE)} <= {seen[0], panel.answered(BASE)}
    assert panel.image(BASE)[0x38:0x40] == bytes.fromhex("8877665544332211")


def test_a_device_that_is_out_of_service_already_shows_ones(panel: Shown) -> None:
    """To a client that comes only then, whose memory is empty."""
    panel.write(0x10, 4, 0xDEAD)
    machine, words = panel.rig.machine, memoryview(bytearray(8 * TABLE + PAGES * PAGE)).cast("Q")
    machine.publish(words, lambda: None)
    assert machine.page is not None
    machine.page.go()
    panel.words = words
    assert panel.image(BASE) == b"\xff" * PAGE


@pytest.mark.parametrize("what", ["line", "unmapped", "unaligned"])
def test_other_pages_stay_trapped(what: str) -> None:
    """Of a device with an interrupt line, without `mapped`, or where the region begins within a page."""

    class Other(Device):
        page = Region(PAGE, mapped=what != "unmapped")
        value = Register(0, published=True, region=page)
        if what == "line":
            irq = IrqOutput()

    assert Shown.of(Other, page=BASE + 0x800 * (what == "unaligned")).pages == {}
    assert what


def test_each_locality_of_a_crb_is_shown() -> None:
    """Registers and buffer, as the locality that is active sees them, and the others."""
    shown = Shown.of(TpmCrb, localities=BASE)
    pages = [BASE + PAGE * number for number in range(5)]
    assert list(shown.pages) == pages
    for offset, size, value in ((0x2008, 4, 1), (0x2040, 4, 1), (0x2080, 4, 0x1234), (0x3008, 4, 8)):
        shown.write(offset, size, value)
        assert [shown.image(page) for page in pages] == [shown.answered(page) for page in pages]
    assert shown.image(pages[0])[0x80:] == ones(PAGE - 0x80).to_bytes(PAGE - 0x80, "little")
