"""A work of a device in a process of its own: it goes on, and begins anew, as one that is here."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from mmiod.device.work import RANGE, WATCH_NS
from mmiod.machine.assembly import assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import DeviceDescription, MachineDescription
from mmiod.machine.machine import Machine
from mmiod.machine.slot import Slot
from mmiod.machine.state import restore, save
from mmiod.plugins.process.host import process_host
from mmiod.values import READ, WRITE
from tests.plugins.test_process import DEADLINE_NS, loaded

NS_PER_MS = 1_000_000
BUFFER = 0x40000


class Client:
    """Keeps what it is asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []

    def ask(self, work: str, kind: str, data: bytes) -> None:
        """Keep it."""
        self.asked.append((work, kind, data))


def _ignore(*_parts: object, **_fields: object) -> None:
    """What is told to people."""


@pytest.fixture(name="machine")
def _machine() -> Iterator[Machine]:
    """One of an edu, whose memory only messages reach, and which waits for 4 bytes of it."""
    source, plugin = loaded("pci/edu")
    described = DeviceDescription("pci/edu")
    clock = MachineClock(lambda: 0, lambda: 0.0)
    hosts = {"edu": partial(process_host, source, described, Path(), DEADLINE_NS)}
    parts = {"edu": (plugin, plugin.config_class())}
    description = MachineDescription({"edu": described})
    made = assemble("vm", description, parts, clock, _ignore, _ignore, isolated=hosts)
    made.memory.add(Slot(0, 0, 1 << 20, False, None))
    made.memory.messenger = Client()
    made.power_on(virtual=True)
    edu = made.hosts["edu"]
    edu.access("config_space", 4, 2, WRITE, 6)
    for offset, value in ((0x80, 0x1000), (0x88, BUFFER), (0x90, 4), (0x98, 1)):
        edu.access("registers", offset, 8, WRITE, value)
    clock.advance_to(clock.now_ns + 100 * NS_PER_MS)
    yield made
    edu.close()


def asked(machine: Machine) -> list[tuple[str, str, bytes]]:
    """What the client was asked since the last time."""
    client = machine.memory.messenger
    assert isinstance(client, Client)
    found, client.asked = client.asked, []
    return found


READING = ("moving", "read", RANGE.pack(0x1000, 4))


def test_a_run_goes_on_when_it_is_answered(machine: Machine) -> None:
    """The worker has the run; the timer here says that there is one."""
    edu = machine.hosts["edu"]
    assert [READING] == asked(machine)
    working = [edu.device.working]
    edu.reply("moving", 0, b"ABCD")
    working += [edu.device.working]
    assert [True, False] == working
    assert 0 == edu.access("registers", 0x98, 4, READ, 0)
    edu.access("registers", 0x80, 8, WRITE, BUFFER)
    edu.access("registers", 0x88, 8, WRITE, 0x2000)
    edu.access("registers", 0x98, 8, WRITE, 3)
    machine.clock.advance_to(machine.clock.now_ns + 100 * NS_PER_MS)
    assert [("moving", "write", RANGE.pack(0x2000, 4) + b"ABCD")] == asked(machine)


def test_a_run_that_is_restored_begins_anew(machine: Machine) -> None:
    """What the worker's run waited for is forgotten with its state."""
    edu = machine.hosts["edu"]
    assert [READING] == asked(machine)
    restore(machine, save(machine))
    assert [] == asked(machine)
    machine.clock.advance_to(machine.clock.now_ns + WATCH_NS)
    assert [READING] == asked(machine)
    edu.reply("moving", 0, b"ABCD")
    assert 0 == edu.access("registers", 0x98, 4, READ, 0)


def test_a_run_that_is_not_in_the_restored_state_is_gone(machine: Machine) -> None:
    """The worker forgets it: the next start begins a run at once."""
    edu = machine.hosts["edu"]
    edu.reply("moving", 0, b"ABCD")
    before = save(machine)
    for _ in range(2):
        asked(machine)
        edu.access("registers", 0x98, 8, WRITE, 1)
        machine.clock.advance_to(machine.clock.now_ns + 100 * NS_PER_MS)
        assert [READING] == asked(machine)
        restore(machine, before)
