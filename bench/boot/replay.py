"""A recorded boot on the real daemon: the C client does its accesses, in order, and says what waited.

    python -m bench.boot.replay [GAP_NS]

The guest is not there, so nobody follows what is read; what counts is what each access costs, and
whether what is published is what a message would have answered.  Our machine has other devices than
QEMU's (no AHCI, another chipset): what is not there is asked as well, and nobody answers.
"""

from __future__ import annotations

import enum
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import median
from typing import Final

from attrs import define, field, frozen

from bench.boot.steps import exits
from bench.boot.trace import Access, Boot, load, recorded
from bench.peers import reference_server
from bench.placement import WIDEST
from bench.programs import ROOT, BenchError, compiled, spawn, start_daemon, vm
from mmiod.values import Space

ENTRY: Final = struct.Struct("<BBBBIQQ")
TOOK: Final = struct.Struct("<II")
COUNTS: Final = struct.Struct("<QQ")
MACHINE: Final = """\
extends = "pc.toml"

[devices.ecam]
plugin = "pci/ecam"
at = { configuration = "mmio:0xb0000000" }

[devices.tpm]
plugin = "tpm/crb"
at = { localities = "mmio:0xfed40000" }

[devices.hpet]
plugin = "legacy/hpet"
at = { general = "mmio:0xfed00000", comparators = "mmio:0xfed00100" }
"""
"""A server's devices where QEMU's Q35 has them, as far as we have them."""
PORTS: Final = 1 << 16
COUNTERS: Final = {0x608: 24, 0xFED000F0: 64, 0xFED000F4: 32}
"""Registers that count, and their widths."""


class Way(enum.IntEnum):
    """How an access was done."""

    MESSAGE = 0
    LOAD = 1
    POST = 2


@define
class Sum:
    """Of one region, or all: what the vCPU waited, by the way of its accesses."""

    ns: dict[Way, list[int]] = field(factory=lambda: {way: [] for way in Way})

    def count(self, way: Way) -> int:
        """Accesses that went this way."""
        return len(self.ns[way])

    @property
    def total_ns(self) -> int:
        """All that was waited, what other programs on this CPU took included."""
        return sum(sum(times) for times in self.ns.values())


@frozen
class Replayed:
    """One boot."""

    regions: dict[str, Sum]
    waits: int
    """Published reads and posts that waited for posted writes."""
    different: int
    """Published reads that were not what a message answered; 0 also where nobody looked."""

    @property
    def all(self) -> Sum:
        """Of all regions."""
        return Sum({way: [ns for each in self.regions.values() for ns in each.ns[way]] for way in Way})

    @property
    def stall_ns(self) -> float:
        """Each way of each region by its median: what other programs took is left out."""
        return sum(
            len(times) * median(times)
            for each in self.regions.values()
            for times in each.ns.values()
            if times
        )


def packed(accesses: Sequence[Access], regions: Sequence[str]) -> bytes:
    """What replay.c reads."""
    numbers = {name: number for number, name in enumerate(regions)}
    return b"".join(
        ENTRY.pack(
            each.write,
            each.size,
            numbers[each.region],
            Space.PIO if each.address < PORTS else Space.MMIO,
            COUNTERS.get(each.address, 0),
            each.address,
            each.value,
        )
        for each in accesses
    )


def replay(boot: Boot, *, gap_ns: int = 0, checks: bool = False) -> Replayed:
    """Start a daemon, and do it.

    Raises:
        BenchError: the client failed.
    """
    accesses = exits(boot.accesses)
    regions = sorted({each.region for each in accesses})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-replay-")))
        shutil.copy(ROOT / "config" / "machines" / "pc.toml", folder)
        (folder / "server.toml").write_text(MACHINE)
        (folder / "trace").write_bytes(packed(accesses, regions))
        start_daemon(stack, folder, [vm(folder, "vm0", folder / "server.toml")])
        arguments = [folder / "vm0.exit", "vm0", folder / "trace", gap_ns, int(checks)]
        program = compiled("replay", folder)
        client = spawn(stack, [str(program), *map(str, arguments)], stdout=subprocess.PIPE)
        output, _ = client.communicate()
        if client.returncode:
            raise BenchError("the replay failed")
    return _parsed(output, [each.region for each in accesses])


def round_trip_ns(count: int = 2000) -> int | None:
    """The median round trip to libvfio-user's C server, across CPUs; None if it is not installed."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-replay-")))
        peer = reference_server(stack, folder)
        return None if peer is None else round(1000 * peer.round(WIDEST, count).p50)


def _parsed(output: bytes, regions: Sequence[str]) -> Replayed:
    end = len(regions) * TOOK.size
    sums: dict[str, Sum] = {}
    for region, (ns, way) in zip(regions, TOOK.iter_unpack(output[:end]), strict=True):
        sums.setdefault(region, Sum()).ns[Way(way)].append(ns)
    waits, different = COUNTS.unpack(output[end:])
    return Replayed(sums, waits, different)


def main() -> None:
    """Print what each boot's regions cost, and the same accesses by libvfio-user's round trip of this run."""
    gap_ns = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    checks = bool(os.environ.get("CHECK"))
    for path in recorded():
        boot = load(path)
        before = round_trip_ns()
        found = replay(boot, gap_ns=gap_ns, checks=checks)
        after = round_trip_ns()
        print(f"{boot.name}: gap {gap_ns} ns, {found.waits} waits, {found.different} different")
        print(f"  stall {found.stall_ns / 1e6:.1f} ms by medians, {found.all.total_ns / 1e6:.1f} ms measured")
        if before is not None and after is not None:
            accesses = sum(map(len, found.all.ns.values()))
            theirs_ns = accesses * (before + after) / 2
            ratio = theirs_ns / found.stall_ns
            print(f"  libvfio-user: {before}, {after} ns each, {theirs_ns / 1e6:.0f} ms: 1/{ratio:.0f}")
        rows = sorted(found.regions.items(), key=lambda item: -item[1].total_ns)
        for name, each in [*rows[:14], ("all", found.all)]:
            ways = ", ".join(
                f"{len(times):6} {way.name.lower()}s of {median(times):6.0f} ns"
                for way, times in each.ns.items()
                if times
            )
            print(f"  {name:18} {each.total_ns / 1e6:8.2f} ms: {ways}")


if __name__ == "__main__":
    main()
