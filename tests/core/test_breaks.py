"""Accesses that stand at a break while what is around them changes."""

from __future__ import annotations

import pytest

from mmiod.core.run import Platform, run
from mmiod.device import PENDING, Device, Pending
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.stop import Break, Stop
from mmiod.values import READ, DecodedExit, Space, Values
from tests.machine.machines import Rig

BASE = 0x1000


class Echo(Device):
    """Reads the offset at each byte."""

    length = 8

    def read(self, offset: int, size: int) -> int:
        """A read."""
        return int.from_bytes(range(offset, offset + size), "little")

    def write(self, _offset: int, _size: int, _value: int) -> None:
        """A write."""


class Owing(Device):
    """Owes every answer."""

    length = 8

    def read(self, _offset: int, _size: int) -> Pending:
        """A read."""
        return PENDING

    def write(self, _offset: int, _size: int, _value: int) -> None:
        """A write."""


def at(base: int) -> DeviceDescription:
    """A device's place."""
    return DeviceDescription("test/echo", at={"main": Placement(Space.MMIO, base)})


@pytest.mark.parametrize("how", ["continued", "cleared", "timeout"])
def test_an_access_whose_device_moved_meanwhile_stops_once(how: str) -> None:
    """It covers two ranges by then: each has its part, without another stop, and it is told once."""
    rig = Rig({"echo": (Echo, at(BASE))})
    machine, wish = rig.machine, Break("echo")
    machine.breaks.add(wish)
    running = run(machine, DecodedExit(0, 1, Space.MMIO, READ, BASE, 8), Platform(), 16)
    stop = next(running)
    assert isinstance(stop, Stop)
    machine.place("echo", Echo.regions["main"], Space.MMIO, BASE + 4)
    machine.breaks.end(stop, how)  # type: ignore[arg-type]

    with pytest.raises(StopIteration) as finished:
        running.send(None)

    assert Values(b"\xff\xff\xff\xff\x00\x01\x02\x03") == finished.value.value
    assert ([], 2) == (machine.breaks.stops, len(wish.news))


def test_an_access_of_two_devices_stops_at_each() -> None:
    """What covers two ranges from the start has a stop of its own in each that is broken."""
    rig = Rig({"low": (Echo, at(BASE)), "high": (Echo, at(BASE + 8))})
    machine = rig.machine
    for name in ("low", "high"):
        machine.breaks.add(Break(name))
    running = run(machine, DecodedExit(0, 1, Space.MMIO, READ, BASE + 4, 8), Platform(), 16)
    for name in ("low", "high"):
        stop = next(running)
        assert isinstance(stop, Stop)
        assert stop.name == name
        machine.breaks.end(stop, "continued")
    with pytest.raises(StopIteration) as finished:
        next(running)
    assert Values(bytes((4, 5, 6, 7, 0, 1, 2, 3))) == finished.value.value


@pytest.mark.parametrize("begin", [False, True], ids=["before", "while it waits"])
def test_an_access_that_waited_for_its_device_goes_on_without_a_stop(*, begin: bool) -> None:
    """It stands behind another one's answer, and the map moves: it had its stop, or came before the break."""
    rig = Rig({"owing": (Owing, at(BASE))})
    machine, host = rig.machine, rig.machine.hosts["owing"]
    exits = [DecodedExit(vcpu, 1, Space.MMIO, READ, BASE, 8) for vcpu in (0, 1)]
    first, second = (run(machine, exit_, Platform(), 16) for exit_ in exits)
    assert next(first) is host
    if not begin:
        machine.breaks.add(Break("owing"))
        stop = next(second)
        assert isinstance(stop, Stop)
        machine.breaks.end(stop, "continued")
    assert second.send(None) is host
    if begin:
        machine.breaks.add(Break("owing"))
    host.device.complete(7)
    with pytest.raises(StopIteration):
        first.send(7)
    machine.place("owing", Owing.regions["main"], Space.MMIO, BASE + 4)

    assert second.send(None) is host  # its part owes an answer again: it asked, and did not stop
