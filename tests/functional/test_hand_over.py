"""A boot whose devices are saved in one daemon and go on in another."""

from __future__ import annotations

import os
from pathlib import Path
from typing import cast

import pytest
import trio

from mmiod.trace.record import SEQUENCE, Record
from tests.functional.boots import PATIENCE_S, ROOT, Boot, Booting, booting, pc, serving, until_end

pytestmark = pytest.mark.needs("seabios", "unicorn")

SHIFT = 3
POINTS = (300, 1500, 2900)
"""Exits: probing PCI, waiting for a key, looking for disks."""


def unnumbered(trace: list[Record]) -> list[Record]:
    """A trace without sequence numbers, which begin again in each session."""
    return [cast("Record", (*record[:SEQUENCE], 0, *record[SEQUENCE + 1 :])) for record in trace]


def directories(path: Path, *names: str) -> list[Path]:
    """New directories in `path`."""
    for name in names:
        (path / name).mkdir()
    return [path / name for name in names]


async def test_a_boot_goes_on_in_another_daemon_as_if_nothing_had_happened(tmp_path: Path) -> None:
    """Under --icount: the traces of both daemons together are that of an undisturbed boot."""
    (undisturbed,) = directories(tmp_path, "undisturbed")
    async with booting(undisturbed, Boot(icount=SHIFT)) as under_way:
        await under_way.reaches_its_end()
        expected = unnumbered(until_end(under_way.trace()))
    for exits in POINTS:
        there, here = directories(tmp_path, f"to{exits}", f"from{exits}")
        boot = Boot(icount=SHIFT, options=("--hand-over", f"{exits}:{there}/vm.exit"))
        async with serving(there, Boot()) as second, booting(here, boot) as first:
            later = Booting(second, first.hypervisors)
            await later.reaches_its_end()
            begin, rest = first.trace(), later.trace()
        assert min(len(begin), len(rest)) > 100
        assert 1 == rest[0][SEQUENCE]
        assert expected == unnumbered(until_end(begin + rest))


async def test_a_machine_of_other_devices_refuses_the_state(tmp_path: Path) -> None:
    """The hypervisor ends with the daemon's words, which name what does not fit."""
    here, there = directories(tmp_path, "here", "there")
    boot = Boot(icount=SHIFT, options=("--hand-over", f"300:{there}/vm.exit"))
    async with serving(there, Boot(pc(rtc=None))), serving(here, boot):
        with trio.fail_after(PATIENCE_S):
            ended = await trio.run_process(
                boot.command(here),
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                check=False,
                capture_stderr=True,
            )
    assert 1 == ended.returncode
    assert (
        "mmiod-vmm: the daemon refuses restore = 0x0: devices.rtc: only the saved state has it\n"
        == ended.stderr.decode()
    )
