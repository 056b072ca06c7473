"""A device that returns from quarantine has its doorbells, and looks for what is lost."""

from __future__ import annotations

import attrs
import pytest

from mmiod.device import Device, Register
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.handover import prepare
from mmiod.machine.host import InlineHost
from mmiod.machine.mark import HookDeadlineExceeded
from mmiod.values import WRITE, Space
from tests.machine.machines import Rig
from tests.machine.test_restart import come_back

PLAIN, BELL, BROKEN = 0, 4, 12


@attrs.define
class Seen:
    """What came."""

    bells: list[tuple[int, int]] = attrs.Factory(list)
    restarts: int = 0


class Model(Device):
    """Fails when it is told to."""

    length = 0x10
    state: Seen
    plain = Register(PLAIN, size=4)
    bells = Register(BELL, size=4, doorbell=True).array(2)
    broken = Register(BROKEN, size=4)

    @bells.on_write
    def _rung(self, number: int, value: int) -> None:
        if value == 99:
            raise HookDeadlineExceeded
        if value == 98:
            raise RuntimeError("this bell")
        self.state.bells = [*self.state.bells, (number, value)]

    @broken.on_write
    def _fail(self, value: int) -> None:
        raise RuntimeError(f"broken by {value}")

    def on_restart(self) -> None:
        """Count; what was kept is there already."""
        self.state.restarts += 1
        self.state.bells = [*self.state.bells, (-1, 0)]


def rig() -> tuple[Rig, InlineHost]:
    """One model, at 0."""
    made = Rig({"dev": (Model, DeviceDescription("dev", at={"main": Placement(Space.MMIO, 0)}))})
    return made, made.machine.hosts["dev"]


def write(made: Rig, offset: int, value: int, size: int = 4) -> None:
    """A guest's write."""
    made.access(Space.MMIO, offset, size, WRITE, value)


def test_the_last_write_to_each_doorbell_is_kept() -> None:
    """In the order of the last ones; what is written to other registers, or to a part of one, vanishes."""
    made, host = rig()
    write(made, BROKEN, 1)
    for offset, value in ((BELL, 1), (BELL + 4, 2), (BELL, 3), (PLAIN, 4)):
        write(made, offset, value)
    write(made, BELL, 5, size=2)
    come_back(made)
    assert host.serves
    assert [(1, 2), (0, 3), (-1, 0)] == host.device.state.bells
    assert 0 == host.device.values["plain"]
    assert [] == host.missed


def test_a_device_that_does_not_return_keeps_nothing() -> None:
    """Whoever forgot it does not fill its list."""
    made, host = rig()
    write(made, BROKEN, 1)
    made.machine.backoff.forget("dev")
    write(made, BELL, 1)
    assert [] == host.missed


@pytest.mark.parametrize(("value", "restarts", "serves"), [(99, 1, False), (98, 1, True)])
def test_the_doorbell_at_which_it_failed(value: int, restarts: int, serves: bool) -> None:
    """Is given once more if it was late, when it fails again; not if it raised."""
    made, host = rig()
    write(made, BELL, 1)
    write(made, BELL, value)
    come_back(made)
    if not serves:
        assert not host.serves
        come_back(made)
    assert host.serves
    assert [(0, 1), (-1, 0)] == host.device.state.bells
    assert restarts == host.device.state.restarts


def test_a_new_generation_is_told_if_the_old_one_had_failed() -> None:
    """And not if that serves."""
    made, host = rig()
    prepare(made.machine, Model, {"dev": None}).commit(2)
    assert 0 == host.device.state.restarts
    write(made, BROKEN, 1)
    write(made, BELL, 3)
    prepare(made.machine, Model, {"dev": None}).commit(3)
    assert [(0, 3), (-1, 0)] == host.device.state.bells


def test_it_is_an_input_of_the_journal() -> None:
    """A device that fails later has been told, too."""
    made, host = rig()
    write(made, BROKEN, 1)
    come_back(made)
    write(made, BROKEN, 2)
    come_back(made)
    assert 2 == host.device.state.restarts
    assert 0 == made.machine.hosts["dev"].device.values["plain"]
