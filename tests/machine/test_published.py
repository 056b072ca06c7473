"""The page of registers that need no message: what it says is what the device would answer."""

from __future__ import annotations

import pytest
from attrs import define, field
from hypothesis import given, settings, strategies as st

from mmiod.device import (
    PENDING,
    Count,
    Device,
    IrqInput,
    IrqOutput,
    Pending,
    Region,
    Register,
    Request,
    Timer,
)
from mmiod.device.pci import Bar, Identity, PciFunction
from mmiod.errors import DeclarationError
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.handover import prepare
from mmiod.machine.published import VERSION, Page
from mmiod.machine.restart import restart
from mmiod.machine.rows import Allowed, Kind
from mmiod.machine.shelves import (
    ADDRESS,
    AFFECTED,
    BITS,
    GENERATION,
    KIND,
    POLICY,
    RATE,
    ROW,
    ROWS,
    SINCE,
    VALUE,
    Shelf,
)
from mmiod.protocol.exit.table import LAYOUTS, NUMBERS
from mmiod.values import READ, WRITE, Direction, Space
from tests.machine.machines import Outlet, Rig

BASE = 0x300
NS = 1_000_000_000


@define
class SerialState:
    """Whether a character was lost."""

    lost: bool = False
    count: int = 0
    since: int = 0


class Serial(Device):
    """A part of a UART: status with an error that a read clears, data, a scratch, a counter."""

    ports = Region(16)
    irq = IrqOutput()
    state: SerialState

    control = Register(3, published=True, posted=True, region=ports)
    data = Register(0, access="w", when=control.lacks(0x80), posted=lambda d: not d.enable & 2, region=ports)
    divisor = Register(0, when=control.has(0x80), published=True, region=ports)
    enable = Register(1, published=True, region=ports)
    status = Register(
        5, access="r", published=lambda d: not d.state.lost, unaffected_by=("data",), region=ports
    )
    plain = Register(7, region=ports)
    ticks = Register(8, size=4, access="r", region=ports)

    @status.value
    def _status(self) -> int:
        return 0x60 | 2 * self.state.lost

    @status.on_read
    def _seen(self) -> None:
        self.state.lost = False

    @plain.on_write
    def _plain(self, value: int) -> None:
        self.state.lost = bool(value & 1)
        self.irq.set_level(bool(value & 2))

    @ticks.counts
    def _ticks(self) -> Count:
        return Count(3_579_545, 24, self.state.count, self.state.since)


@define
class Shown:
    """A machine with one device, and its page."""

    rig: Rig
    page: Page

    @classmethod
    def of(cls, device: type[Device] = Serial, space: Space = Space.PIO) -> Shown:
        """Of one device at `BASE`."""
        region = next(iter(device.regions))
        return cls.shown(
            Rig({"dev": (device, DeviceDescription("test/dev", at={region: Placement(space, BASE)}))})
        )

    @classmethod
    def shown(cls, rig: Rig, rows: int = 4095) -> Shown:
        """What is in a rig, with room for so many rows."""
        rig.machine.publish(memoryview(bytearray(8 * ROW * (1 + rows))).cast("Q"))
        page = rig.machine.page
        assert page is not None
        page.go()
        return cls(rig, page)

    def rows(self) -> list[int]:
        """Where rows begin, in words: those whose device is open."""
        words = self.page.words
        places = [ROW * (1 + number) for number in range(words[ROWS])]
        return [
            place
            for place in places
            if words[place + KIND] >> 24 & 0xFF
            and words[ROW * (1 + (words[place + KIND] >> 32)) + POLICY] & Allowed.OPEN
        ]

    def row(self, address: int, size: int, direction: Direction = READ) -> int | None:
        """The row that a hypervisor would go by for an access: the first whose policy allows one."""
        words = self.page.words
        kind = Kind.WRITE if direction == WRITE else Kind.READ
        for place in self.rows():
            head = words[place + KIND]
            found = (words[place + ADDRESS], head & 0xFFFF, head >> 24 & 0xFF)
            if found == (address, Space.PIO | size << 8, kind) and words[place + POLICY] % VERSION:
                return place
        return None

    def read(self, offset: int, size: int = 1) -> int | None:
        """What a hypervisor reads of the page; None: it has to send a message."""
        place = self.row(BASE + offset, size)
        return None if place is None else self.page.words[place + VALUE]

    def access(self, offset: int, direction: Direction, value: int = 0, size: int = 1) -> object:
        """One access as a message."""
        return self.rig.access(Space.PIO, BASE + offset, size, direction, value)


