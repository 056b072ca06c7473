from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
KEPT = ROOT / "bench" / "results.json"
FLOORS = {"C, seqpacket", "C, stream"}
OURS = {
    "mmiod, vfio-user",
    "mmiod, decoded exit",
    "mmiod, raw exit",
    "mmiod, posted write",
    "mmiod, slots, decoded exit, client sleeps",
    "mmiod, decoded exit, device in a process",
}
SPINNING = {
    "C, shared memory",
    "mmiod, slots, decoded exit",
    "mmiod, slots, raw exit",
    "mmiod, slots, posted write",
}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The benchmark as `make bench` runs it."""
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.needs("gcc")
def test_the_clients_complete_their_round_trips() -> None:
    """They check every answer; each row has ratios to the floor beside it; a quick run keeps nothing."""
    before = KEPT.stat().st_mtime_ns if KEPT.exists() else None
    ran = run("--quick", "--json", "--rounds", "1", "--count", "50", "--only", "round-trips")
    assert 0 == ran.returncode, ran.stderr
    rows = json.loads(ran.stdout)["rows"]
    placements = {"same CPU", "two CPUs"} if len(os.sched_getaffinity(0)) > 1 else {"same CPU"}
    for placement in placements:
        found = {row["name"]: row for row in rows if row["subject"] == f"round trips, {placement}"}
        assert found.keys() >= FLOORS | OURS | (SPINNING if placement == "two CPUs" else set())
        assert all(row["p50"] > 0 and row["n"] == 50 for row in found.values())
        assert all("C, seqpacket" in found[name]["ratios"] for name in OURS)
    assert before == (KEPT.stat().st_mtime_ns if KEPT.exists() else None)


@pytest.mark.needs("gcc")
def test_many_vcpus_and_vms_are_answered() -> None:
    """Each of 16 vCPUs and of 64 VMs gets its answers while all others have an exit outstanding."""
    ran = run("--quick", "--json", "--rounds", "1", "--count", "100", "--only", "scale")
    assert 0 == ran.returncode, ran.stderr
    found = [(row["subject"], row["name"]) for row in json.loads(ran.stdout)["rows"]]
    numbers = ("1 vCPU", "2 vCPUs", "4 vCPUs", "8 vCPUs", "16 vCPUs", "1 VM", "4 VMs", "16 VMs", "64 VMs")
    assert [(f"exits outstanding, {way}", name) for way in ("sockets", "slots") for name in numbers] == found


def test_a_missing_compiler_is_one_line(tmp_path: Path) -> None:
    """Nothing is started, and the line names what to install."""
    ran = run("--quick", "--only", "round-trips", PATH=str(tmp_path))
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
