"""`on_settle` follows each input, in every place where inputs are given."""

from __future__ import annotations

from typing import Any

from attrs import define
from hypothesis import given, settings, strategies as st

from mmiod.core.lane import Lane
from mmiod.device import Device, IrqInput, IrqOutput, Register, Stream, Timer
from mmiod.machine.backoff import FIRST_NS, MAX_ATTEMPTS
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.inputs import INPUTS
from mmiod.machine.restart import restart
from mmiod.testing.harness import Harness
from mmiod.values import READ, WRITE, Space
from tests.machine.machines import Rig


@define
class Settled:
    """How often, and when last."""

    times: int = 0
    at_ns: int = 0


class Level(Device):
    """Its line is high while something is there: nothing but `on_settle` drives it."""

    length = 4
    state: Settled
    irq = IrqOutput()
    wake = IrqInput()
    late = Timer()
    line = Stream()
    level = Register(0)
    delay = Register(1)
    broken = Register(2, access="w")

    @delay.on_write
    def _delayed(self, value: int) -> None:
        self.late.set(self.clock.now_ns + value)

    @broken.on_write
    def _break(self, _value: int) -> None:
        raise RuntimeError("broken")

    @late.on_fire
    def _late(self) -> None:
        self.level ^= 1

    @wake.on_change
    def _woken(self, level: bool) -> None:
        self.level |= level << 1

    @line.on_receive
    def _received(self, data: bytes) -> None:
        self.level = data[-1]

    def on_settle(self) -> None:
        """What follows."""
        self.state.times += 1
        self.state.at_ns = self.clock.now_ns
        self.irq.set_level(bool(self.level))


def test_every_input_settles() -> None:
    """Accesses, time, lines, bytes and a reset, each once."""
    device = Harness(Level)
    assert (1, False) == (device.device.state.times, device.levels["irq"])
    device.write("level", 4)
    assert (2, True) == (device.device.state.times, device.levels["irq"])
    device.write("level", 0)
    device.read("level")
    assert (4, False) == (device.device.state.times, device.levels["irq"])
    device.write("delay", 100)
    device.advance(100)
    assert (6, 100, True) == (device.device.state.times, device.device.state.at_ns, device.levels["irq"])
    device.receive("line", b"\0")
    device.drive("wake", level=True)
    assert (8, True) == (device.device.state.times, device.levels["irq"])


def test_every_kind_of_input_settles() -> None:
    """No row of the table is left out."""
    counted = []

    class Fake:
        """Answers everything."""

        def __getattr__(self, name: str) -> Any:  # noqa: ANN401
            return Fake()

        def __call__(self, *_: object) -> Any:  # noqa: ANN401
            return Fake()

        def __getitem__(self, _: object) -> Any:  # noqa: ANN401
            return Fake()

        def on_settle(self) -> None:
            """Count."""
            counted.append(self)

    rest = {"read": 3, "write": 4, "read_batch": 5, "write_batch": 5, "enqueue": 3, "reset": 0, "fire": 1}
    arguments = {
        **rest,
        "acknowledge": 1,
        "rewind": 0,
        "restart": 0,
        "deliver": 2,
        "receive": 2,
        "reply": 3,
        "fail": 3,
    }
    for kind, perform in INPUTS.items():
        if kind in {"enqueue", "receive", "acknowledge", "rewind"}:
            continue  # they look hooks up by name: `test_every_input_settles`, or change no state
        counted.clear()
        perform(Fake(), *["x"] * arguments[kind])
        assert 1 == len(counted), kind


STEPS = st.lists(
    st.tuples(st.sampled_from(["level", "delay", "read", "wait", "receive"]), st.integers(0, 255)),
    max_size=20,
)


@settings(max_examples=50)
@given(steps=STEPS)
def test_a_device_that_comes_back_has_settled_as_often(steps: list[tuple[str, int]]) -> None:
    """The journal's replay asks the clock again in `on_settle`, and gets the same answers."""
    made = Rig({"dev": (Level, DeviceDescription("dev", at={"main": Placement(Space.MMIO, 0)}))})
    host = made.machine.hosts["dev"]
    for name, value in steps:
        if name == "wait":
            made.machine.clock.advance_to(made.machine.clock.now_ns + value)
        elif name == "receive":
            host.receive("line", bytes((value,)))
        elif name == "read":
            made.access(Space.MMIO, 0, 1, READ)
        else:
            made.access(Space.MMIO, ["level", "delay"].index(name), 1, WRITE, value)
    before = host.device.state
    line = host.device.lines["irq"].level
    made.access(Space.MMIO, 2, 1, WRITE, 1)
    assert "RuntimeError: broken" == host.failure
    made.now += FIRST_NS << MAX_ATTEMPTS
    restart(made.machine, *made.machine.backoff.ready())
    assert host.serves
    assert (before, line) == (host.device.state, host.device.lines["irq"].level)
    assert before is not host.device.state


def test_the_flat_lane_settles_too() -> None:
    """The short way of an access, which goes round the table of inputs, leaves the same state."""
    found = []
    for flat in (False, True):
        made = Rig({"dev": (Level, DeviceDescription("dev", at={"main": Placement(Space.MMIO, 0)}))})
        made.machine.power_on(virtual=False)
        made.machine.clock.go()
        lane = Lane(made.machine)
        place = lane.learn(Space.MMIO, WRITE, 1, 0)
        assert place is not None
        if flat:
            assert 0 == lane.access(place, 5, 0, 0, 0)
        else:
            made.access(Space.MMIO, 0, 1, WRITE, 5)
        host = made.machine.hosts["dev"]
        found.append((host.device.state, host.device.lines["irq"].level, host.journal.entries))
    assert found[0] == found[1]
    assert found[0][1]
