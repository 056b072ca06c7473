"""Reload of devices in processes of their own: the worker that serves, until the next one does."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmiod.device import Pending
from mmiod.machine.restart import restart
from mmiod.plugins.process import workers
from mmiod.plugins.process.host import ProcessHost
from mmiod.plugins.process.workers import SPAWNER, Worker
from mmiod.plugins.question import Rejected, Verdict
from mmiod.plugins.reload import Reloader
from mmiod.values import ones
from tests.plugins.reloading import CELL, Reloading

ALL = frozenset({("vm", "a"), ("vm", "b")})
MIXED = frozenset({("vm", "a")})
ON_RELOAD = "    @written.value\n"


@pytest.fixture(name="rig")
def _rig(tmp_path: Path) -> Iterator[Reloading]:
    """Two cells, each in a process."""
    made = Reloading(tmp_path, isolated=ALL)
    yield made
    made.close()


@pytest.fixture(name="mixed")
def _mixed(tmp_path: Path) -> Iterator[Reloading]:
    """Two VMs with two cells each, of which one is in a process."""
    made = Reloading(tmp_path, vms=("vm", "other"), isolated=MIXED)
    yield made
    made.close()


async def unchecked(*_arguments: object, **_named: object) -> Verdict:
    """In the place of the child, that the daemon's own doors are met."""
    return Verdict()


def host(rig: Reloading, name: str = "a") -> ProcessHost:
    """A device's host, which is one of these."""
    found = rig.machine.hosts[name]
    assert isinstance(found, ProcessHost)
    return found


def serving(rig: Reloading, name: str = "a") -> Worker:
    """The process that is a device now."""
    worker = host(rig, name).worker
    assert worker is not None
    return worker


def alive() -> list[int]:
    """Our own children, when the spawner has done what it was told."""
    SPAWNER.submit(int).result()
    found = [path.read_text().split() for path in Path("/proc/self/task").glob("*/children")]
    return sorted(int(child) for children in found for child in children)


def kill(rig: Reloading, name: str = "a") -> None:
    """End a device's process, from outside."""
    process = serving(rig, name).process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def answers(rig: Reloading) -> list[object]:
    """What somebody had who waited."""
    return [(of, given) for of, given in rig.machine.settled if given is not None]


async def test_next_process_has_the_state_of_the_one_before(rig: Reloading) -> None:
    """Registers, state, an armed timer, a wire: as inline; the old processes end, and a spare is there."""
    rig.access(0x100, 5)
    rig.access(0x103, 1)
    before = serving(rig)
    rig.change("& 0xFF", "& 0xFF | 0x80")
    rig.change("self.irq.set_level(not self.irq.level)", "self.irq.set_level(False)")

    done = await rig.reloader.reload("cell")

    assert (2, ["vm/a", "vm/b"]) == (done.generation, done.devices)
    assert done.pause_us > 0
    assert (5, 0x81, 0x81) == (rig.access(0x100), rig.access(0x101), rig.access(0x201))
    rig.machine.clock.advance_to(6_000)
    assert not rig.machine.wires.sinks["b.ack"].high
    spares = [host(rig, name).spare() for name in ("a", "b")]
    expected = [each.process.pid for each in (serving(rig, "a"), serving(rig, "b"), *spares)]
    assert sorted(expected) == alive()
    assert before.process.returncode == -signal.SIGKILL
    kill(rig)
    rig.access(0x101)
    while not host(rig).ready:
        os.sched_yield()
    restart(rig.machine, "a")
    assert 0x81 == rig.access(0x101)


async def test_access_that_waits_is_answered_once_by_the_next_process(rig: Reloading) -> None:
    """PENDING: the host owes it still, and the new code completes it."""
    assert isinstance(rig.access(0x102), Pending)
    rig.change("0x5A", "0xA5")
    await rig.reloader.reload("cell")
    assert host(rig).owes is not None
    rig.machine.clock.advance_to(500)
    assert [(host(rig), 0xA5)] == rig.machine.settled
    rig.machine.clock.advance_to(10_000)
    assert [(host(rig), 0xA5)] == rig.machine.settled


