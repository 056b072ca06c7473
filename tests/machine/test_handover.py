"""A hand-over to the same class is no event for the guest, whenever it comes."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.device import Device, Effect, IrqInput, IrqOutput, Pending, Region, Requests, Stream
from mmiod.device.pci import Bar, Identity, PciFunction
from mmiod.device.saved import Saved
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.handover import NotReady, prepare
from mmiod.machine.state import save
from mmiod.machine.waist import Busy
from mmiod.plugins.loader import Source, make
from mmiod.values import READ, WRITE, Space
from tests.machine.machines import Rig
from tests.plugins.reloading import CELL

SOURCE = Source("cell", "cell.py", {"cell.py": CELL.encode()})
GENERATIONS = [make(SOURCE) for _ in range(4)]
PORTS = st.sampled_from([base + n for base in (0x100, 0x200) for n in (0, 1, 2, 2, 3)])
ACTS = st.lists(
    st.tuples(st.just("access"), PORTS, st.none() | st.integers(0, 255))
    | st.tuples(st.just("time"), st.integers(0, 3000), st.none())
    | st.tuples(st.just("swap"), st.sampled_from(["a", "b"]), st.none()),
    max_size=60,
)


def lived(acts: list[tuple[str, Any, Any]], *, swapping: bool) -> tuple[object, ...]:
    """Everything that can be seen of two wired cells."""
    cells = {
        name: (GENERATIONS[0], DeviceDescription("cell", {"ports": Placement(Space.PIO, base)}))
        for name, base in (("a", 0x100), ("b", 0x200))
    }
    rig = Rig(cells, {"a.irq": ("b.ack", "vcpu0.intr"), "b.irq": "hypervisor.3"})
    machine, generations = rig.machine, cycle(GENERATIONS[1:])
    seen: list[object] = []
    for act, what, value in acts:
        if act == "swap" and swapping:
            prepare(machine, next(generations), {what: None}).commit(2)
        elif act == "time":
            machine.clock.advance_to(machine.clock.now_ns + what)
        elif act == "access":
            answer = rig.access(Space.PIO, what, 1, READ if value is None else WRITE, value or 0)
            seen.append(answer.name if isinstance(answer, Pending | Busy) else answer)
        seen.append([(host.name, given) for host, given in machine.settled])
        machine.settled.clear()
    owing = [host.name for host in machine.hosts.values() if host.owes is not None]
    records = [(*record[:10], *record[11:13]) for record in rig.records]
    return seen, owing, records, rig.outlet.signals, save(machine), list(machine.clock.armed)


@settings(max_examples=150)
@given(acts=ACTS)
def test_swapped_generations_cannot_be_told_from_one_that_stays(acts: list[tuple[str, Any, Any]]) -> None:
    """At any points, also while an access waits: answers, order, traffic, signals, timers, saved state."""
    assert lived(acts, swapping=False) == lived(acts, swapping=True)


# --- what others use ---------------------------------------------------------------------


class Whole(Device):
    """All that can be used of a device."""

    ports = Region(4)
    irq = IrqOutput()
    ack = IrqInput()
    serial = Stream()
    disk = Requests({"read": Effect.IDEMPOTENT, "write": Effect.IDEMPOTENT})


class Bare(Device):
    """Nothing of it, and `migrate` lets all go."""

    schema = 2
    other = Region(4)

    @classmethod
    def migrate(cls, saved: Saved, schema: int) -> None:  # noqa: ARG003
        """Drop everything."""
        for part in (saved.lines, saved.inputs, saved.requests):
            part.clear()


class Fewer(Whole):
    """Without one kind of request."""

    disk = Requests({"read": Effect.IDEMPOTENT})


class Port:
    """The near end of a backend: it keeps what it is sent."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []

    def put(self, data: bytes) -> None:
        """Keep it."""
        self.taken.append(data)

    def ready(self) -> None:
        """The device may have room."""

    def disown(self, last: int) -> None:
        """There are no requests."""


