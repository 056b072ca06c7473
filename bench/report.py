"""The figures with what they were taken on, for people and for programs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Final

import orjson
from attrs import field, frozen
from cattrs import structure, unstructure

from bench.figures import Row
from mmiod import compiled as hot_path

KEPT: Final = Path(__file__).parent / "results.json"
"""The last full run.  Git ignores it: figures belong to one computer and one hour."""


@frozen
class Computer:
    """What the figures were taken on."""

    processor: str = field()
    cores: int = field(factory=lambda: os.cpu_count() or 1)
    kernel: str = field(factory=platform.release)
    python: str = field(factory=lambda: f"{platform.python_implementation()} {platform.python_version()}")
    compiled: bool = field(factory=lambda: hot_path.made() is not None)
    """The hot path runs as C (`mmiod.compiled`)."""

    @processor.default
    def _model(self) -> str:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        return next(names, platform.machine())

    def __str__(self) -> str:
        path = "C" if self.compiled else "Python"
        return f"{self.processor}, {self.cores} cores, Linux {self.kernel}, {self.python}, hot path in {path}"


@frozen
class Report:
    """One run."""

    rounds: int
    count: int
    rows: list[Row]
    lost: Mapping[str, int] = field(factory=dict)
    """Rounds that do not count, by placement."""
    computer: Computer = field(factory=Computer)

    @property
    def subjects(self) -> list[tuple[str, list[Row]]]:
        """The rows of each subject."""
        return [(subject, list(rows)) for subject, rows in groupby(self.rows, lambda row: row.subject)]

    def json(self) -> bytes:
        """For programs."""
        return orjson.dumps(unstructure(self), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)

    @classmethod
    def read(cls, path: Path) -> Report:
        """What `json` gave."""
        return structure(orjson.loads(path.read_bytes()), cls)


def table(report: Report) -> Iterator[str]:
    """The report in lines."""
    yield str(report.computer)
    lost = ", ".join(f"{number} {placement}" for placement, number in report.lost.items()) or "none"
    yield f"{report.rounds} rounds of {report.count}; figures are medians of the rounds; lost rounds: {lost}"
    for subject, rows in report.subjects:
        references = list(dict.fromkeys(name for row in rows for name in row.ratios))
        width = max(46, max(len(row.name) for row in rows) + 2)
        yield ""
        yield f"{subject:{width}}{'p50':>10}{'p99':>10}{'rate/s':>10}" + "".join(
            f"{'x ' + name:>20}" for name in references
        )
        for row in rows:
            ratios = (
                f"{row.ratios[name].median:20.3g}" if name in row.ratios else " " * 20 for name in references
            )
            figures = f"{row.p50:10.4g}{_or_blank(row.p99, '10.4g')}{_or_blank(row.rate, '10.0f')}"
            unit = "" if row.unit == "us" else row.unit
            yield f"{row.name:{width}}{figures}{''.join(ratios)}  {unit}".rstrip()


def _or_blank(value: float | None, form: str) -> str:
    return " " * 10 if value is None else f"{value:{form}}"
