"""Stock SeaBIOS boots on the bundled devices, and says itself what it found."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.functional.boots import Boot, booting, console, pc, until_end

pytestmark = pytest.mark.needs("seabios", "unicorn")

SECOND_FUNCTION = {"plugin": "pci/testdev", "slot": "00:05.0"}


async def test_firmware_finds_the_memory_and_functions_that_are_configured(tmp_path: Path) -> None:
    """96 MiB with one test function, 160 MiB with two: both in the firmware's own words."""
    small = Boot(memory_mib=96, name="small")
    large = Boot(pc(second=SECOND_FUNCTION), memory_mib=160, name="large")
    async with booting(tmp_path, small, large) as under_way:
        logs = {vm: await under_way.reaches_its_end(vm) for vm in ("small", "large")}
    assert "len 0x0000000006000000 [RAM]" in logs["small"]
    assert "len 0x000000000a000000 [RAM]" in logs["large"]
    assert "Found 4 PCI devices" in logs["small"]
    assert "Found 5 PCI devices" in logs["large"]
    assert "PCI: init bdf=00:05.0 id=1234:6d6d" not in logs["small"]
    assert "PCI: init bdf=00:05.0 id=1234:6d6d" in logs["large"]


async def test_firmware_without_the_test_function_does_not_find_it(tmp_path: Path) -> None:
    """Another PCI list: the function is gone from the firmware's log."""
    async with booting(tmp_path, Boot(pc(testdev=None))) as under_way:
        log = await under_way.reaches_its_end()
    assert "Found 3 PCI devices" in log
    assert "id=1234:6d6d" not in log


@pytest.mark.parametrize("device", ["pit", "pic"])
async def test_boot_stops_without_its_tick(tmp_path: Path, device: str) -> None:
    """Without timer or interrupt controller the firmware halts and nothing wakes it."""
    async with booting(tmp_path, Boot(pc(**{device: None}), icount=3)) as under_way:
        log = await under_way.stops()
    assert "SeaBIOS (version" in log
    assert "No bootable device." not in log


async def test_log_shows_that_the_clock_is_missing(tmp_path: Path) -> None:
    """Without RTC the CMOS reads as ones, and so does the type of the floppy drives in it."""
    async with booting(tmp_path, Boot(pc(rtc=None), name="without"), Boot(name="with")) as under_way:
        logs = {vm: await under_way.reaches_its_end(vm) for vm in ("without", "with")}
    assert "Bad floppy type 15" in logs["without"]
    assert "Bad floppy type" not in logs["with"]


async def test_two_boots_in_virtual_time_are_equal_access_by_access(tmp_path: Path) -> None:
    """Under --icount a trace is a function of the configuration, whatever runs beside it."""
    traces = []
    for number, others in enumerate(([], [Boot(memory_mib=64, name="other")])):
        directory = tmp_path / str(number)
        directory.mkdir()
        async with booting(directory, Boot(icount=3), *others) as under_way:
            await under_way.reaches_its_end()
            for other in others:
                await under_way.reaches_its_end(other.name)
            traces.append(until_end(under_way.trace()))
    assert len(traces[0]) > 3_000
    assert "No bootable device." in console(traces[0])
    assert traces[0] == traces[1]
