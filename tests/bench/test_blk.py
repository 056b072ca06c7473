"""The benchmark of a guest's disk: what it measures, and what it says where it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.blk import DISKS, KINDS, OURS, SUBJECT, THEIRS
from bench.shares import KERNEL, LIBRARY, PYTHON, USER, sampled

ROOT = Path(__file__).parents[2]
BURN = """\
for _ in range(5_000_000): pass
print(flush=True)
input()
"""


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The benchmark as `make bench` runs it."""
    return subprocess.run(
        [sys.executable, "-m", "bench", "--only", "blk", "--json", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.needs("stock")
def test_a_stock_guest_reads_and_writes_both_disks() -> None:
    """Each kind has times, throughputs and the ratio of the two; parts of the CPU time are all of it."""
    ran = run("--rounds", "1")
    assert 0 == ran.returncode, ran.stderr
    rows = {row["name"]: row for row in json.loads(ran.stdout)["rows"] if row["subject"] == SUBJECT}
    for kind in KINDS:
        for disk in DISKS:
            assert 0 < rows[f"{kind}, {disk}"]["p50"]
            assert 0 < rows[f"{kind}, {disk}: throughput"]["p50"]
        assert {THEIRS} == rows[f"{kind}, {OURS}"]["ratios"].keys()
        assert 0 < rows[f"{kind}, {OURS}: CPU of the daemon"]["p50"]
        parts = [row["p50"] for name, row in rows.items() if name.startswith(f"{kind}, {OURS}: CPU in")]
        assert 100 == pytest.approx(sum(parts))


def test_without_stock_parts_it_is_skipped_and_the_reason_told(tmp_path: Path) -> None:
    """There is nothing in the cache, and no archive to fill it from."""
    ran = run(MMIOD_CACHE=str(tmp_path), MMIOD_MIRROR="http://127.0.0.1:9/")
    assert 0 == ran.returncode, ran.stderr
    assert [] == json.loads(ran.stdout)["rows"]
    assert "blk: skipped, there is no stock QEMU or kernel: " in ran.stderr


@pytest.mark.parametrize("perf", [True, False])
def test_parts_of_the_time_of_a_loop_in_python(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, perf: bool
) -> None:
    """Nearly all of it is Python's; without perf the C library's is not told apart, and that is said."""
    said: list[str] = []
    if not perf:
        monkeypatch.setattr(shutil, "which", lambda _name: None)
    with subprocess.Popen(
        [sys.executable, "-c", BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as burning:
        assert burning.stdin is not None
        assert burning.stdout is not None
        with sampled(burning, tmp_path / "perf.data", said.append) as shares:
            burning.stdout.readline()
        burning.stdin.write(b"\n")
        burning.stdin.close()
    assert 1 == pytest.approx(sum(shares.parts.values()))
    assert shares.parts.keys() <= ({USER, KERNEL} if said else {PYTHON, KERNEL, LIBRARY})
    assert shares.parts[USER if said else PYTHON] > 0.5
    assert perf or said
