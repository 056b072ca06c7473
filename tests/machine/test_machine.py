"""One VM's doors: spaces, bridges, interrupts, places, resets, and how it is built."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from attrs import define, field

from mmiod.device import PENDING, Device, IrqInputs, IrqOutput, Pending, Region, Request, Stream
from mmiod.errors import MachineError
from mmiod.machine.address_map import Policy
from mmiod.machine.description import DeviceDescription, MachineDescription, Placement, UnclaimedDescription
from mmiod.machine.ports import BackendStatus
from mmiod.trace.record import ADDRESS, DEVICE, DIRECTION, SPACE, STATUS, VALUE
from mmiod.values import READ, WRITE, Space
from tests.machine.machines import Rig


class Cell(Device):
    """Eight bytes of state, reset to zero."""

    length = 8
    irq = IrqOutput()
    serial = Stream()

    def on_reset(self) -> None:
        """All zeros."""
        self.bytes = bytearray(8)

    def read(self, offset: int, size: int) -> int:
        """A read."""
        return int.from_bytes(self.bytes[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """A write."""
        self.bytes[offset : offset + size] = value.to_bytes(size, "little")

    @irq.on_acknowledge
    def _vector(self) -> int:
        return self.bytes[0]


class Slow(Device):
    """Never answers at once."""

    length = 8

    def read(self, _offset: int, _size: int) -> Pending:
        """A read."""
        return PENDING

    def write(self, _offset: int, _size: int, _value: int) -> Pending:
        """A write."""
        return PENDING


class Movable(Device):
    """Two regions, of which the guest places one."""

    fixed = Region(4)
    bar = Region(0x10)
    irq = IrqOutput()


class Pins(Device):
    """Inputs."""

    length = 1
    pin = IrqInputs(2)


def at(space: Space, base: int, region: str = "main", plugin: str = "test/x") -> DeviceDescription:
    """One region at one place."""
    return DeviceDescription(plugin, at={region: Placement(space, base)})


def cells(**bases: int) -> Rig:
    """A machine of cells at these ports."""
    return Rig({name: (Cell, at(Space.PIO, base)) for name, base in bases.items()})


# --- spaces -------------------------------------------------------------------------------


def test_bridge_access_is_cut_where_another_range_begins() -> None:
    """A read over two devices and a gap is composed, a write is spread: low to high."""
    rig = cells(low=0x10, high=0x1C)
    rig.machine.write(Space.PIO, 0x16, 8, 0x8877_6655_4433_2211)

    assert 0x2211 == rig.machine.hosts["low"].device.read(6, 2)
    assert 0x8877 == rig.machine.hosts["high"].device.read(0, 2)
    assert 0x8877_FFFF_FFFF_2211 == rig.machine.read(Space.PIO, 0x16, 8)
    assert [0x16, 0x18, 0x1C] * 2 == [record[ADDRESS] for record in rig.records]
    assert ["low", "", "high"] * 2 == [record[DEVICE] for record in rig.records]


def test_access_that_leaves_the_space_reads_ones_there() -> None:
    """Behind the last port is nobody; nothing wraps, nothing fails."""
    rig = cells(last=0xFFF8)
    assert 0xFFFF_0000 == rig.machine.read(Space.PIO, 0xFFFE, 4)
    rig.machine.write(Space.PIO, 0xFFFE, 4, 0x4433_2211)
    assert 0x2211 == rig.machine.hosts["last"].device.read(6, 2)


def test_bridge_restores_the_cause() -> None:
    """The outer access is recorded at its own address."""
    rig = cells(cell=0x10)
    rig.machine.cause.space, rig.machine.cause.address = Space.MMIO, 0xCF8
    rig.machine.read(Space.PIO, 0x10, 1)
    assert (Space.MMIO, 0xCF8) == (rig.machine.cause.space, rig.machine.cause.address)
    assert [(Space.PIO, 0x10)] == [(record[SPACE], record[ADDRESS]) for record in rig.records]


def test_pending_to_a_bridge_is_the_mistake_of_the_device_behind_it() -> None:
    """It is quarantined and reads ones; the bridge goes on."""

    class Bridge(Device):
        length = 4

        def read(self, _offset: int, size: int) -> int:
            return self.bus.read(Space.PIO, 0x10, size)

        def write(self, _offset: int, size: int, value: int) -> None:
            self.bus.write(Space.PIO, 0x10, size, value)

    rig = Rig({"bridge": (Bridge, at(Space.MMIO, 0)), "slow": (Slow, at(Space.PIO, 0x10))})
    assert 0xFFFF == rig.access(Space.MMIO, 0, 2, READ)
    assert None is rig.machine.hosts["bridge"].failure
    assert "TypeError: PENDING to a bridge, at PIO 0x10" == rig.machine.hosts["slow"].failure


def test_busy_device_reads_ones_for_a_bridge() -> None:
    """A vCPU waits for the device already: the bridge cannot, and nobody made a mistake."""
    rig = Rig({"slow": (Slow, at(Space.PIO, 0x10))})
    assert PENDING is rig.access(Space.PIO, 0x10, 1, READ)
    assert 0xFF == rig.machine.read(Space.PIO, 0x10, 1)
    assert None is rig.machine.hosts["slow"].failure


@pytest.mark.parametrize(
    ("policy", "read", "status", "told"),
    [
        (Policy.ONES, 0xFFFF, "unclaimed", True),
        (Policy.ZEROS, 0, "unclaimed", True),
        (Policy.IGNORE, 0xFFFF, "unclaimed", False),
        (Policy.FORWARD, 0xFFFF, "forwarded", False),
    ],
)
def test_policies(policy: Policy, read: int, status: str, told: bool) -> None:
    """What nobody claims is answered, counted, recorded, and told where it is worth it."""
    rig = Rig({}, unclaimed=(UnclaimedDescription(Space.MMIO, 0x1000, 0x1000, policy),))
    assert read == rig.access(Space.MMIO, 0x1800, 2, READ)
    assert 0 == rig.access(Space.MMIO, 0x1800, 2, WRITE, 7)
    assert {(Space.MMIO, 0x1800): 2} == rig.machine.misses
    assert [(READ, read, status), (WRITE, 7, status)] == [
        (record[DIRECTION], record[VALUE], record[STATUS]) for record in rig.records
    ]
    assert ([("access_unclaimed", "read"), ("access_unclaimed", "write")] if told else []) == [
        (event, fields["direction"]) for event, fields in rig.events
    ]


# --- places --------------------------------------------------------------------------------


def test_bar_moves_between_two_accesses() -> None:
    """A region that the guest places appears, moves and goes; the hypervisor is told each time."""
    rig = Rig({"dev": (Movable, at(Space.PIO, 0, "fixed"))})
    context = rig.machine.hosts["dev"].device.context

    def where() -> list[tuple[int, int]]:
        return [(found.start, found.end) for found in rig.machine.table(Space.MMIO).ranges if found.claim]

    for base, expected in ((None, []), (0x1000, [(0x1000, 0x1010)]), (0x1000, [(0x1000, 0x1010)]),
                           (0x2000, [(0x2000, 0x2010)]), (None, [])):  # fmt: skip
        context.place(Movable.bar, Space.MMIO, base)
        assert expected == where()
    assert [("map",)] * 3 == rig.outlet.signals


def test_bar_over_a_placed_device_loses() -> None:
    """What the machine file placed stays where it is."""
    rig = Rig({"cell": (Cell, at(Space.PIO, 8)), "dev": (Movable, at(Space.PIO, 0, "fixed"))})
    rig.machine.hosts["dev"].device.context.place(Movable.bar, Space.PIO, 4)
    owners = [found.claim.host.name if found.claim else "" for found in rig.machine.table(Space.PIO).ranges]
    assert ["dev", "dev", "cell", "dev", ""] == owners


# --- lines ---------------------------------------------------------------------------------


def test_interrupt_request_and_its_vector() -> None:
    """`vcpuN.intr` reaches the hypervisor as a level; INTA asks the device that drives it."""
    rig = Rig({"pic": (Cell, at(Space.PIO, 0))}, {"pic.irq": "vcpu1.intr"})
    rig.machine.write(Space.PIO, 0, 1, 0x31)
    rig.machine.hosts["pic"].device.lines["irq"].set_level(True)
    assert [("intr", 1, True)] == rig.outlet.signals
    assert {1: True} == rig.machine.interrupts
    assert (None, 0x31) == (rig.machine.acknowledge(0), rig.machine.acknowledge(1))


def test_line_of_the_hypervisors_controller() -> None:
    """`hypervisor.N` is a level there; a wire to a device is an input here."""
    rig = Rig(
        {"one": (Cell, at(Space.PIO, 0)), "two": (Cell, at(Space.PIO, 8)), "pins": (Pins, at(Space.PIO, 16))},
        {"one.irq": "hypervisor.9", "two.irq": "pins.pin1"},
    )
    for name in ("one", "two"):
        rig.machine.hosts[name].device.lines["irq"].set_level(True)
    assert [("level", 9, True)] == rig.outlet.signals
    assert {9: True} == rig.machine.levels
    assert {"pin0": False, "pin1": True} == rig.machine.hosts["pins"].device.inputs


def test_line_reaches_each_of_its_sinks() -> None:
    """A device, the hypervisor's controller and two vCPUs hear of one output; two outputs are OR-ed."""
    sinks = ("pins.pin0", "hypervisor.9", "vcpu0.intr", "vcpu1.intr")
    rig = Rig(
        {"one": (Cell, at(Space.PIO, 0)), "two": (Cell, at(Space.PIO, 8)), "pins": (Pins, at(Space.PIO, 16))},
        {"one.irq": sinks, "two.irq": ("pins.pin0", "pins.pin1")},
    )
    rig.machine.write(Space.PIO, 0, 1, 0x31)
    for name, level in (("one", True), ("two", True), ("one", False)):
        rig.machine.hosts[name].device.lines["irq"].set_level(level)
    assert [
        *(("level", 9, True), ("intr", 0, True), ("intr", 1, True)),
        *(("level", 9, False), ("intr", 0, False), ("intr", 1, False)),
    ] == rig.outlet.signals
    assert {"pin0": True, "pin1": True} == rig.machine.hosts["pins"].device.inputs
    assert (0x31, 0x31) == (rig.machine.acknowledge(0), rig.machine.acknowledge(1))


