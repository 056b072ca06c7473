"""Devices that fail come back as they were: from a snapshot and the journal."""

from __future__ import annotations

import json
from typing import Any

import attrs
import pytest
from hypothesis import example, given, settings, strategies as st

from mmiod.device import (
    PENDING,
    Device,
    Effect,
    IrqInput,
    IrqOutput,
    Pending,
    Register,
    Requests,
    Stream,
    Timer,
)
from mmiod.machine.backoff import FIRST_NS, FORGIVEN_NS, MAX_ATTEMPTS
from mmiod.machine.description import DeviceDescription, Placement
from mmiod.machine.host import InlineHost
from mmiod.machine.journal import BYTES_PER_ENTRY, DONE
from mmiod.machine.machine import Machine
from mmiod.machine.ports import BackendStatus
from mmiod.machine.restart import restart
from mmiod.machine.slot import Slot
from mmiod.machine.state import save
from mmiod.machine.waist import BUSY
from mmiod.values import READ, WRITE, Space
from tests.machine.machines import Rig
from tests.machine.test_state import ACCESSES, BAR, Ram, pc

MMIO = Space.MMIO


@attrs.define
class Seen:
    """What the device below remembers."""

    times: list[int] = attrs.Factory(list)
    data: bytes = b""
    rings: int = 0


class Model(Device):
    """Reads the clock, the memory and a neighbour; fails when it is told to."""

    length = 0x20
    state: Seen
    irq = IrqOutput()
    wake = IrqInput()
    tick = Timer()
    line = Stream()
    disk = Requests({"get": Effect.IDEMPOTENT})
    scratch = Register(0, size=4)
    broken = Register(4, size=4)
    now = Register(8, size=4)
    dma = Register(0xC, size=4)
    timer = Register(0x10, size=4)
    level = Register(0x14, size=4)
    answer = Register(0x18, size=4)
    peer = Register(0x1C, size=4)

    @broken.on_write
    def _fail(self, value: int) -> None:
        self.state.rings = 99
        self.irq.set_level(True)
        raise RuntimeError(f"broken by {value}")

    @broken.on_read
    def _nothing(self) -> Any:  # noqa: ANN401
        self.state.rings = 98
        return "no number"

    @now.on_write
    def _note(self, value: int) -> None:
        self.state.times = [*self.state.times[-3:], value + self.clock.now_ns, self.clock.wall_s]

    @dma.on_write
    def _fetch(self, value: int) -> None:
        self.state.data = self.memory.read(value, 4)
        self.memory.write(value, b"done")

    @timer.on_write
    def _set(self, value: int) -> None:
        self.tick.set(value)

    @tick.on_fire
    def _tick(self) -> None:
        if self.scratch == 0xDEAD:
            raise RuntimeError("a timer")
        self.state.rings += 1
        self.tick.set(self.clock.now_ns + 100)

    @level.on_write
    def _drive(self, value: int) -> None:
        self.irq.set_level(bool(value))

    @wake.on_change
    def _wake(self, level: bool) -> None:
        self.state.rings += 10 + level
        if self.scratch == 0xBAD:
            raise RuntimeError("a line")

    @line.on_receive
    def _receive(self, data: bytes) -> None:
        self.state.data += data

    @line.room
    def _room(self) -> int:
        return 16

    @answer.on_read
    def _ask(self) -> Pending:
        self.disk.send("get")
        return PENDING

    @disk.on_reply
    def _reply(self, number: int, data: bytes) -> None:
        self.complete(number << 8 | data[0])

    @peer.on_write
    def _relay(self, value: int) -> None:
        self.state.rings += self.bus.read(Space.MMIO, value, 1)


@attrs.define(eq=False)
class Port:
    """A backend's near end that keeps what it is asked."""

    status: BackendStatus = attrs.Factory(lambda: BackendStatus("fake"))
    asked: list[int] = attrs.Factory(list)
    readied: int = 0
    keeping: None = None
    busy: bool = False

    def ask(self, number: int, _kind: str, _data: bytes) -> None:
        """Keep it."""
        self.asked.append(number)

    def put(self, data: bytes) -> None:
        """Nothing is sent."""
        raise AssertionError(data)

    def disown(self, last: int) -> None:
        """Forget what the device does not know."""
        self.asked = [number for number in self.asked if number <= last]

    def ready(self) -> None:
        """Count it."""
        self.readied += 1


