"""What an exit costs when many vCPUs or many VMs have one outstanding all the time.

One C thread keeps them busy, so that what is told is the daemon's and its, not the scheduler's.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench.contest import WARM_UP, Effort
from bench.figures import NS_PER_US, Round, Row, rows
from bench.placement import WIDEST
from bench.programs import Line, Process, client, compiled, start_daemon, vm

VCPUS: Final = (1, 2, 4, 8, 16)
VMS: Final = (1, 4, 16, 64)
WAYS: Final = ("sockets", "slots")
Load = tuple[str, int]
"""Of vcpus or vms, how many."""
LOADS: Final[list[Load]] = [*(("vcpus", number) for number in VCPUS), *(("vms", number) for number in VMS)]


def measure(effort: Effort) -> list[Row]:
    """Rows of time per exit (not of waiting); p99 is of the time that one exit took."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-bench-")))
        servers = {way: _served(stack, directory, way) for way in WAYS}
        taken = {way: {_name(*load): list[Round]() for load in LOADS} for way in WAYS}
        for number in range(effort.rounds):
            effort.progress(f"many at once: round {number + 1} of {effort.rounds}")
            for load in LOADS:
                for way, (daemon, line) in servers.items():
                    WIDEST.take(daemon, line.process)
                    _round(line, load, effort.count // WARM_UP + 1)
                    taken[way][_name(*load)].append(_round(line, load, effort.count))
    references = _name("vcpus", 1), _name("vms", 1)
    return [row for way in WAYS for row in rows(f"exits outstanding, {way}", taken[way], references)]


def _served(stack: ExitStack, directory: Path, way: str) -> tuple[Process, Line]:
    folder = directory / way
    folder.mkdir()
    daemon = start_daemon(stack, folder, [vm(folder, f"vm{number}") for number in range(max(VMS))])
    return daemon, loaded(stack, folder, max(VMS), max(VCPUS), way)


def loaded(stack: ExitStack, directory: Path, vms: int, vcpus: int, way: str) -> Line:
    """A client with sessions to vm0, vm1, ..., of which vm0 has several vCPUs."""
    line = client(stack, compiled("load", directory), str(directory), str(vms), str(vcpus), way)
    assert line.process.stdout is not None
    line.process.stdout.readline()  # "ready"
    return line


def _name(who: str, number: int) -> str:
    what = {"vcpus": "vCPU", "vms": "VM"}[who]
    return f"{number} {what}{'s' if number > 1 else ''}"


def _round(line: Line, load: Load, count: int) -> Round:
    line.tell(f"{load[0]} {load[1]} {count}")
    took, *samples = line.numbers(count + 1)
    found = Round.of(samples, took)
    return Round(took / count / NS_PER_US, found.p99, found.rate, count)