def test_stored_and_derived_values() -> None:
    """A value is there at the end of the write that changed it; what is not declared is not there."""
    shown = Shown.of()
    assert (0, 0x60) == (shown.read(3), shown.read(5))
    shown.access(3, WRITE, 0x1B)
    assert 0x1B == shown.read(3)
    assert None is shown.read(7)
    assert None is shown.row(BASE + 3, 2)


def test_policy_follows_the_device() -> None:
    """While a read would clear an error, and while a write would interrupt, messages are needed."""
    shown = Shown.of()
    assert shown.row(BASE, 1, WRITE) is not None
    shown.access(1, WRITE, 2)
    assert None is shown.row(BASE, 1, WRITE)
    shown.access(7, WRITE, 1)
    assert None is shown.read(5)
    assert 0x62 == shown.access(5, READ)
    assert 0x60 == shown.read(5)


def test_banks() -> None:
    """Of registers at one address the one whose bank is selected is there."""
    shown = Shown.of()
    assert None is shown.read(0)
    shown.access(3, WRITE, 0x80)
    shown.access(0, WRITE, 12)
    assert 12 == shown.read(0)
    assert None is shown.row(BASE, 1, WRITE)


def test_reads_wait_for_the_writes_that_may_affect_them() -> None:
    """A row names the posted rows of its device, but for those it is unaffected by."""
    shown = Shown.of()
    words = shown.page.words
    control, data = shown.row(BASE + 3, 1, WRITE), shown.row(BASE, 1, WRITE)
    status, enable = shown.row(BASE + 5, 1), shown.row(BASE + 1, 1)
    assert None not in {control, data, status, enable}
    bits = {place: 1 << number for number, place in enumerate(shown.rows())}  # its device's is the one before
    assert bits[control] == words[status + AFFECTED]  # type: ignore[index, operator]
    assert bits[control] | bits[data] == words[enable + AFFECTED]  # type: ignore[index, operator]


def test_counters() -> None:
    """A hypervisor can work a counter out from the page and the guest's clock, while that runs."""
    shown = Shown.of()
    assert None is shown.row(BASE + 8, 4)
    shown.rig.machine.power_on(virtual=False)
    shown.page.go()
    place = shown.row(BASE + 8, 4)
    assert place is not None
    words = shown.page.words
    assert Allowed.COUNTER == words[place + POLICY] % VERSION
    assert [0, 0, 3_579_545, 24] == [words[place + word] for word in (VALUE, SINCE, RATE, BITS)]
    shown.rig.machine.hosts["dev"].device.state.count = 5
    shown.page.look("dev")
    assert (Allowed.COUNTER, 5) == (words[place + POLICY] % VERSION, words[place + VALUE])
    shown.page.stop()
    assert None is shown.row(BASE + 8, 4)
    assert 5 == Count(3_579_545, 24, 5).at(0)
    assert 3_579_545 + 5 == Count(3_579_545, 24, 5).at(NS)
    assert 4 == Count(1, 24, 5).at(((1 << 24) - 1) * NS)


