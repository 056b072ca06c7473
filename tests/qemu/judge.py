"""QEMU as judge: the same accesses to QEMU and to our machine, every read compared.

python -m tests.qemu.judge 100000       # that many accesses for each device
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Final

from mmiod.values import READ, WRITE, Direction
from tests.qemu.campaigns import CAMPAIGNS, Campaign
from tests.qemu.sides import Access, Ours, Side

SLICE: Final = 4096
"""Accesses between two comparisons."""
CONTEXT: Final = 12
"""Accesses shown before one that differs."""


def compare(accesses: Sequence[Access], qemu: Side, machine: Side) -> str:
    """What differs first, with what came before; "" if nothing does."""
    theirs, mine = qemu.run(accesses), machine.run(accesses)
    for index, access in enumerate(accesses):
        if (theirs[index] ^ mine[index]) & ~access.ignored:
            first = max(0, index - CONTEXT)
            lines = [
                f"{accesses[n]}: QEMU {theirs[n]:#x}, ours {mine[n]:#x}" for n in range(first, index + 1)
            ]
            return "\n".join(lines)
    return ""


def slices(accesses: Iterable[Access], count: int) -> Iterable[list[Access]]:
    """The first `count` accesses, slice by slice."""
    limited = islice(accesses, count)
    while part := list(islice(limited, SLICE)):
        yield part


def untouched(machine: Ours, device: str) -> set[tuple[str, Direction]]:
    """Declared registers of a device that no access has met, in a direction that they allow."""
    declared = machine.machine.hosts[device].device.declared
    return {
        (name, direction)
        for name, register in declared.items()
        for direction in (READ, WRITE)
        if register.allows(direction) and (device, name, direction) not in machine.touched
    }


def run(campaign: Campaign, count: int, seed: int, directory: Path) -> tuple[str, set[tuple[str, Direction]]]:
    """One campaign on new machines: what differs first, and the registers that were not touched."""
    directory = directory / str(CAMPAIGNS.index(campaign))
    directory.mkdir()
    with campaign.sides(directory) as (qemu, machine):
        accesses = chain.from_iterable(campaign.steps(Random(seed)))
        for part in slices(accesses, count):
            found = compare(part, qemu, machine)
            if found:
                return f"{campaign.device}, {campaign.name}, seed {seed}:\n{found}", set()
    return "", untouched(machine, campaign.device)


def judge(device: str, count: int, seed: int = 0) -> list[str]:
    """All campaigns of a device with `count` accesses together; the problems."""
    campaigns = [campaign for campaign in CAMPAIGNS if campaign.device == device]
    problems, missed = [], []
    with tempfile.TemporaryDirectory() as directory:
        for campaign in campaigns:
            found, left = run(campaign, -(-count // len(campaigns)), seed, Path(directory))
            problems += [found] * bool(found)
            missed.append(left)
    never = set.intersection(*missed)
    problems += [f"{device}.{name}: no {direction.name.lower()}" for name, direction in sorted(never)]
    return problems


DEVICES: Final = tuple(dict.fromkeys(campaign.device for campaign in CAMPAIGNS))


def main() -> int:
    """Judge every device; a table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100_000
    failed = False
    for device in DEVICES:
        started = time.perf_counter()
        problems = judge(device, count, seed=count)
        seconds = time.perf_counter() - started
        rate = f"{device:10} {count:9,} accesses {seconds:7.1f} s {count / seconds:9,.0f}/s"
        sys.stdout.write("\n".join([rate, *problems, ""]))
        failed |= bool(problems)
    return failed


if __name__ == "__main__":
    sys.exit(main())
