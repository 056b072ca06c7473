"""Reload while stock firmware boots: the guest does not notice."""

from __future__ import annotations

import random
import select
import shutil
from collections import Counter
from pathlib import Path

import pytest
import trio

from mmiod.plugins.process import ahead
from mmiod.plugins.process.workers import Worker
from mmiod.plugins.question import Verdict
from mmiod.plugins.reload import Reloader
from mmiod.trace.record import DEVICE, GENERATION, REGISTER, Record
from tests.functional.boots import Boot, Booting, booting, pc, until_end

pytestmark = pytest.mark.needs("seabios", "unicorn")

RELOADS = 100
LENGTH = 3_000
"""Accesses of a boot, at least."""
ISOLATED = ("pit", "pic", "uart0", "pci")


async def unchecked(*_arguments: object, **_named: object) -> Verdict:
    """In the place of the child, so that a hundred reloads fit into one boot."""
    return Verdict()


def without_generation(trace: list[Record]) -> list[tuple[object, ...]]:
    """A trace as the guest made it."""
    return [record[:GENERATION] + record[GENERATION + 1 :] for record in trace]


async def reload_at_random(under_way: Booting, random_: random.Random) -> Counter[str]:
    """Reload all plugins, at moments that are spread over the boot; how often each was."""
    reloader, recorder = under_way.daemon.reloader, under_way.daemon.recorder
    plugins = sorted(reloader.registry.current)
    chosen = plugins + random_.choices(plugins, k=RELOADS - len(plugins))
    random_.shuffle(chosen)
    moments = sorted(random_.randrange(LENGTH) for _ in chosen)
    for plugin, moment in zip(chosen, moments, strict=True):
        while recorder.serial < moment:
            await trio.lowlevel.checkpoint()
        await reloader.reload(plugin)
    return Counter(chosen)


@pytest.mark.parametrize("seed", [1])
async def test_boot_is_the_same_with_all_devices_reloaded_a_hundred_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Under --icount: the same trace, access by access, with every device in several generations."""
    monkeypatch.setattr(Reloader, "_check", unchecked)
    traces = []
    for reloads in (False, True):
        directory = tmp_path / str(reloads)
        directory.mkdir()
        async with booting(directory, Boot(icount=3)) as under_way:
            if reloads:
                counted = await reload_at_random(under_way, random.Random(seed))
                assert RELOADS == counted.total()
                hosts = under_way.daemon.machines["vm"].hosts.values()
                assert {host.name: 1 + counted[host.plugin] for host in hosts} == {
                    host.name: host.generation for host in hosts
                }
            await under_way.reaches_its_end()
            traces.append(until_end(under_way.trace()))
    assert LENGTH < len(traces[0])
    assert without_generation(traces[0]) == without_generation(traces[1])
    assert len({record[GENERATION] for record in traces[1]}) > 2


async def test_boot_is_the_same_with_processes_reloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupts, time, the PCI bridge, the serial port, each in a process that another one succeeds."""
    monkeypatch.setattr(Reloader, "_check", unchecked)
    monkeypatch.setattr(ahead, "_until_there", there)
    isolated = pc()
    for device in ISOLATED:
        isolated["devices"][device]["isolation"] = "process"
    traces = []
    for name, machine in (("inline", pc()), ("processes", isolated)):
        directory = tmp_path / name
        directory.mkdir()
        async with booting(directory, Boot(machine, icount=3)) as under_way:
            if machine is isolated:
                await reload_in_turn(under_way)
            await under_way.reaches_its_end()
            traces.append(until_end(under_way.trace()))
    assert LENGTH < len(traces[0])
    assert without_register(traces[0]) == without_register(traces[1])
    assert len({each[GENERATION] for each in traces[1] if each[DEVICE] == "pci"}) > 2


async def there(_host: object, worker: Worker) -> None:
    """Wait for a process with the guest, which would have booted before it has started."""
    select.select([worker.channel.socket], [], [])


async def reload_in_turn(under_way: Booting) -> None:
    """Reload what runs in processes, one after another while the firmware boots, three times."""
    reloader, recorder = under_way.daemon.reloader, under_way.daemon.recorder
    hosts = under_way.daemon.machines["vm"].hosts
    for number, device in enumerate(ISOLATED * 3):
        while recorder.serial < number * LENGTH // 12:
            await trio.lowlevel.checkpoint()
        await reloader.reload(hosts[device].plugin)
    assert [4] * len(ISOLATED) == [hosts[device].generation for device in ISOLATED]


def without_register(trace: list[Record]) -> list[tuple[object, ...]]:
    """A trace as the guest made it; which bank an access meets only the device's process knows."""
    return [
        tuple(value for at, value in enumerate(record) if at not in {GENERATION, REGISTER})
        for record in trace
    ]


async def test_edit_changes_what_the_firmware_says(tmp_path: Path) -> None:
    """The whole way: a copy of a plugin, edited and reloaded by its child while the firmware runs."""
    plugins = tmp_path / "plugins"
    shutil.copytree(Path(__file__).parents[2] / "devices" / "pseudo", plugins / "pseudo")
    async with booting(tmp_path, Boot(pc(), plugins=plugins)) as under_way:
        await under_way.says("SeaBIOS")
        path = plugins / "pseudo" / "debugcon.py"
        path.write_text(path.read_text().replace("0xE9", "0xE8"))
        done = await under_way.daemon.reloader.reload("debugcon")
        assert (2, ["vm/debugcon"]) == (done.generation, done.devices)
        assert done.accesses > 10
        await under_way.reaches_its_end()