def test_vcpu_with_two_controllers_is_refused() -> None:
    """The problem names both: one of them would answer INTA for the other."""
    with pytest.raises(MachineError) as refused:
        Rig(
            {"one": (Cell, at(Space.PIO, 0)), "two": (Cell, at(Space.PIO, 8))},
            {"one.irq": "vcpu0.intr", "two.irq": "vcpu0.intr"},
        )
    problem = "wire two.irq -> vcpu0.intr: one.irq drives it, and one controller answers INTA"
    assert (problem,) == refused.value.problems


def test_request_reaches_the_hypervisor_and_the_log() -> None:
    """A device asks for a shutdown."""
    rig = cells(cell=0)
    rig.machine.hosts["cell"].device.context.request(Request.EXIT, 3)
    assert [("request", Request.EXIT, 3)] == rig.outlet.signals
    assert [("hypervisor_requested", {"device": "cell", "request": "exit", "value": 3})] == rig.events


@define
class Sent:
    """A backend's near end that keeps what it gets."""

    pieces: list[bytes] = field(factory=list)
    status: BackendStatus = field(factory=lambda: BackendStatus("test"))

    def put(self, data: bytes) -> None:
        """Keep it."""
        self.pieces.append(data)

    def ready(self) -> None:
        """Not called."""
        raise AssertionError("the device has no room to tell of")