def test_withheld() -> None:
    """Somebody watches, or breaks: every access is a message, until nobody does; one event says so."""
    shown = Shown.of()
    machine = shown.rig.machine
    assert machine.withhold("dev", "watch")
    assert machine.withhold("dev", "break")
    assert [("publication_withdrawn", {"device": "dev", "reason": "watch"})] == shown.rig.events
    shown.access(3, WRITE, 1)
    assert None is shown.read(3)
    machine.release("dev")
    assert None is shown.read(3)
    machine.release("dev")
    assert 1 == shown.read(3)


def test_withdrawn_until_the_input_is_over() -> None:
    """What goes before an interrupt comes back with the values of the input's end."""
    shown = Shown.of()
    shown.page.withdraw("dev")
    assert (None, None, None) == (shown.read(3), shown.read(5), shown.row(BASE, 1, WRITE))
    shown.access(3, WRITE, 7)
    assert (7, 0x60) == (shown.read(3), shown.read(5))


def test_regions_that_move() -> None:
    """The table is entered anew: it has another generation, an even one, and the new addresses."""
    shown = Shown.of()
    before = shown.page.words[GENERATION]
    machine = shown.rig.machine
    machine.place("dev", Serial.regions["ports"], Space.PIO, BASE + 0x100)
    assert (before + 1, None) == (shown.page.words[GENERATION], shown.read(0x105))
    shown.access(0x107, READ)
    assert before + 2 == shown.page.words[GENERATION]
    assert (None, 0x60) == (shown.read(5), shown.read(0x105))


class Mute(Device):
    """Nothing of it is published."""

    ports = Region(16)
    plain = Register(0, region=ports)


def test_what_is_not_shown_moves_unseen() -> None:
    """A region without rows goes where nobody is: the table stays."""
    shown = Shown.shown(
        Rig(
            {
                "dev": (Serial, DeviceDescription("test/dev", at={"ports": Placement(Space.PIO, BASE)})),
                "mute": (Mute, DeviceDescription("test/mute")),
            }
        )
    )
    machine, words = shown.rig.machine, shown.page.words
    before = words[GENERATION]
    for base in (0x500, 0x600, None, 0x700):
        machine.place("mute", Mute.regions["ports"], Space.PIO, base)
    shown.access(7, READ)
    assert (before, 0x60) == (words[GENERATION], shown.read(5))


def test_a_region_is_shown_where_all_of_it_is_there() -> None:
    """Regions overlap: the one that loses is not published, until the other one goes."""
    shown = Shown.shown(
        Rig(
            {
                "dev": (Serial, DeviceDescription("test/dev")),
                "first": (Mute, DeviceDescription("test/mute")),
                "other": (Serial, DeviceDescription("test/dev", at={"ports": Placement(Space.PIO, 0x100)})),
            }
        )
    )
    machine = shown.rig.machine

    def move(device: str, base: int | None) -> tuple[int | None, int | None]:
        region = machine.hosts[device].device.regions["ports"]
        machine.place(device, region, Space.PIO, base)
        shown.access(0x107 - BASE, READ)
        return shown.read(5), shown.read(0x105 - BASE)

    assert (0x60, 0x60) == move("dev", BASE)
    assert (0x60, 0x60) == move("first", BASE + 8)
    assert (None, 0x60) == move("dev", None)
    assert (None, 0x60) == move("dev", BASE)
    assert (0x60, 0x60) == move("first", None)


class Panels(Device):
    """Regions of all sorts: posted writes, reads, words, a policy that depends on the device, nothing."""

    keys = Region(4)
    lamps = Region(4)
    words = Region(8, valid=(1, 4), published=4)
    dark = Region(4)
    press = Register(0, published=True, posted=True, region=keys)
    lamp = Register(0, published=True, region=lamps)
    glow = Register(1, access="r", published=lambda d: d.lamp > 1, region=lamps)
    plate = Register(0, size=4, published=True, region=words)
    secret = Register(0, region=dark)


MOVES = st.tuples(
    st.sampled_from(["one", "one", "two"]),
    st.sampled_from(["keys", "lamps", "words", "dark"]),
    st.none() | st.integers(0, 10).map(lambda number: BASE + 3 * number),
    st.integers(0, 3),
)


