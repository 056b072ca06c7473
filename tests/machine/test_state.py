"""Device state as a document: what was saved comes back, what does not fit is refused whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings, strategies as st

from mmiod import config
from mmiod.core.ports import Move, RequestQueue
from mmiod.device import Device, Effect, Requests
from mmiod.errors import RestoreError
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import DeviceDescription
from mmiod.machine.machine import Machine, Record
from mmiod.machine.ports import BackendStatus, Keeping
from mmiod.machine.slot import Slot
from mmiod.machine.state import apply, check_taken, hand_over, read, restore, save
from mmiod.plugins.loader import bundled_directories, load
from mmiod.values import Space
from tests.machine.machines import Rig

PC = Path(__file__).resolve().parents[2] / "config" / "machines" / "pc.toml"
PLUGINS: dict[str, Any] = {}
DISK = Keeping("disk", 3, {"cache": 100})


class Ram:
    """Memory of a slot, kept in this process."""

    def __init__(self) -> None:
        self.data = bytearray(1 << 20)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at an offset."""
        return bytes(self.data[offset : offset + length])

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes at an offset."""
        self.data[offset : offset + len(data)] = data

    def close(self) -> None:
        """Nothing to close."""


def pc() -> Machine:
    """The bundled PC, powered on in virtual time, with 1 MiB."""
    description = config.load_machine(PC)
    for described in description.devices.values():
        PLUGINS.setdefault(described.plugin, load(described.plugin, bundled_directories()))
    parts = {
        name: (PLUGINS[described.plugin], config.configure(PLUGINS[described.plugin], described, PC.parent))
        for name, described in description.devices.items()
    }
    records: list[Record] = []
    machine = assemble(
        "vm", description, parts, MachineClock(lambda: 0, lambda: 0.0), lambda *_, **__: None, records.append
    )
    machine.memory.add(Slot(0, 0, 1 << 20, False, Ram()))
    machine.power_on(virtual=True)
    return machine


PORTS = st.sampled_from(
    [0x20, 0x21, 0xA0, 0xA1, 0x4D0, 0x40, 0x41, 0x42, 0x43, 0x60, 0x61, 0x64, 0x70, 0x71, 0x92, 0xB2]
    + [0x3F8 + n for n in range(8)]
    + [0xCF8, 0xCFC, 0xCFE, 0x402, 0x505, 0x510, 0x511]
)
ACCESSES = st.lists(
    st.tuples(
        PORTS, st.sampled_from([1, 2, 4]), st.none() | st.integers(0, 2**32 - 1), st.integers(0, 10**7)
    ),
    max_size=40,
)
BAR = (0xCF8, 4, 0x80001810, 0), (0xCFC, 4, 0xFEB00000, 0), (0xCF8, 4, 0x80001804, 0), (0xCFC, 4, 2, 0)


def drive(machine: Machine, accesses: object) -> list[int]:
    """Do accesses with time between them; what the reads gave."""
    seen = []
    for port, size, value, ns in accesses:  # type: ignore[attr-defined]
        machine.clock.advance_to(machine.clock.now_ns + ns)
        if value is None:
            seen.append(machine.read(Space.PIO, port, size))
        else:
            machine.write(Space.PIO, port, size, value & (1 << 8 * size) - 1)
    return seen


@settings(max_examples=30)
@given(before=ACCESSES, after=ACCESSES)
def test_a_restored_machine_goes_on_as_the_saved_one_would_have(before: Any, after: Any) -> None:  # noqa: ANN401
    """After any history: another machine with the state answers any future alike, and saves alike."""
    machine, other = pc(), pc()
    drive(machine, [*BAR, *before])
    document = save(machine)
    restore(other, document)
    assert save(other) == document
    assert drive(other, after) == drive(machine, after)
    assert save(other) == save(machine)


def test_regions_that_the_guest_placed_are_where_they_were() -> None:
    """A BAR decodes after a restore without a write to it."""
    machine, other = pc(), pc()
    drive(machine, BAR)
    restore(other, save(machine))
    claim = other.find(Space.MMIO, 0xFEB00000).claim
    assert claim is not None
    assert claim.host.name == "testdev"


def test_a_line_that_was_high_is_high_after_a_restore() -> None:
    """The interrupt request that was there is there, has its vector, and goes when that is taken."""
    machine, other = pc(), pc()
    pic = [(0x20, 1, 0x11, 0), (0x21, 1, 8, 0), (0x21, 1, 4, 0), (0x21, 1, 1, 0), (0x21, 1, 0xFE, 0)]
    pit = [(0x43, 1, 0x34, 0), (0x40, 1, 100, 0), (0x40, 1, 0, 0), (0x61, 1, None, 10**6)]
    drive(machine, [*pic, *pit])
    assert machine.interrupts == {0: True}
    restore(other, save(machine))
    assert other.interrupts == {0: True}
    assert other.acknowledge(0) == 8
    assert other.interrupts == {0: False}


def changed(change: Callable[[Any], None]) -> bytes:
    """A saved PC with something wrong in it."""
    data = json.loads(save(pc()))
    change(data)
    return json.dumps(data).encode()


ARMED = [{"device": "pit", "timer": "change", "deadline_ns": ns} for ns in (1, 2)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(kind="other"), "kind: 'other' is not 'mmiod-state'"),
        (lambda d: d.update(schema=1), "schema: 1, this mmiod reads 2, 3"),
        (lambda d: d["clock"].update(virtual=False), "clock.virtual: False"),
        (lambda d: d["clock"].update(now_ns="x"), "expected int at $.clock.now_ns"),
        (lambda d: d.update(timers=""), "at $.timers"),
        (lambda d: d["devices"].pop("rtc"), "devices.rtc: only the machine has it"),
        (
            lambda d: d["devices"].update(more=d["devices"]["rtc"]),
            "devices.more: only the saved state has it",
        ),
        (lambda d: d["devices"]["rtc"].update(plugin="x"), "devices.rtc.plugin: 'x'"),
        (lambda d: d["devices"]["rtc"].update(schema=9), "devices.rtc.schema: 9"),
        (
            lambda d: d["devices"]["uart0"]["registers"].update(x=1),
            "devices.uart0.registers.x: the device has none",
        ),
        (lambda d: d["devices"]["uart0"]["registers"].update(lcr=256), "devices.uart0.registers.lcr: 0x100"),
        (
            lambda d: d["devices"]["uart0"]["lines"].update(x=True),
            "devices.uart0.lines.x: the device has none",
        ),
        (lambda d: d["devices"]["uart0"]["state"].update(x=1), "devices.uart0.state"),
        (
            lambda d: d["devices"]["uart0"]["requests"].update(x=1),
            "devices.uart0.requests.x: the device has none",
        ),
        (
            lambda d: d["devices"]["uart0"]["backends"].update(x=None),
            "devices.uart0.backends.x: the device has none",
        ),
        (lambda d: d["timers"].append({"device": "pit", "timer": "x", "deadline_ns": 1}), "pit.timers.x: "),
        (lambda d: d["timers"].append({"device": "x", "timer": "x", "deadline_ns": 1}), "no device x"),
        (lambda d: d["timers"].extend(ARMED), "timers[1]: pit.change is armed twice"),
        (lambda d: d["devices"]["pit"].update(failure=7), "$.devices['pit'].failure"),
        (lambda d: d["devices"]["rtc"]["state"].update(ram="x"), "devices.rtc.state"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_touched(
    change: Callable[[Any], None], message: str
) -> None:
    """A document is refused whole."""
    machine = pc()
    drive(machine, [(0x3FB, 1, 0x83, 0), (0x43, 1, 0x34, 0), (0x40, 1, 9, 0), (0x40, 1, 0, 10**6)])
    before = save(machine)
    with pytest.raises(RestoreError) as refused:
        restore(machine, changed(change))
    assert message in str(refused.value)
    assert save(machine) == before


# --- what backends keep -----------------------------------------------------------------------


class Drive(Device):
    """Notes whether its backend came back."""

    length = 1
    disk = Requests({"read": Effect.IDEMPOTENT})
    restored: list[bool]

    def on_reset(self) -> None:
        """Ask for something."""
        self.restored = []
        self.disk.send("read")

    def on_restore(self) -> None:
        """Note it."""
        self.restored.append(self.disk.restored)


def driven(keeping: Keeping | None = DISK) -> tuple[Machine, Drive, RequestQueue]:
    """A machine with a drive, which has sent one request that was answered."""
    machine = Rig({"drive": (Drive, DeviceDescription("test/drive"))}).machine
    queue = machine.services["drive", "disk"] = RequestQueue(BackendStatus("disk"), keeping)
    device = machine.hosts["drive"].device
    assert isinstance(device, Drive)
    return machine, device, queue


@pytest.mark.parametrize("parts", [None, {"cache": b"\0\xff" * 50}])
def test_what_a_backend_keeps_goes_with_the_machine(parts: dict[str, bytes] | None) -> None:
    """It is handed to the other one's; a device is told whether it has it, and numbers go on."""
    machine, device, queue = driven()
    device.disk.number, queue.kept = 9, parts
    other, successor, others = driven()
    restoration = read(other, save(machine))
    hand_over(other, restoration)
    assert [Move(parts)] * (parts is not None) == list(others.waiting)
    others.waiting.clear()
    others.kept = parts
    check_taken(other)
    apply(other, restoration)
    assert ([parts is not None], 10) == (successor.restored, successor.disk.send("read"))