def test_stream_goes_to_its_backend_or_nowhere() -> None:
    """Bytes of a stream without backend are dropped."""
    rig = cells(one=0, two=8)
    sent = Sent()
    rig.machine.backends["one", "serial"] = sent
    for name in ("one", "two"):
        rig.machine.hosts[name].device.channels["serial"].send(name.encode())
    assert [b"one"] == sent.pieces


def test_reset_resets_all_devices_and_power_on_the_clock() -> None:
    """A reset keeps time; a power-on begins at 0."""
    rig = cells(one=0, two=8)
    rig.machine.write(Space.PIO, 0, 8, 1)
    rig.machine.clock.advance_to(1000)
    rig.machine.reset()
    assert (0, 1000) == (rig.machine.read(Space.PIO, 0, 8), rig.machine.clock.now_ns)
    rig.machine.power_on(virtual=True)
    assert 0 == rig.machine.clock.now_ns


# --- building --------------------------------------------------------------------------------


class Broken(Device):
    """Cannot be made."""

    length = 1

    def __init__(self, _context: object, _config: object) -> None:
        raise ZeroDivisionError("no reason")


def test_everything_that_cannot_be_built_is_told_at_once() -> None:
    """Unknown regions, failing classes, overlaps in two spaces: each with its names."""
    with pytest.raises(MachineError) as raised:
        Rig(
            {
                "a": (Cell, at(Space.PIO, 0)),
                "b": (Cell, at(Space.PIO, 7)),
                "c": (Cell, at(Space.MMIO, (1 << 64) - 4)),
                "d": (Cell, at(Space.PIO, 0x100, "registers", "test/cell")),
                "e": (Broken, at(Space.PIO, 0x200, plugin="test/broken")),
            }
        )
    assert (
        "d: test/cell has no region registers; it has main",
        "e: test/broken: ZeroDivisionError: no reason",
        "c.main at 0xfffffffffffffffc..0x10000000000000003 leaves MMIO, which ends at 0xffffffffffffffff",
        "b.main at 0x7..0xe overlaps a.main at 0x0..0x7 in PIO",
    ) == raised.value.problems


