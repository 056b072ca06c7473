"""Round trips over sockets: the daemon's and the echo's, of both exits, in turn."""

from __future__ import annotations

import os
import subprocess
from array import array
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import median
from typing import Final

from attrs import field, frozen

from bench.programs import BenchError, Programs

ECHO, MMIOD = "echo", "mmiod"
EXITS: Final = ("decoded", "raw")
NS_PER_US: Final = 1000
WARM_UP: Final = 10
"""A part of this size of a round's round trips is done before, and forgotten."""


@frozen
class Variant:
    """One thing that is measured: a row of the table."""

    placement: str
    exit: str
    peer: str


@frozen
class Round:
    """What one round gave for one variant; times in us."""

    p50: float
    p99: float
    rate: float
    """Round trips in a second."""


@frozen
class RoundTrip:
    """A variant's medians over all rounds; `ratio` is p50 by that of the echo beside it."""

    placement: str
    exit: str
    peer: str
    p50_us: float
    p99_us: float
    rate: float
    ratio: float


@frozen
class Placements:
    """Which CPU the servers and the client run on, by name."""

    cpus: Mapping[str, tuple[int, int]] = field()

    @cpus.default
    def _available(self) -> dict[str, tuple[int, int]]:
        first, *others = sorted(os.sched_getaffinity(0))
        same = {"same CPU": (first, first)}
        return same | ({"two CPUs": (first, others[0])} if others else {})

    def take(self, name: str, programs: Programs) -> None:
        """Move the programs."""
        servers, client = self.cpus[name]
        _pin(programs.daemon, servers)
        _pin(programs.echo, servers)
        _pin(programs.client, client)


def _pin(process: subprocess.Popen[bytes], cpu: int) -> None:
    """Every thread: the affinity of a process is that of its first thread."""
    for thread in Path(f"/proc/{process.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), {cpu})


def measure(
    programs: Programs, placements: Placements, *, rounds: int, count: int, progress: Callable[[str], None]
) -> list[RoundTrip]:
    """Run one round to warm up and then `rounds` that count, each of `count` round trips per variant."""
    variants = [Variant(*parts) for parts in product(placements.cpus, EXITS, (ECHO, MMIOD))]
    taken: dict[Variant, list[Round]] = {variant: [] for variant in variants}
    for number in range(rounds + 1):
        progress(f"round {number} of {rounds}" if number else "warming up")
        for variant in variants:
            placements.take(variant.placement, programs)
            _ask(programs.client, variant, count // WARM_UP + 1)
            samples = _ask(programs.client, variant, count)
            if number:
                taken[variant].append(_round(samples))
    return list(_results(taken))


def _ask(client: subprocess.Popen[bytes], variant: Variant, count: int) -> Sequence[int]:
    """The durations of `count` round trips in ns, as the client took them, sorted."""
    assert client.stdin is not None
    assert client.stdout is not None
    samples = array("Q")
    try:
        client.stdin.write(f"{variant.peer} {variant.exit} {count}\n".encode())
        client.stdin.flush()
        samples.frombytes(client.stdout.read(count * samples.itemsize))
    except (BrokenPipeError, ValueError) as error:
        raise BenchError("the client has ended") from error
    if len(samples) != count:
        raise BenchError("the client has ended")
    return sorted(samples)


def _round(samples: Sequence[int]) -> Round:
    count = len(samples)
    return Round(
        p50=samples[count // 2] / NS_PER_US,
        p99=samples[count * 99 // 100] / NS_PER_US,
        rate=count * 1e9 / sum(samples),
    )


def _results(taken: Mapping[Variant, Sequence[Round]]) -> Iterator[RoundTrip]:
    for variant, rounds in taken.items():
        floors = taken[Variant(variant.placement, variant.exit, ECHO)]
        yield RoundTrip(
            variant.placement,
            variant.exit,
            variant.peer,
            p50_us=median(each.p50 for each in rounds),
            p99_us=median(each.p99 for each in rounds),
            rate=median(each.rate for each in rounds),
            ratio=median(each.p50 / floor.p50 for each, floor in zip(rounds, floors, strict=True)),
        )