def whole() -> Rig:
    """A device whose parts are all in use."""
    rig = Rig(
        {"a": (Whole, DeviceDescription("whole", {"ports": Placement(Space.PIO, 0)}))}, {"a.irq": "a.ack"}
    )
    rig.machine.backends["a", "serial"] = Port()  # type: ignore[assignment]
    rig.machine.services["a", "disk"] = Port()  # type: ignore[assignment]
    return rig


@pytest.mark.parametrize(
    ("plugin", "missing"),
    [(Bare, "irq, ack, serial, ports, disk 'read', disk 'write'"), (Fewer, "disk 'write'")],
)
def test_what_is_in_use_must_stay(plugin: type[Device], missing: str) -> None:
    """Wired lines, connected streams, kinds of requests, regions that the machine file places."""
    rig = whole()
    with pytest.raises(NotReady, match=f"a: the machine uses {missing}, the new class has none"):
        prepare(rig.machine, plugin, {"a": None})
    assert isinstance(rig.machine.hosts["a"].device, Whole)


def test_migrate_is_asked_step_by_step() -> None:
    """Up by the new class, down by the old one; without it nothing leads there."""
    asked = []

    class First(Device):
        length = 1

    class Third(Device):
        length = 1
        schema = 3

        @classmethod
        def migrate(cls, saved: Saved, schema: int) -> None:
            asked.append((saved.schema, schema))

    class Second(Device):
        length = 1
        schema = 2

    rig = Rig({"a": (First, DeviceDescription("a"))})
    prepare(rig.machine, Third, {"a": None}).commit(2)
    prepare(rig.machine, First, {"a": None}).commit(3)
    assert [(1, 2), (2, 3), (3, 2), (2, 1)] == asked
    with pytest.raises(NotReady, match="nothing leads from schema 1 to 2"):
        prepare(rig.machine, Second, {"a": None})


# --- regions -------------------------------------------------------------------------------


def function(length: int | None) -> type[PciFunction]:
    """A function with a BAR of so many bytes, or without."""
    bar = {} if length is None else {"window": Bar(length, number=0)}
    return type("Function", (PciFunction,), {"identity": Identity(1, 2, 3), **bar})


def test_bar_follows_the_class() -> None:
    """Its length is the new one where it is, at once; without the BAR nobody is there."""
    rig = Rig({"f": (function(0x1000), DeviceDescription("f", slot=0))})
    for offset, size, value in ((0x10, 4, 0xF000_0000), (0x04, 2, 2)):
        rig.machine.write(Space.PCI_CONFIG, offset, size, value)
    prepare(rig.machine, function(0x2000), {"f": None}).commit(2)
    assert 0xF000_2000 == rig.machine.find(Space.MMIO, 0xF000_1000).end
    assert ("map",) == rig.outlet.signals[-1]
    with pytest.raises(NotReady, match=r"registers\.bar0: the new class has none"):
        prepare(rig.machine, function(None), {"f": None})
    prepare(rig.machine, function(None), {"f": None}, drop=True).commit(3)
    assert rig.machine.find(Space.MMIO, 0xF000_0000).claim is None


def test_nothing_of_a_device_that_is_not_put_in_service_gets_out() -> None:
    """What it does while it is made waits for the commit."""

    class Loud(Whole):
        def on_reload(self) -> None:
            self.irq.set_level(True)
            self.serial.send(b"hello")
            self.context.notify("loud")

    rig = whole()
    handover = prepare(rig.machine, Loud, {"a": None})
    port = rig.machine.backends["a", "serial"]
    assert ([], False) == (rig.events, rig.machine.hosts["a"].device.inputs["ack"])
    handover.commit(2)
    assert ([("loud", {"device": "a"})], True) == (rig.events, rig.machine.hosts["a"].device.inputs["ack"])
    assert [b"hello"] == port.taken  # type: ignore[attr-defined]