@settings(max_examples=40)
@given(st.lists(MOVES, min_size=10, max_size=40))
def test_what_moved_is_shown_as_if_it_had_always_been_there(
    moves: list[tuple[str, str, int | None, int]],
) -> None:
    """After moves, overlapping ones too, and writes between them: what a page that is made anew says."""
    rig = Rig(dict.fromkeys(["one", "two"], (Panels, DeviceDescription("test/panels"))))
    machine, shown = rig.machine, Shown.shown(rig).page
    for device, region, base, value in moves:
        machine.place(device, Panels.regions[region], Space.PIO, base)
        if value:
            machine.hosts[device].access("lamps", 0, 1, WRITE, value)
            anew = Shown.shown(rig).page
            machine.page = shown
            assert contents(anew) == contents(shown)


def contents(page: Page) -> dict[str, list[list[int]]]:
    """The rows of each device that is shown, but for whose they are, and for versions."""
    assert page.words[GENERATION] % 2 == 0
    return {name: _rows(page, shelf) for name, shelf in page.shelves.items() if shelf.rows}


def _rows(page: Page, shelf: Shelf) -> list[list[int]]:
    places = [ROW * (1 + shelf.first + number) for number in range(1 + shelf.room)]
    rows = [page.words[place : place + ROW].tolist() for place in places]
    for row in rows:
        row[KIND] %= 1 << 32
        row[POLICY] %= VERSION
    assert [row.place for row in shelf.rows] == places[1 : 1 + len(shelf.rows)]
    assert not any(map(any, rows[1 + len(shelf.rows) :]))
    return rows[: 1 + len(shelf.rows)]


class Function(PciFunction):
    """Nothing but configuration space."""

    identity = Identity(0x1234, 0x5678, 0xFF0000, revision=3)
    interrupt_pin_number = 1
    window = Bar(0x1000, number=0)


def test_configuration_space_is_published_in_words() -> None:
    """Each word is what four bytes read; holes too, and a BAR that was just written."""
    rig = Rig({"dev": (Function, DeviceDescription("test/dev", slot=3 << 15))})
    base = next(claim.base for space, claim in rig.machine.claims.values() if space is Space.PCI_CONFIG)
    shown = Shown.shown(rig)
    rig.access(Space.PCI_CONFIG, base + 0x10, 4, WRITE, 0xFEBF_0000)
    words = {
        shown.page.words[place + ADDRESS]: shown.page.words[place + VALUE]
        for place in shown.rows()
        if shown.page.words[place + KIND] >> 24 & 0xFF == Kind.READ
    }
    assert 64 == len(words)
    for address, value in words.items():
        assert rig.access(Space.PCI_CONFIG, address, 4, READ) == value, hex(address)
    assert (0x5678_1234, 0xFEBF_0000) == (words[base], words[base + 0x10])


def test_a_bar_is_sized_without_a_message() -> None:
    """While it does not decode: written, and read back; what is written to one that is not there is lost."""
    rig = Rig({"dev": (Function, DeviceDescription("test/dev", slot=3 << 15))})
    base = next(claim.base for space, claim in rig.machine.claims.values() if space is Space.PCI_CONFIG)
    words = Shown.shown(rig).page.words
    places = {
        (words[place + ADDRESS] - base, words[place + KIND] >> 24 & 0xFF): place
        for place in range(ROW, ROW * (1 + words[ROWS]), ROW)
    }

    def policy(kind: Kind, offset: int) -> int:
        return words[places[offset, kind] + POLICY] % VERSION

    echoed, written = places[0x10, Kind.READ], places[0x10, Kind.WRITE]
    waits = words[echoed + AFFECTED] >> (written // ROW - words[echoed + KIND] // (1 << 32) - 2)
    assert (Allowed.READ | Allowed.ECHO, Allowed.POST, 1) == (
        policy(Kind.READ, 0x10),
        policy(Kind.WRITE, 0x10),
        waits & 1,
    )
    assert 0xFFFF_F000 == words[echoed + RATE]
    assert Allowed.POST == policy(Kind.WRITE, 0x24)
    rig.access(Space.PCI_CONFIG, base + 4, 2, WRITE, 2)
    assert (0, Allowed.POST) == (policy(Kind.WRITE, 0x10), policy(Kind.WRITE, 0x24))


def test_room_is_bounded() -> None:
    """What does not fit is dropped, and counted."""
    rig = Rig({"dev": (Function, DeviceDescription("test/dev", slot=3 << 15))})
    page = Shown.shown(rig, 10).page
    assert (10, 117) == (page.words[ROWS], page.dropped)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from([0, 1, 3, 5, 7]), st.booleans(), st.integers(0, 255)), max_size=30))
