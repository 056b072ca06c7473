"""Devices in processes of their own: the same device, whatever happens to its process."""

from __future__ import annotations

import functools
import os
import random
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mmiod import config
from mmiod.device import Context, Device
from mmiod.errors import MachineError
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import DeviceDescription, MachineDescription, Placement
from mmiod.machine.machine import Machine, Record
from mmiod.machine.mark import HookDeadlineExceeded
from mmiod.machine.restart import restart
from mmiod.machine.slot import Slot
from mmiod.machine.state import restore, save
from mmiod.plugins.loader import Source, bundled_directories, make, read as read_source
from mmiod.plugins.process.channel import HostEnd, WorkerEnd, WorkerGone
from mmiod.plugins.process.effects import EFFECTS, perform
from mmiod.plugins.process.host import ProcessHost, process_host
from mmiod.plugins.process.remote import RemoteContext, RemoteMemory
from mmiod.plugins.process.workers import Worker
from mmiod.trace.record import LATENCY_NS, REGISTER
from mmiod.values import READ, Space
from tests.machine.test_restart import document
from tests.machine.test_state import BAR, Ram

PC = Path(__file__).resolve().parents[2] / "config" / "machines" / "pc.toml"
ISOLATED = ("pic", "pit", "fw_cfg", "uart0", "testdev", "pci")
"""An interrupt controller, a timer, DMA, a stream, BARs and a bridge."""
DEADLINE_NS = 5_000_000_000
PORTS = (
    0x20,
    0x21,
    0x40,
    0x42,
    0x43,
    0x61,
    0x64,
    0x70,
    0x71,
    *range(0x3F8, 0x400),
    0xCF8,
    0xCFC,
    0x510,
    0x511,
)


@functools.cache
def loaded(plugin: str) -> tuple[Source, type[Device]]:
    """A bundled plugin."""
    source = read_source(plugin, bundled_directories())
    return source, make(source)


class Pc:
    """The bundled PC in virtual time, with what it told."""

    def __init__(self, isolated: tuple[str, ...]) -> None:
        description = config.load_machine(PC)
        hosts: dict[str, Any] = {}
        parts = {}
        for name, described in description.devices.items():
            source, plugin = loaded(described.plugin)
            parts[name] = (plugin, config.configure(plugin, described, PC.parent))
            if name in isolated:
                hosts[name] = partial(process_host, source, described, PC.parent, DEADLINE_NS)
        self.records: list[Record] = []
        self.events: list[str] = []
        clock = MachineClock(lambda: 0, lambda: 0.0)
        self.machine = assemble(
            "vm", description, parts, clock, self._notify, self.records.append, isolated=hosts
        )
        self.ram = Ram()
        self.machine.memory.add(Slot(0, 0, 1 << 20, False, self.ram))
        self.machine.power_on(virtual=True)

    def _notify(self, event: str, **_fields: object) -> None:
        self.events.append(event)

    def trace(self) -> list[Record]:
        """Without what differs by nature: how long it took, and which bank a register's name is of."""
        return [
            tuple("" if at in {LATENCY_NS, REGISTER} else value for at, value in enumerate(record))  # type: ignore[misc]
            for record in self.records
        ]


def host(machine: Machine, name: str) -> ProcessHost:
    """A device's host, which is one of these."""
    found = machine.hosts[name]
    assert isinstance(found, ProcessHost)
    return found


@pytest.fixture(name="isolated")
def _isolated() -> Iterator[Pc]:
    """With some devices in processes."""
    made = Pc(ISOLATED)
    yield made
    for each in made.machine.hosts.values():
        each.close()


def drive(machine: Machine, count: int, seed: int) -> list[int]:
    """Do random accesses with time between them; what reads gave."""
    chosen, seen = random.Random(seed), []
    for _ in range(count):
        port, size = chosen.choice(PORTS), chosen.choice((1, 1, 2, 4))
        machine.clock.advance_to(machine.clock.now_ns + chosen.randrange(10**6))
        if chosen.random() < 0.5:
            seen.append(machine.read(Space.PIO, port, size))
        else:
            machine.write(Space.PIO, port, size, chosen.randrange(1 << 8 * size))
        if machine.interrupts[0]:
            seen.append(machine.acknowledge(0) or 0)
    return seen


def place(machine: Machine) -> None:
    """Program the test function's BAR."""
    for port, size, value, _ in BAR:
        machine.write(Space.PIO, port, size, value)


def copy_by_dma(made: Pc) -> bytes:
    """The signature that fw_cfg writes to guest memory (QEMU docs/specs/fw_cfg.rst, "Guest-side DMA")."""
    made.ram.write(
        0x1000, (0x0000000A).to_bytes(4, "big") + (4).to_bytes(4, "big") + (0x2000).to_bytes(8, "big")
    )
    made.machine.write(Space.PIO, 0x514, 4, 0)
    made.machine.write(Space.PIO, 0x518, 4, int.from_bytes((0x1000).to_bytes(4, "big"), "little"))
    return made.ram.read(0x2000, 4)