def test_wrong_wires_and_overlaps_are_told_together() -> None:
    """A wire does not hide behind an overlap."""
    with pytest.raises(MachineError) as raised:
        Rig({"a": (Cell, at(Space.PIO, 0)), "b": (Cell, at(Space.PIO, 7))}, {"a.int": "vcpu0.intr"})
    assert [True, True] == [
        "overlaps" in raised.value.problems[0],
        "no output a.int" in raised.value.problems[1],
    ]


@pytest.mark.parametrize("name", ["", "a.b", "vcpu0", "hypervisor", "-", "x" * 32, "uart 0", "uart0\n"])
def test_device_names_are_words(name: str) -> None:
    """A name is part of wires, events and commands."""
    with pytest.raises(ValueError, match="a device's name is 1 to 31 letters"):
        MachineDescription({name: at(Space.PIO, 0)})
    MachineDescription({"vcpu0-x": at(Space.PIO, 0), "hypervisors": at(Space.PIO, 8)})


def test_slot_places_the_configuration_space() -> None:
    """A PCI function without that region is a mistake of the machine file."""
    with pytest.raises(MachineError, match="x: test/x has no region config_space; it has main"):
        Rig({"x": (Cell, DeviceDescription("test/x", slot=0x1800))})


class Guide(Device):
    """Tells the guest where others are."""

    length = 1

    def announced(self) -> Mapping[str, tuple[Space, int]]:  # noqa: D102
        return {"cell": (Space.PIO, 7), "ram": (Space.MMIO, 0x1000)}


def test_devices_must_be_where_others_tell_the_guest_that_they_are() -> None:
    """Anywhere in a region will do; the message has the key of what is wrong."""
    guide = (Guide, at(Space.PIO, 0x100))
    with pytest.raises(MachineError) as raised:
        Rig({"guide": guide, "cell": (Cell, at(Space.PIO, 0))})
    assert ("guide: ram says mmio:0x1000, where no device is",) == raised.value.problems
    Rig({"guide": guide, "cell": (Cell, at(Space.PIO, 0)), "ram": (Cell, at(Space.MMIO, 0x1000))})