async def test_rollback_is_a_process_of_the_generation_before(rig: Reloading) -> None:
    """With the state of now; what only the newer class has is dropped and told."""
    rig.change("& 0xFF", "& 0xFF | 0x80")
    rig.change("    waiting: bool = False", "    waiting: bool = False\n    more: int = 9")
    await rig.reloader.reload("cell")
    rig.access(0x100, 3)
    done = await rig.reloader.rollback("cell")
    assert (3, ["a: state.more", "b: state.more"]) == (done.generation, done.dropped)
    assert (3, 1) == (rig.access(0x100), rig.access(0x101))


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("        raise RuntimeError('no')\n", "vm/a: RuntimeError: no"),
        ("        while True:\n            pass\n", "vm/a: HookDeadlineExceeded: "),
        ("        import os\n        os._exit(3)\n", "vm/a: WorkerGone: its process has ended"),
        (
            "        bytearray(2 << 30)\n",
            "vm/a: MemoryError: ",
        ),
    ],
    ids=["raises", "loops", "ends", "takes memory"],
)
async def test_process_that_serves_goes_on_where_the_next_one_fails(
    rig: Reloading, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    """Had the child not found it: nothing was touched, no process is left over."""
    monkeypatch.setattr(Reloader, "_check", unchecked)
    rig.access(0x100, 5)
    host(rig).spare(), host(rig, "b").spare()
    before = alive()
    rig.change(ON_RELOAD, f"    def on_reload(self) -> None:\n{code}\n{ON_RELOAD}")
    verdict = await rig.refused()
    assert reason == verdict.reason
    assert before == alive()
    assert (5, 1, True) == (rig.access(0x100), rig.access(0x101), host(rig).serves)


async def test_what_the_child_finds_is_found_for_processes_too(rig: Reloading) -> None:
    """The guest's last accesses are repeated there."""
    rig.access(0x100, 5)
    rig.change("self.state.writes += 1\n", "self.state.writes += 1 // (value - 5)\n")
    verdict = await rig.refused()
    assert "vm/a: write of 0x5, 1 bytes at ports+0x0: ZeroDivisionError" in (verdict.reason or "")
    assert 5 == rig.access(0x100)


async def test_process_that_does_not_come_up_is_a_rejection(
    rig: Reloading, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host may lack what a process needs."""
    rig.access(0x100, 5)
    monkeypatch.setattr(workers, "_MAIN", "# {path}")
    verdict = await rig.refused()
    assert "vm/a: its process does not start: its process has ended" == verdict.reason
    assert "see what the host lacks, and reload again" == verdict.remedy
    assert 5 == rig.access(0x100)


async def test_all_instances_are_swapped_or_none(mixed: Reloading, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inline and in processes, in two VMs: the last one that cannot be made keeps all."""

    def seen() -> list[object]:
        return [mixed.access(port, vm=vm) for vm in mixed.machines for port in (0x101, 0x201)]

    def served() -> list[object]:
        hosts = [each for machine in mixed.machines.values() for each in machine.hosts.values()]
        return [(each.device, each.generation) for each in hosts]

    mixed.change("& 0xFF", "& 0xFF | 0x80")
    await mixed.reloader.reload("cell")
    assert [0x80] * 4 == seen()
    monkeypatch.setattr(Reloader, "_check", unchecked)
    mixed.change("| 0x80", "| 0x40")
    fails = "        if self.state.writes == 7:\n            raise RuntimeError('no')\n"
    mixed.change(ON_RELOAD, f"    def on_reload(self) -> None:\n{fails}\n{ON_RELOAD}")
    for _ in range(7):
        mixed.access(0x200, 1, vm="other")
    before = served()
    with pytest.raises(Rejected, match="other/b: RuntimeError: no"):
        await mixed.reloader.reload("cell")
    assert before == served()
    assert [0x80, 0x80, 0x80, 0x87] == seen()
    mixed.access(0x200, 1, vm="other")
    await mixed.reloader.reload("cell")
    assert [0x40, 0x40, 0x40, 0x48] == seen()


async def test_device_that_failed_is_handed_over_as_it_was_before(rig: Reloading) -> None:
    """Its process is gone: another one of its generation lives through the journal for that."""
    rig.change("self.state.writes += 1\n", "self.state.writes += 1\n        1 // (value != 3)\n")
    await rig.reloader.reload("cell")
    rig.access(0x103, 1)
    rig.access(0x100, 9)
    rig.access(0x100, 3)
    assert (False, 0xFF) == (host(rig).serves, rig.access(0x100))
    rig.edit(CELL)
    await rig.reloader.reload("cell")
    assert (True, 9, 1) == (host(rig).serves, rig.access(0x100), rig.access(0x101))
    assert {"a.irq"} == rig.machine.wires.sinks["b.ack"].high
    assert 10_000 == rig.machine.clock.armed["a", "tick"][0]


async def test_process_that_is_found_dead_by_the_reload_is_brought_back(rig: Reloading) -> None:
    """Nobody had noticed: its state is what the journal says, and who waited has had his answer."""
    rig.access(0x100, 5)
    assert isinstance(rig.access(0x102), Pending)
    kill(rig)
    await rig.reloader.reload("cell")
    assert [(host(rig), ones(1))] == rig.machine.settled
    rig.machine.clock.advance_to(10_000)
    assert ([(host(rig), ones(1))], True) == (answers(rig), host(rig).serves)
    assert (5, 1) == (rig.access(0x100), rig.access(0x101))


def test_access_that_waits_while_its_process_is_killed_is_answered_once(rig: Reloading) -> None:
    """By ones, when the death shows; restarted from its journal the device completes it to nobody."""
    rig.access(0x100, 5)
    assert isinstance(rig.access(0x102), Pending)
    kill(rig)
    rig.machine.clock.advance_to(500)
    answered = [(host(rig), ones(1))]
    assert (answered, False) == (rig.machine.settled, host(rig).serves)
    while not host(rig).ready:
        os.sched_yield()
    restart(rig.machine, "a")
    assert host(rig).serves
    rig.machine.clock.advance_to(2_000)
    assert (answered, None, True) == (
        answers(rig),
        host(rig).owes,
        host(rig).serves,
    )
    assert (5, 1) == (rig.access(0x100), rig.access(0x101))