def test_device_in_a_process_is_the_same_device(isolated: Pc) -> None:
    """Reads, interrupts, timers, DMA, BARs, the trace and the saved state are those of an inline device."""
    inline = Pc(())
    for each in (isolated, inline):
        place(each.machine)
        assert b"QEMU" == copy_by_dma(each)
    assert drive(inline.machine, 1500, 1) == drive(isolated.machine, 1500, 1)
    assert inline.trace() == isolated.trace()
    assert document(inline.machine) == document(isolated.machine)
    assert inline.events == isolated.events


def test_process_that_is_killed_comes_back_as_it_was(isolated: Pc) -> None:
    """By snapshot and journal, at any moment; nothing of it shows in the state."""
    machine = isolated.machine
    place(machine)
    drive(machine, 700, 2)
    for name in ISOLATED:
        before = document(machine, name)
        worker = host(machine, name).worker
        assert worker is not None
        os.kill(worker.process.pid, signal.SIGKILL)
        worker.process.wait()
        machine.hosts[name].refresh()
        assert machine.hosts[name].failure is not None
        while not host(machine, name).ready:
            os.sched_yield()
        restart(machine, name)
        assert None is machine.hosts[name].failure
        assert before == document(machine, name)


def test_saved_machine_goes_on_in_processes_and_back(isolated: Pc) -> None:
    """A document of inline devices fits isolated ones, with timers, lines and BARs; and back."""
    inline, other = Pc(()), Pc(())
    place(inline.machine)
    drive(inline.machine, 300, 3)
    restore(isolated.machine, save(inline.machine))
    assert save(inline.machine) == save(isolated.machine)
    assert drive(inline.machine, 300, 4) == drive(isolated.machine, 300, 4)
    restore(other.machine, save(isolated.machine))
    assert save(inline.machine) == save(other.machine)


def test_registers_are_inspected_without_the_mirror(isolated: Pc) -> None:
    """What a person sees is what the device has; which bank is meant the record leaves open."""
    machine = isolated.machine
    machine.write(Space.PIO, 0x3FF, 1, 0x5A)
    uart = host(machine, "uart0")
    assert (0x5A, 0) == (uart.value_of(uart.device.declared["scr"]), uart.device.values["scr"])
    assert "rbr/dll" == uart.register_at("ports", 0, 1, READ)


def test_plugin_that_cannot_be_made_is_refused_at_start(tmp_path: Path) -> None:
    """With the reason that its process gave."""
    (tmp_path / "bad.py").write_text(
        "from mmiod.device import Device\n\n\nclass Bad(Device):\n    length = 1\n\n"
        "    def __init__(self, context: object, config: object) -> None:\n"
        "        super().__init__(context, config)\n        raise RuntimeError('no')\n\n"
        "    read = write = lambda *_: 0\n"
    )
    described = DeviceDescription("bad", at={"main": Placement(Space.PIO, 0)})
    source = read_source("bad", [tmp_path])
    plugin = make(source)
    with pytest.raises(MachineError, match="bad: bad: PluginError: RuntimeError: no"):
        assemble(
            "vm",
            MachineDescription({"bad": described}),
            {"bad": (plugin, plugin.config_class())},
            MachineClock(lambda: 0, lambda: 0.0),
            lambda *_, **__: None,
            lambda _: None,
            isolated={"bad": partial(process_host, source, described, tmp_path, DEADLINE_NS)},
        )


class Liar(HostEnd):
    """The end of a worker that was taken over: it says this, whatever it is told."""

    def __init__(self, *messages: list[Any]) -> None:
        super().__init__(socket.socket())
        self.messages = list(messages)

    def send(self, message: tuple[Any, ...]) -> None:
        """Listen to nothing."""

    def receive(self, deadline_ns: int) -> Iterator[list[Any]]:  # noqa: ARG002
        """Say it."""
        return iter(self.messages)


def lying(*messages: list[Any]) -> tuple[Machine, ProcessHost]:
    """A PC whose UART has such a worker."""
    machine = Pc(()).machine
    inline = machine.hosts["uart0"]
    source, _ = loaded(inline.plugin)
    process = subprocess.Popen(["true"], process_group=0)
    found = ProcessHost(
        "uart0",
        inline.plugin,
        inline.device,
        machine,
        journal=inline.journal,
        source=source,
        settings={},
        directory=PC.parent,
        deadline_ns=DEADLINE_NS,
        machine=machine,
        worker=Worker(process, Liar(*messages)),
    )
    machine.hosts["uart0"] = found
    return machine, found