def test_what_a_backend_does_not_take_is_named() -> None:
    """With its place and the backend's words."""
    machine, _, queue = driven()
    queue.refusal = "part cache: bad header"
    with pytest.raises(RestoreError, match=r"^devices\.drive\.backends\.disk: part cache: bad header$"):
        check_taken(machine)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.update(requests={"disk": -1}), "requests.disk: -1 is no number of a request"),
        (lambda d: d.update(requests={}), "backends.disk: the device has none"),
        (lambda d: d.update(backends={}), "backends.disk: is missing"),
        (
            lambda d: d["backends"]["disk"].update(kind="tape"),
            "disk.kind: 'tape', here it is 'disk'",
        ),
        (lambda d: d["backends"]["disk"].update(schema=4), "backends.disk.schema: 4, here it is 3"),
        (lambda d: d["backends"]["disk"].update(parts={}), "backends.disk.parts.cache: is missing"),
        (lambda d: d["backends"]["disk"]["parts"].update(x=""), "backends.disk.parts.x: the device has none"),
        (
            lambda d: d["backends"]["disk"]["parts"].update(cache="0" * 130),
            "backends.disk.parts.cache: 104 bytes, at most 100",
        ),
        (lambda d: d["backends"]["disk"]["parts"].update(cache=7), "backends['disk']"),
    ],
)
def test_what_a_backend_cannot_take_is_named(change: Callable[[Any], None], message: str) -> None:
    """Names, versions and sizes are checked before anything is handed over."""
    machine, _, queue = driven()
    queue.kept = {"cache": bytes(100)}
    data = json.loads(save(machine))
    change(data["devices"]["drive"])
    with pytest.raises(RestoreError) as refused:
        read(machine, json.dumps(data).encode())
    assert message in str(refused.value)


def test_state_of_a_backend_needs_one_that_keeps_it() -> None:
    """A machine file that names another backend does not fit."""
    machine, _, queue = driven()
    queue.kept = {"cache": b""}
    with pytest.raises(RestoreError, match=r"^devices\.drive\.backends\.disk: the device has none$"):
        read(driven(None)[0], save(machine))


@pytest.mark.parametrize("document", [b"", b"[]", b"{}", b"\xff", b"7"])
def test_what_is_no_document_is_refused(document: bytes) -> None:
    """Any bytes give an error that says so."""
    with pytest.raises(RestoreError, match=r"kind|no JSON"):
        restore(pc(), document)
