"""One device goes to another machine: what it is there, what is refused, and a device that stands still."""

from __future__ import annotations

import zlib

import pytest
from attrs import define, field

from mmiod.core.ports import RequestQueue
from mmiod.device import Device, Effect, IrqInput, IrqOutput, Register, Requests, Stream, Timer
from mmiod.errors import RestoreError
from mmiod.machine.description import DeviceDescription
from mmiod.machine.machine import Machine
from mmiod.machine.migration import MAX_DOCUMENT, busy, hold, migrates, pack, release, settle_in, unpack
from mmiod.machine.ports import BackendStatus, Keeping
from tests.machine.machines import Rig

SECOND = 1_000_000_000


@define
class DiaryState:
    """What is in no register."""

    entries: list[str] = field(factory=list)


class Diary(Device):
    """Writes down what it was given, in order."""

    length = 8
    number = Register(0, size=4, reset=7)
    alarm = Timer()
    line = IrqInput()
    out = IrqOutput()
    serial = Stream()
    disk = Requests({"read": Effect.IDEMPOTENT})
    state: DiaryState

    @line.on_change
    def _line(self, level: bool) -> None:
        self.state.entries.append(f"line {level:d}")

    @alarm.on_fire
    def _alarm(self) -> None:
        self.state.entries.append("alarm")

    @serial.on_receive
    def _serial(self, data: bytes) -> None:
        self.state.entries.append(data.decode())

    @disk.on_reply
    def _reply(self, number: int, data: bytes) -> None:
        self.state.entries.append(f"{number} {data.decode()}")


class Other(Diary):
    """Another plugin."""


def machine_with(name: str, plugin: type[Diary] = Diary, now_ns: int = 0) -> Machine:
    """A machine of one diary and a switch on its line, at a time."""
    described: dict[str, tuple[type[Device], DeviceDescription]] = {
        name: (plugin, DeviceDescription(plugin.__name__.lower())),
        "switch": (Diary, DeviceDescription("diary")),
    }
    machine = Rig(described, {"switch.out": f"{name}.line"}).machine
    machine.clock.advance_to(now_ns)
    return machine


def diary(machine: Machine, name: str) -> Diary:
    """The device."""
    device = machine.hosts[name].device
    assert isinstance(device, Diary)
    return device


def test_a_device_is_what_it_was_under_another_name_and_at_another_time() -> None:
    """Registers, state and lines are equal; the alarm has the time that it had left."""
    source, target = machine_with("one", now_ns=50 * SECOND), machine_with("two", now_ns=3 * SECOND)
    before, after = diary(source, "one"), diary(target, "two")
    before.number, before.state.entries = 1234, ["all", "of", "it"]
    before.alarm.set(52 * SECOND)
    before.out.set_level(True)
    hold(target.hosts["two"])
    settle_in(target, "two", unpack(target, "two", pack(source, "one")))
    assert (1234, ["all", "of", "it"]) == (after.number, after.state.entries)
    assert after.out.level
    release(target, target.hosts["two"])
    target.clock.advance_to(5 * SECOND - 1)
    assert "alarm" not in after.state.entries
    target.clock.advance_to(5 * SECOND)
    assert ["all", "of", "it", "alarm"] == after.state.entries


def test_who_stands_still_gets_no_input() -> None:
    """What came meanwhile comes when it goes on: levels as they are then, the rest in order."""
    machine = machine_with("one")
    host, device = machine.hosts["one"], diary(machine, "one")
    device.alarm.set(SECOND)
    device.disk.send("read", b"")
    hold(host)
    machine.clock.advance_to(2 * SECOND)
    for level in (True, False, True):
        diary(machine, "switch").out.set_level(level)
    host.reply("disk", 1, b"answer")
    host.receive("serial", b"bytes")
    assert 0 == host.room("serial")
    assert [] == device.state.entries
    release(machine, host)
    machine.clock.fire_due()
    assert ["line 1", "1 answer", "bytes", "alarm"] == device.state.entries
    assert host.room("serial") is None


def test_a_reset_ends_the_standstill() -> None:
    """What came meanwhile is forgotten, as all else."""
    machine = machine_with("one")
    host, device = machine.hosts["one"], diary(machine, "one")
    hold(host)
    host.receive("serial", b"bytes")
    host.reset()
    assert not host.missed
    host.receive("serial", b"more")
    assert ["more"] == device.state.entries


def test_a_device_that_failed_stays_out_of_service_when_it_is_let_go() -> None:
    """Its restart is another's business, and begins where it last was well."""
    machine = machine_with("one")
    host = machine.hosts["one"]
    host.cut()
    hold(host)
    host.quarantine(RuntimeError("broken"))
    before = host.journal.snapshot
    release(machine, host)
    assert before is host.journal.snapshot
    assert not host.serves
    assert not host.held


def test_what_works_for_a_device_elsewhere() -> None:
    """A request under way is waited for; what a backend keeps of its own does not go along."""
    machine = machine_with("one")
    queue = machine.services["one", "disk"] = RequestQueue(BackendStatus("disk"))
    assert migrates(machine, "one")
    assert not busy(machine, "one")
    queue.ask(1, "read", b"")
    assert busy(machine, "one")
    assert not busy(machine, "switch")
    machine.services["one", "disk"] = RequestQueue(BackendStatus("disk"), Keeping("disk", 1, {"all": 10}))
    assert not migrates(machine, "one")


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (pack(machine_with("one"), "one")[:-9], "the document is cut short"),
        (b"no zlib", "no compressed document"),
        (zlib.compress(b"{}"), "kind: None"),
        (zlib.compress(bytes(MAX_DOCUMENT + 1), 9), "or has more than"),
        (pack(machine_with("one", Other), "one"), "plugin: 'other', here it is 'diary'"),
        (
            zlib.compress(
                zlib.decompress(pack(machine_with("one"), "one")).replace(b'"number": 7', b'"n": 7')
            ),
            "registers.n: the device has none",
        ),
    ],
    ids=["cut", "garbage", "another document", "a bomb", "another plugin", "another device"],
)
def test_what_does_not_fit_is_refused(packed: bytes, reason: str) -> None:
    """The message names the place, and the device is as it was."""
    machine = machine_with("two")
    diary(machine, "two").number = 99
    with pytest.raises(RestoreError, match=reason):
        unpack(machine, "two", packed)
    assert 99 == diary(machine, "two").number