@pytest.mark.parametrize(
    "message",
    [
        ["set_level", "irq", 1],
        ["set_level", "no such line", True],
        ["arm", "tick", "soon"],
        ["arm", "no such timer", 5],
        ["memory.read", 0, "all"],
        ["memory.read", 0, 1 << 40],
        ["memory.write", 0, "text"],
        ["memory.gather", [0, 1, 2]],
        ["memory.gather", [0, "all"]],
        ["memory.gather", [0, -1]],
        ["memory.gather", [0, 9 << 20, 0, 9 << 20]],
        ["memory.scatter", [0], b"x"],
        ["memory.scatter", [0, 1], "text"],
        ["place", "no such region", 0, 0],
        ["place", "ports", 99, 0],
        ["place", "ports", 1, "0x3f8"],
        ["msi", 0],
        ["msi", "0xfee00000", 0],
        ["send", "serial", "text"],
        ["complete", 5],
        ["request", 99, 0],
        ["notify", 5, {}],
        ["told", b"x"],
        ["__class__"],
        [5],
        ["answer"],
        ["answer", "no number"],
        ["answer", 256],
        ["failed"],
        ["failed", 5],
    ],
    ids=repr,
)
def test_worker_that_lies_is_quarantined_and_nothing_else_happens(message: list[Any]) -> None:
    """Each message is checked: what no device does is the end of that process, not of the daemon."""
    machine, uart = lying(message, ["answer", 0])
    before = others(Pc(()).machine)
    assert uart.serves
    assert 0xFF == uart.access("ports", 0, 1, READ, 0)
    assert (False, None, "") == (uart.serves, uart.worker, uart.register_at("ports", 0, 1, READ))
    assert before == others(machine)


def others(machine: Machine) -> Any:  # noqa: ANN401
    """The state of all devices but the UART."""
    found = document(machine)
    return {name: state for name, state in found["devices"].items() if name != "uart0"}, found["timers"]


def test_every_effect_of_a_context_has_a_row() -> None:
    """A worker can say what a device can do, and no more."""
    methods = {name for name in vars(Context) if not name.startswith("_")} - {
        "clock",
        "memory",
        "bus",
        "storage",
    }
    assert methods == {name for name in EFFECTS if "." not in name} - {"told"}


def test_ranges_of_guest_memory_are_reached_in_one_message() -> None:
    """A worker's device gathers and scatters as one that is here."""
    ours, theirs = socket.socketpair()
    machine = Pc(()).machine
    device = machine.hosts["uart0"].device
    machine.memory.clear()
    machine.memory.add(Slot(0, 0, 64, False, Ram()))
    machine.memory.write(0, b"0123456789".ljust(64, b"."))
    with ours, theirs:
        far = RemoteMemory(RemoteContext(WorkerEnd(theirs), _no_command))
        answering = threading.Thread(target=_answer, args=(device, HostEnd(ours), 2))
        answering.start()
        assert far.scatter([(20, 2), (30, 9)], b"abcd")
        assert b"ab78cd" == far.gather([(20, 2), (7, 2), (30, 2)])
        answering.join()
    assert b"ab........cd.." == machine.memory.read(20, 14)


def _no_command(*_arguments: object) -> None:
    raise AssertionError


def _answer(device: Device, channel: HostEnd, questions: int) -> None:
    for _ in range(questions):
        for name, *arguments in channel.receive(1 << 62):
            perform(device, channel, name, arguments)


def test_channel_is_bounded() -> None:
    """A length that no worker announces ends it at once."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(WorkerGone, match="announces 4294967295 bytes"):
            next(HostEnd(ours).receive(1 << 62))


class Late(HostEnd):
    """A worker's channel that answers after so many waits, each to its deadline; or never."""

    def __init__(self, now: list[int], waits: int) -> None:
        super().__init__(socket.socket())
        self.now, self.waits = now, waits

    def send(self, message: tuple[Any, ...]) -> None:
        """Listen to nothing."""

    def receive(self, deadline_ns: int) -> Iterator[list[Any]]:
        """Time passes."""
        if not self.waits:
            return iter([["answer", 7]])
        self.waits -= 1
        self.now[0] = deadline_ns
        raise TimeoutError


@pytest.mark.parametrize(
    ("share", "waits", "passed"),
    [(2, 1, 100), (2, 50, 200), (0, 9, 900), (0, 50, 1000), (1, 1, 100)],
    ids=["half", "half, and loops", "none", "none, and never does", "all"],
)
def test_a_worker_has_its_deadline_in_cpu_time(
    monkeypatch: pytest.MonkeyPatch, share: int, waits: int, passed: int
) -> None:
    """Of which the host gives it a half, none or all of what passes by the clock: there ten deadlines do."""
    now = [1000]
    monkeypatch.setattr("mmiod.plugins.process.workers.perf_counter_ns", lambda: now[0])
    monkeypatch.setattr(Worker, "cpu_ns", property(lambda _: now[0] // share if share else 5))
    _, found = lying()
    assert found.worker is not None
    found.worker.process.wait()
    found.worker.channel.socket.close()
    found.worker.channel = Late(now, waits)
    late = waits == 50 or share == 1
    with pytest.raises(HookDeadlineExceeded) if late else nullcontext():
        assert 7 == found.worker.exchange(found.device, ("read",), 100)
    assert 1000 + passed == now[0]
    found.worker.channel.socket.close()


def test_cpu_time_is_the_processs() -> None:
    """It passes while that works; of one that is gone it is nothing."""
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    worker = Worker(process, HostEnd(socket.socket()))
    before = worker.cpu_ns
    while worker.cpu_ns - before < 1_000_000:
        pass
    process.kill()
    process.wait()
    assert 0 == worker.cpu_ns
    worker.channel.socket.close()
