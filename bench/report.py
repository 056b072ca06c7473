"""The figures with what they were taken on, for people and for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from attrs import field, frozen

from bench.in_process import Step
from bench.round_trips import RoundTrip

KEPT: Final = Path(__file__).parent / "results.json"
"""The last full run.  Git ignores it: figures belong to one computer and one hour."""


@frozen
class Computer:
    """What the figures were taken on."""

    processor: str = field()
    cores: int = field(factory=lambda: os.cpu_count() or 1)
    kernel: str = field(factory=platform.release)
    python: str = field(factory=lambda: f"{platform.python_implementation()} {platform.python_version()}")

    @processor.default
    def _model(self) -> str:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return next(names, platform.machine())


@frozen
class Report:
    """One run."""

    computer: Computer
    rounds: int
    count: int
    round_trips: list[RoundTrip]
    in_process: list[Step]


def table(report: Report) -> Iterator[str]:
    """The report in lines."""
    computer = report.computer
    yield f"{computer.processor}, {computer.cores} cores, Linux {computer.kernel}, {computer.python}"
    yield f"{report.rounds} rounds of {report.count} round trips on SOCK_SEQPACKET; medians of the rounds"
    yield ""
    yield f"{'':10}{'exit':9}{'server':8}{'p50 us':>9}{'p99 us':>9}{'rate/s':>9}{'ratio':>8}"
    for found in report.round_trips:
        yield (
            f"{found.placement:10}{found.exit:9}{found.peer:8}{found.p50_us:9.1f}{found.p99_us:9.1f}"
            f"{found.rate:9.0f}{found.ratio:7.2f}x"
        )
    yield ""
    yield f"{'in one process, without sockets; best':45}{'us':>8}"
    for step in report.in_process:
        yield f"{step.step:45}{step.us:8.2f}"