def test_page_is_what_a_message_would_answer(accesses: list[tuple[int, bool, int]]) -> None:
    """After any accesses: a published read is what the device answers, and answering changes nothing."""
    shown = Shown.of()
    for offset, write, value in accesses:
        shown.access(offset, WRITE if write else READ, value)
        for register in (0, 1, 3, 5):
            published = shown.read(register)
            if published is not None:
                before = shown.rig.machine.hosts["dev"].snapshot()
                assert published == shown.access(register, READ)
                assert before == shown.rig.machine.hosts["dev"].snapshot()


@pytest.mark.parametrize(
    ("declared", "wrong"),
    [
        ({"a": Register(0, access="rc", published=True)}, "a: published, but a read has a side effect"),
        ({"a": Register(0, access="r", posted=True)}, "a: posted, but it is not written"),
        ({"a": Register(0, published=True, unaffected_by=("b",))}, "unaffected_by names b"),
        ({"a": Register(0, posted=True), "b": Register(1, unaffected_by=("a",))}, "b: unaffected_by, but"),
    ],
)
def test_contradictions_are_refused(declared: dict[str, Register], wrong: str) -> None:
    """At the class, naming the register."""
    with pytest.raises(DeclarationError, match=wrong):
        type("Wrong", (Device,), {"length": 8, **declared})


class Broken(Serial):
    """Fails at one value; tells the guest to look in three ways."""

    def _plain(self, value: int) -> None:
        if value == 0xFF:
            raise ValueError(value)
        if value == 0x10:
            self.context.msi(0xFEE0_0000, 0x41)
        if value == 0x20:
            self.context.request(Request.RESET)
        self.irq.set_level(bool(value & 2))


@define(eq=False)
class Watching(Outlet):
    """A hypervisor that looks at the page when its interrupt controller is told something."""

    seen: list[int | None] = field(factory=list)
    shown: Shown | None = None

    def set_level(self, line: int, level: bool) -> None:
        """Read the status, as the guest's handler may on another vCPU."""
        assert self.shown is not None
        self.signals.append(("level", line, level))
        self.seen.append(self.shown.read(5))

    def msi(self, device: str, address: int, data: int) -> None:
        """The same."""
        assert self.shown is not None
        self.signals.append(("msi", device, address, data))
        self.seen.append(self.shown.read(5))

    def request(self, kind: Request, value: int) -> None:
        """The same."""
        assert self.shown is not None
        self.signals.append(("request", kind, value))
        self.seen.append(self.shown.read(5))


def of_broken() -> Shown:
    """A device that can fail, wired to the hypervisor."""
    place = {"ports": Placement(Space.PIO, BASE)}
    rig = Rig({"dev": (Broken, DeviceDescription("test/dev", at=place))}, wires={"dev.irq": "hypervisor.4"})
    return Shown.shown(rig)