def rig(wires: dict[str, str] | None = None) -> tuple[Rig, InlineHost, Port]:
    """A model at 0 and a byte of RAM-like register behind it."""
    made = Rig(
        {
            "dev": (Model, DeviceDescription("dev", at={"main": Placement(MMIO, 0)})),
            "other": (Model, DeviceDescription("other", at={"main": Placement(MMIO, 0x100)})),
        },
        wires or {"dev.irq": "vcpu0.intr", "other.irq": "dev.wake"},
    )
    port = Port()
    made.machine.services["dev", "disk"] = port  # type: ignore[assignment]
    made.machine.backends["dev", "line"] = port
    return made, made.machine.hosts["dev"], port


def write(made: Rig, address: int, value: int) -> None:
    """A guest's write of 4 bytes."""
    made.access(MMIO, address, 4, WRITE, value)


def read(made: Rig, address: int) -> object:
    """A guest's read of 4 bytes."""
    return made.access(MMIO, address, 4, READ)


def come_back(made: Rig, device: str = "dev") -> None:
    """The host's time passes, and what is due is done as the core's task does."""
    made.now += FIRST_NS << MAX_ATTEMPTS
    for due in made.machine.backoff.ready():
        assert device == due
        restart(made.machine, due)


# --- what is restored -----------------------------------------------------------------------


def test_device_comes_back_as_it_was_before_the_input_that_failed() -> None:
    """Registers and state are as before; that the hook had changed some of it is undone."""
    made, host, _ = rig()
    write(made, 0, 0x1234)
    made.machine.clock.advance_to(50)
    write(made, 8, 7)
    times = list(host.device.state.times)
    write(made, 4, 5)
    assert 0xFFFF_FFFF == read(made, 0)

    come_back(made)

    assert (0x1234, 0) == (read(made, 0), host.device.state.rings)
    assert times == host.device.state.times
    assert [("device_quarantined", "RuntimeError: broken by 5"), ("device_restarted", None)] == [
        (event, fields.get("reason")) for event, fields in made.events
    ]
    assert {"device": "dev", "attempt": 1, "replayed": 3} == made.events[1][1]


def test_wrong_answer_is_not_lived_through_again() -> None:
    """The hook that answered no number had ended: what it changed is undone all the same."""
    made, host, _ = rig()
    assert 0xFFFF_FFFF == read(made, 4)
    assert 98 == host.device.state.rings
    come_back(made)
    assert (None, 0) == (host.failure, host.device.state.rings)


def test_answers_are_those_that_the_device_had() -> None:
    """Guest memory and the clock have changed since; a replay does not look at them, nor writes."""
    made, host, _ = rig()
    ram = Ram()
    made.machine.memory.add(Slot(0, 0x1000, 0x1000, False, ram))
    ram.write(0, b"once")
    write(made, 0xC, 0x1000)
    write(made, 0x1C, 0x100)
    assert b"done" == ram.read(0, 4)
    ram.write(0, b"anew")
    rings = host.device.state.rings
    write(made, 0x100, 0x55)
    write(made, 4, 0)

    come_back(made)

    assert (b"once", b"anew") == (host.device.state.data, ram.read(0, 4))
    assert (None, rings) == (host.failure, host.device.state.rings)


def test_outputs_do_not_go_out_again_and_lines_are_as_the_device_has_them() -> None:
    """An interrupt that was asserted falls with the quarantine and is there again afterwards."""
    made, _, _ = rig()
    write(made, 0x14, 1)
    write(made, 4, 0)
    assert [("intr", 0, True), ("intr", 0, False)] == made.outlet.signals
    come_back(made)
    assert [("intr", 0, True), ("intr", 0, False), ("intr", 0, True)] == made.outlet.signals


def test_timers_go_on() -> None:
    """A timer that was set fires after the restart; one that was due meanwhile fires late, once."""
    made, host, _ = rig()
    write(made, 0x10, 100)
    write(made, 4, 0)
    made.machine.clock.advance_to(150)
    come_back(made)
    assert 0 == host.device.state.rings
    made.machine.clock.advance_to(249)
    assert 1 == host.device.state.rings
    made.machine.clock.advance_to(250)
    assert 2 == host.device.state.rings


def test_timer_at_which_a_device_failed_does_not_fire_again() -> None:
    """The input is spent: else the device would fail at it until it is abandoned."""
    made, host, _ = rig()
    write(made, 0, 0xDEAD)
    write(made, 0x10, 100)
    made.machine.clock.advance_to(100)
    assert "RuntimeError: a timer" == host.failure
    come_back(made)
    made.machine.clock.advance_to(10_000)
    assert (True, None) == (host.serves, host.device.alarms["tick"].deadline_ns)


