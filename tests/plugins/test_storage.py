"""Storage of a device that is reloaded and restarted, here and in a process of its own."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter_ns

import pytest

from mmiod.machine.restart import restart
from mmiod.plugins.process.host import ProcessHost
from mmiod.plugins.question import Rejected
from mmiod.values import READ, WRITE
from tests.plugins.reloading import Reloading

PAGES = '''\
"""Sums its storage, and writes that behind it."""

from __future__ import annotations

from mmiod.device import Device, Region, Register, Storage


class Cell(Device):
    """Storage."""

    ports = Region(0x3000)
    total = Register(0, size=4)
    frames = Storage(0x1000, 0x2000)

    @total.on_write
    def _sum(self, length: int) -> None:
        if length > 0x2000:
            raise RuntimeError("this device is broken")
        self.total = sum(self.frames.read(0, length))
        self.frames.write(0x1000, self.total.to_bytes(4, "little"))
'''


@pytest.fixture(name="rig", params=["inline", "process"])
def _rig(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Reloading]:
    """One device, with some bytes from the guest."""
    isolated = frozenset({("vm", "a")}) if request.param == "process" else frozenset()
    made = Reloading(tmp_path, PAGES, at={"a": 0x1000}, wires={}, isolated=isolated)
    made.machine.hosts["a"].access("ports", 0x1000, 4, WRITE, 0x04030201)
    yield made
    made.close()


def summed(rig: Reloading, length: int = 16) -> tuple[int, int]:
    """What the device says, and what it wrote."""
    host = rig.machine.hosts["a"]
    host.access("ports", 0, 4, WRITE, length)
    found = [host.access("ports", offset, 4, READ, 0) for offset in (0, 0x2000)]
    assert all(isinstance(value, int) for value in found)
    return found[0], found[1]  # type: ignore[return-value]


def brought_back(rig: Reloading) -> None:
    """Restart it, when its next process is there."""
    host, deadline_ns = rig.machine.hosts["a"], perf_counter_ns() + 60_000_000_000
    while not host.serves and perf_counter_ns() < deadline_ns:
        restart(rig.machine, "a")
    assert host.serves


def test_the_device_reads_and_writes_it(rig: Reloading) -> None:
    """The same bytes as the guest's, as many as there are."""
    assert (10, 10) == summed(rig)
    assert (10 + 10, 20) == summed(rig, 0x2000)


def test_a_reset_clears_it(rig: Reloading) -> None:
    """Where it is: whoever has it mapped sees zeros."""
    backing = rig.machine.storages["a"]["ports"]
    rig.machine.reset()
    assert (0, bytes(4)) == (summed(rig)[0], backing.read(0x1000, 4))


def test_a_restart_finds_it(rig: Reloading) -> None:
    """The device lives through what it read, not through what is there now."""
    host = rig.machine.hosts["a"]
    assert (10, 10) == summed(rig)
    host.access("ports", 0x1000, 1, WRITE, 0x11)
    if isinstance(host, ProcessHost):
        assert host.worker is not None
        os.kill(host.worker.process.pid, signal.SIGKILL)
        host.worker.process.wait()
        host.notice()
    else:
        host.access("ports", 0, 4, WRITE, 0x2001)
    assert not host.serves
    assert 0x04030211 == host.access("ports", 0x1000, 4, READ, 0)
    brought_back(rig)
    assert 10 == host.access("ports", 0, 4, READ, 0)
    assert (26, 26) == summed(rig)


async def test_a_reload_leaves_it(rig: Reloading) -> None:
    """The same memory, of which the next class makes something else."""
    backing = rig.machine.storages["a"]["ports"]
    rig.change("= sum(self", "= 1 + sum(self")
    await rig.reloader.reload("cell")
    assert backing is rig.machine.storages["a"]["ports"]
    assert (11, 11) == summed(rig)


async def test_a_reload_does_not_move_it(rig: Reloading) -> None:
    """It is where the guest knows it to be; the old generation serves on."""
    rig.change("Storage(0x1000, 0x2000)", "Storage(0x2000, 0x1000)")
    with pytest.raises(Rejected, match="a: the new class has other storage, of which the guest has the old"):
        await rig.reloader.reload("cell")
    assert (10, 10) == summed(rig)