@pytest.mark.parametrize(("value", "kind"), [(2, "level"), (0x10, "msi"), (0x20, "request")])
def test_nothing_is_shown_when_the_guest_is_told_to_look(value: int, kind: str) -> None:
    """What a line, a message or a request announces is there with a message, and at the input's end."""
    shown = of_broken()
    outlet = Watching(shown=shown)
    shown.rig.machine.outlet = outlet
    assert 0x60 == shown.read(5)
    shown.access(7, WRITE, value)
    assert ([None], [kind], 0x60) == (outlet.seen, [told[0] for told in outlet.signals], shown.read(5))


def test_quarantine() -> None:
    """A device that failed is not shown, and is again when it serves again; an event says so."""
    shown = of_broken()
    shown.access(3, WRITE, 9)
    shown.access(7, WRITE, 0xFF)
    assert None is shown.read(3)
    assert ("publication_withdrawn", {"device": "dev", "reason": "quarantine"}) == shown.rig.events[0]
    assert "device_quarantined" == shown.rig.events[1][0]
    assert 0xFF == shown.access(3, READ)
    restart(shown.rig.machine, "dev")
    assert 9 == shown.read(3)


class Heard(Device):
    """A device with an input, which fails when it is told to."""

    ports = Region(4)
    line = IrqInput()
    level = Register(0, access="r", published=True, region=ports)
    fuse = Register(1, region=ports)

    @line.on_change
    def _changed(self, level: bool) -> None:
        self.values["level"] = 1 + level

    @fuse.on_write
    def _blown(self, _value: int) -> None:
        raise RuntimeError("blown")


class HeardAnew(Heard):
    """Its next version: it has one register more."""

    ports = Region(4)
    level = Register(0, access="r", published=True, region=ports)
    fuse = Register(1, region=ports)
    added = Register(2, reset=3, published=True, region=ports)


def test_reload_tells_the_new_device_what_the_old_one_missed() -> None:
    """It is shown by its own rows as soon as it has inputs; those of the old one know nothing of it."""
    source = DeviceDescription("test/serial", at={"ports": Placement(Space.PIO, 0x200)})
    dev = DeviceDescription("test/dev", at={"ports": Placement(Space.PIO, BASE)})
    wires = {"source.irq": "dev.line"}
    shown = Shown.shown(Rig({"dev": (Heard, dev), "source": (Serial, source)}, wires=wires))
    shown.access(1, WRITE, 0)
    shown.rig.access(Space.PIO, 0x207, 1, WRITE, 2)
    prepare(shown.rig.machine, HeardAnew, {"dev": None}).commit(2)
    assert None is shown.rig.machine.hosts["dev"].failure
    assert (2, 3) == (shown.read(0), shown.read(2))


def test_while_it_owes_an_answer() -> None:
    """Posted writes wait behind the access that is not answered: nothing is true meanwhile."""
    shown = Shown.of(Slow)
    assert 0 == shown.read(0)
    assert PENDING is shown.access(1, READ)
    assert None is shown.read(0)
    shown.rig.machine.hosts["dev"].fire("later")
    assert 0 == shown.read(0)


class Slow(Device):
    """An access that is answered later."""

    ports = Region(4)
    later = Timer()
    setting = Register(0, published=True, posted=True)
    answer = Register(1, access="r")

    @answer.on_read
    def _asked(self) -> Pending:
        self.later.set(1_000)
        return PENDING

    @later.on_fire
    def _due(self) -> None:
        self.complete(7)


def test_the_protocol_has_the_same_numbers() -> None:
    """Kinds, policies and the words of a row."""
    for numbers, name in ((Kind, "published_kind"), (Allowed, "published_policy")):
        for member in numbers:
            assert NUMBERS[name][str(member.name)] == member
    places = {member.name: member.offset // 8 for member in LAYOUTS["published_row"].members}
    names = ("address", "space", "policy", "value", "affected", "since", "rate", "bits")
    assert (ADDRESS, KIND, POLICY, VALUE, AFFECTED, SINCE, RATE, BITS) == tuple(
        places[name] for name in names
    )
    assert 8 * ROW == LAYOUTS["published_row"].size == LAYOUTS["published_header"].size
