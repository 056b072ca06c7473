"""A recorded boot on the real daemon: the C client does its accesses, in order, and says what waited.

    python -m bench.boot.replay [GAP_NS [NAME ...]]

The guest is not there, so nobody follows what is read; what counts is what each access costs, and
whether what is published is what a message would have answered.  Our machine has other devices than
QEMU's (no AHCI, another chipset): what is not there is asked as well, and nobody answers.
"""

from __future__ import annotations

import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.boot.breakdown import Breakdown, parsed
from bench.boot.ours import machine_file, space_of
from bench.boot.policy import COUNTERS
from bench.boot.steps import exits
from bench.boot.trace import Access, Boot, load, recorded
from bench.peers import reference_server
from bench.placement import WIDEST
from bench.programs import BenchError, compiled, spawn, start_daemon, vm

ENTRY: Final = struct.Struct("<BBBBIQQ")


def packed(accesses: Sequence[Access], regions: Sequence[str]) -> bytes:
    """What replay.c reads."""
    numbers = {name: number for number, name in enumerate(regions)}
    return b"".join(
        ENTRY.pack(
            each.write,
            each.size,
            numbers[each.region],
            space_of(each),
            COUNTERS.get(each.address, 0),
            each.address,
            each.value,
        )
        for each in accesses
    )


def replay(boot: Boot, *, gap_ns: int = 0, checks: bool = False) -> Breakdown:
    """Start a daemon, and do it.

    Raises:
        BenchError: the client failed.
    """
    accesses = exits(boot.accesses)
    regions = sorted({each.region for each in accesses})
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-replay-")))
        (folder / "trace").write_bytes(packed(accesses, regions))
        daemon = start_daemon(stack, folder, [vm(folder, "vm0", machine_file(folder))])
        arguments = [folder / "vm0.exit", "vm0", folder / "trace", gap_ns, int(checks)]
        program = compiled("replay", folder)
        client = spawn(stack, [str(program), *map(str, arguments)], stdout=subprocess.PIPE)
        WIDEST.take(daemon, client)
        output, _ = client.communicate()
        if client.returncode:
            raise BenchError("the replay failed")
    return parsed(output, [(each.region, each.write) for each in accesses])


def round_trip_ns(count: int = 2000) -> int | None:
    """The median round trip to libvfio-user's C server, across CPUs; None if it is not installed."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-replay-")))
        peer = reference_server(stack, folder)
        return None if peer is None else round(1000 * peer.round(WIDEST, count).p50)


def main() -> None:
    """Print what each boot's regions cost, and the same accesses by libvfio-user's round trip of this run."""
    gap_ns = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    names = sys.argv[2:]
    checks = bool(os.environ.get("CHECK"))
    for path in recorded():
        if names and path.stem not in names:
            continue
        boot = load(path)
        before = round_trip_ns()
        found = replay(boot, gap_ns=gap_ns, checks=checks)
        after = round_trip_ns()
        print(f"{boot.name}: gap {gap_ns} ns, {found.waits} waits, {found.different} different")
        print(f"  stall {found.stall_ns / 1e6:.1f} ms by medians, {found.total_ns / 1e6:.1f} ms measured")
        if before is not None and after is not None:
            theirs_ns = found.accesses * (before + after) / 2
            ratio = theirs_ns / found.stall_ns
            print(f"  libvfio-user: {before}, {after} ns each, {theirs_ns / 1e6:.0f} ms: 1/{ratio:.0f}")
        print(*found.table(), *found.ways(), sep="\n")


if __name__ == "__main__":
    main()
