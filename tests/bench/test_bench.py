from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "bench" / "results.json"


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The benchmark as `make bench` runs it."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.needs("gcc")
def test_the_client_completes_its_exits_at_the_daemon() -> None:
    """It checks every completion; each exit has figures beside the echo's; a quick run keeps nothing."""
    before = KEPT.stat().st_mtime_ns if KEPT.exists() else None
    ran = run("--quick", "--json", "--rounds", "1", "--count", "50")
    assert 0 == ran.returncode, ran.stderr
    report = json.loads(ran.stdout)
    placements = {"same CPU", "two CPUs"} if len(os.sched_getaffinity(0)) > 1 else {"same CPU"}
    expected = {
        (where, what, who) for where in placements for what in ("decoded", "raw") for who in ("echo", "mmiod")
    }
    assert expected == {(row["placement"], row["exit"], row["peer"]) for row in report["round_trips"]}
    assert all(row["p50_us"] > 0 for row in report["round_trips"])
    assert all(step["us"] > 0 for step in report["in_process"])
    assert before == (KEPT.stat().st_mtime_ns if KEPT.exists() else None)


def test_a_missing_compiler_is_one_line(tmp_path: Path) -> None:
    """Nothing is started, and the line names what to install."""
    ran = run("--quick", PATH=str(tmp_path))
    assert 1 == ran.returncode
    assert "no gcc" in ran.stderr
    assert "gcc libc6-dev" in ran.stderr.splitlines()[-1]
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("count", ["0", "-1", "many", "1048577"])
def test_counts_are_checked(count: str) -> None:
    """A count that the client could not keep, or none, is a usage error."""
    ran = run("--count", count)
    assert 2 == ran.returncode
    assert "--count" in ran.stderr