def test_level_that_changed_meanwhile_is_told() -> None:
    """Once, and only if it is another one than the device knew."""
    made, host, _ = rig()
    write(made, 4, 0)
    write(made, 0x114, 1)
    come_back(made)
    assert (11, {"wake": True}) == (host.device.state.rings, host.device.inputs)
    write(made, 4, 0)
    write(made, 0x114, 0)
    write(made, 0x114, 1)
    come_back(made)
    assert 11 == host.device.state.rings


def test_level_at_which_a_device_failed_is_known() -> None:
    """It is not told again, as it would fail again."""
    made, host, _ = rig()
    write(made, 0, 0xBAD)
    write(made, 0x114, 1)
    assert "RuntimeError: a line" == host.failure
    come_back(made)
    assert (True, {"wake": True}, 0) == (host.serves, host.device.inputs, host.device.state.rings)


def test_input_within_the_devices_own_hook_is_lived_through_in_its_place() -> None:
    """A line that leads back to the device: the hook that it calls runs inside the outer one."""
    made, host, _ = rig({"dev.irq": "dev.wake"})
    write(made, 0x14, 1)
    write(made, 0x14, 0)
    assert 21 == host.device.state.rings
    write(made, 4, 0)
    come_back(made)
    assert (None, 21) == (host.failure, host.device.state.rings)


# --- accesses under way, backends, resets -----------------------------------------------------


def test_access_in_flight_is_answered_once() -> None:
    """It has all ones; when the device, restored, completes it, nobody gets a second answer."""
    made, host, port = rig()
    assert PENDING is read(made, 0x18)
    write_busy = made.access(MMIO, 0, 4, WRITE, 1)
    assert BUSY is write_busy
    host.fire("tick")
    host.quarantine(RuntimeError("elsewhere"))
    assert [(host, 0xFFFF_FFFF)] == made.machine.settled
    made.machine.settled.clear()
    come_back(made)
    assert BUSY is read(made, 0)
    host.reply("disk", port.asked[0], b"\7")
    assert ([(host, None)], None) == (made.machine.settled, host.failure)
    assert 0 == read(made, 0)


def test_answers_of_backends_wait_for_the_device() -> None:
    """What was asked before the failure and answered during quarantine reaches the device, once."""
    made, host, port = rig()
    assert PENDING is read(made, 0x18)
    host.receive("line", b"a")
    host.deliver("wake", level=True)
    write(made, 0x114, 1)
    host.quarantine(RuntimeError("elsewhere"))
    host.reply("disk", 1, b"\7")
    come_back(made)
    assert (None, [1], 1) == (host.owes, port.asked, port.readied)
    assert None is host.failure


def test_bytes_stay_in_the_backend_until_the_device_serves() -> None:
    """In quarantine there is no room; what was on its way when it failed is given afterwards."""
    made, host, port = rig()
    host.receive("line", b"a")
    write(made, 4, 0)
    assert 0 == host.room("line")
    host.receive("line", b"b")
    (due,) = [made.machine.backoff.ready() for made.now in [made.now + (FIRST_NS << MAX_ATTEMPTS)]]
    assert (["dev"], 0) == (due, host.room("line")), "it is being tried"
    restart(made.machine, "dev")
    assert (b"ab", 16, 1) == (host.device.state.data, host.room("line"), port.readied)


def test_bytes_for_a_device_that_was_given_up_are_lost() -> None:
    """The backend is told, and is not held up for ever."""
    made, host, port = rig()
    for _ in range(MAX_ATTEMPTS):
        write(made, 4, 0)
        assert 0 == host.room("line")
        come_back(made)
    readied = port.readied
    write(made, 4, 0)
    assert (None, readied + 1) == (host.room("line"), port.readied)
    host.receive("line", b"x")
    assert [] == host.missed


def test_reset_in_quarantine_comes_with_the_return() -> None:
    """The device comes back and is reset, as the rest of the machine was."""
    made, host, _ = rig()
    write(made, 0, 0x1234)
    write(made, 4, 0)
    made.machine.reset()
    assert "RuntimeError: broken by 0" == host.failure
    come_back(made)
    assert (0, True, []) == (read(made, 0), host.serves, host.missed)


# --- how often -----------------------------------------------------------------------------


