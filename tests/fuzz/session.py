"""A run of one target: its folders, its command, and what libFuzzer says of it at the end."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from attrs import frozen

from tests.fuzz.target import load

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / ".fuzz"
"""Per target what was found (`findings`) and the inputs that reached something new (`corpus`)."""
LONGEST: Final = 1 << 14
"""Bytes of an input."""
OPTIONS: Final = (
    f"-max_len={LONGEST}",
    "-timeout=20",
    "-rss_limit_mb=1024",
    "-print_final_stats=1",
    "-use_value_profile=1",
)
COVERAGE: Final = re.compile(r"^#\d+\s.* cov: (\d+) .* corp: (\d+)/", re.MULTILINE)
EXECUTIONS: Final = re.compile(r"^stat::number_of_executed_units: *(\d+)", re.MULTILINE)
SPEED: Final = re.compile(r"^stat::average_exec_per_sec: *(\d+)", re.MULTILINE)
ARTIFACT: Final = re.compile(r"Test unit written to (\S+)")


@frozen
class Outcome:
    """What came of a run; `log` is libFuzzer's, whole."""

    target: str
    edges: int
    inputs: int
    executions: int
    per_second: int
    finding: Path | None
    log: str
    status: int

    @property
    def failed(self) -> bool:
        """Whether it found something, or did not run."""
        return self.status != 0 or self.finding is not None


def fuzz(target: str, seconds: int, folder: Path = FOLDER, seed: int = 0, runs: int = -1) -> Outcome:
    """Run a target for so many seconds, or `runs` times, if that is earlier and not negative.

    libFuzzer's random `seed` is the time's if 0.
    """
    corpus, findings = folder / target / "corpus", folder / target / "findings"
    for place in (corpus, findings):
        place.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="mmiod-seeds-") as seeds:
        for data in load(target).seeds():
            (Path(seeds) / hashlib.sha256(data).hexdigest()[:16]).write_bytes(data)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz.engine", target),
                *(f"-max_total_time={seconds}", f"-runs={runs}", f"-seed={seed}"),
                *(f"-artifact_prefix={findings}/", *OPTIONS),
                *(str(corpus), seeds),
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    return outcome_of(target, done.stdout, done.returncode)


def outcome_of(target: str, log: str, status: int) -> Outcome:
    """Read libFuzzer's log."""
    reached = COVERAGE.findall(log)
    edges, inputs = map(int, reached[-1]) if reached else (0, 0)
    artifact = ARTIFACT.search(log)
    return Outcome(
        target,
        edges,
        inputs,
        _number(EXECUTIONS, log),
        _number(SPEED, log),
        Path(artifact[1]) if artifact else None,
        log,
        status,
    )


def _number(pattern: re.Pattern[str], log: str) -> int:
    found = pattern.search(log)
    return int(found[1]) if found else 0