def test_device_that_fails_again_and_again_is_abandoned() -> None:
    """Each pause is twice the one before; after the last attempt an event says that it stays out."""
    made, host, _ = rig()
    backoff = made.machine.backoff
    pauses = []
    for _ in range(MAX_ATTEMPTS):
        write(made, 4, 0)
        pauses.append(round(backoff.delay_s * 1e9))
        made.now += pauses[-1] - 1
        assert [] == backoff.ready()
        made.now += 1
        assert ["dev"] == backoff.ready()
        restart(made.machine, "dev")
        assert None is host.failure
    write(made, 4, 0)

    assert [FIRST_NS << n for n in range(MAX_ATTEMPTS)] == pauses
    assert ("device_abandoned", {"device": "dev", "attempts": MAX_ATTEMPTS + 1}) == made.events[-1]
    assert (float("inf"), 0xFFFF_FFFF) == (backoff.delay_s, read(made, 0))


def test_failures_of_long_ago_do_not_count() -> None:
    """A device that served for a minute has all its attempts again."""
    made, host, _ = rig()
    for _ in range(3 * MAX_ATTEMPTS):
        write(made, 4, 0)
        come_back(made)
        assert None is host.failure
        made.now += FORGIVEN_NS
    assert "device_abandoned" not in {event for event, _ in made.events}


class Fickle(Device):
    """Depends on what is not its input: the contract forbids it."""

    length = 8
    calls = 0

    def read(self, _offset: int, _size: int) -> int:
        """Fails in the first instance only, and asks the time in others only."""
        type(self).calls += 1
        return self.clock.now_ns * 0 if type(self).calls > 1 else 1

    def write(self, _offset: int, _size: int, _value: int) -> None:
        """Fail."""
        raise RuntimeError("broken")


def test_device_that_does_not_do_the_same_again_stays_out() -> None:
    """It is told as a failure of its own, which counts."""
    made = Rig({"dev": (Fickle, DeviceDescription("dev", at={"main": Placement(MMIO, 0)}))})
    made.access(MMIO, 0, 1, READ)
    made.access(MMIO, 0, 1, WRITE, 0)
    come_back(made)
    assert "DivergedError: Fickle asks what it did not ask" == made.machine.hosts["dev"].failure
    assert 2 == made.machine.backoff.attempts("dev")


# --- the journal ------------------------------------------------------------------------------


def test_journal_is_bounded_and_cut_at_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many accesses come; what follows a cut is lived through from the snapshot."""
    monkeypatch.setattr("mmiod.machine.serving.LIMIT", 20)
    made, host, _ = rig()
    longest = 0
    for value in range(1000):
        write(made, 0, value)
        write(made, 8, value)
        longest = max(longest, len(host.journal.entries))
    times = list(host.device.state.times)
    assert longest <= 20 + 4
    write(made, 4, 0)
    come_back(made)
    assert (999, times) == (read(made, 0), host.device.state.times)


def test_large_answers_weigh(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that reads much memory has its snapshots sooner."""
    monkeypatch.setattr("mmiod.machine.serving.LIMIT", 100)
    made, host, _ = rig()
    journal = host.journal
    journal.depth = 1
    journal.told(bytes(200 * BYTES_PER_ENTRY))
    journal.depth = 0
    write(made, 0, 1)
    assert [("write", ("main", 0, 4, 1)), DONE] == journal.entries


def failed(host: InlineHost) -> None:
    """Quarantine a device between two inputs."""
    host.journal.last = len(host.journal.entries)
    host.quarantine(RuntimeError("between two inputs"))


def document(machine: Machine, device: str | None = None) -> dict[str, Any]:
    """A machine's state, or a device's; timers of equal deadline in any order.

    While a device is out its lines are low, and others may take note of that.
    """
    saved: dict[str, Any] = json.loads(save(machine))
    if device is not None:
        saved["devices"] = {device: saved["devices"][device]}
    saved["timers"].sort(key=lambda timer: (timer["deadline_ns"], timer["device"], timer["timer"]))
    return saved


@settings(max_examples=30)
@given(accesses=ACCESSES, limit=st.sampled_from([1, 7, 1024]))
@example(accesses=[(0x511, 1, None, 0), (0x510, 4, None, 0)], limit=1)  # fw_cfg asks RAM's size once
def test_every_bundled_device_comes_back_as_it_was(
    accesses: list[tuple[int, int, int | None, int]], limit: int
) -> None:
    """All devices of a PC at a random moment: the state is that without a failure, to the last bit."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("mmiod.machine.serving.LIMIT", limit)
        machine = pc()
        for port, size, value, later in [*BAR, *accesses]:
            machine.clock.advance_to(machine.clock.now_ns + later)
            found = machine.find(Space.PIO, port)
            machine.access(
                found, port, size, READ if value is None else WRITE, (value or 0) & (1 << 8 * size) - 1
            )

        for name, host in machine.hosts.items():
            before = document(machine, name)
            failed(host)
            restart(machine, name)
            assert before == document(machine, name)
