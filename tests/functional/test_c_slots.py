"""A client in C whose exits go through shared memory, against the real daemon."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mmiod.attach.shared import OFFERED

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    "client": ROOT / "tests" / "attach" / "slots.c",
    "bench": ROOT / "bench" / "slots.c",
}
STRICT = ("gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-g", "-pthread")
TIMEOUT_S = 200

SEEN = {
    "exits": ["12345678", "the end", "rax 12345678 rip 1002", "rax 12345678 rip 1004"],
    "posted": ["2000", "1"],
    "threads": ["1"],
    "reconnect": ["0", "1", "77", "2", "in the slot again: 1"],
    "killed": ["20"],
    "forked": ["1"],
}
"""What each scenario prints; in slots.c is what it did."""

pytestmark = [pytest.mark.needs("gcc"), pytest.mark.skipif(not OFFERED, reason="x86-64 only")]

Run = Callable[..., list[str]]


@pytest.fixture(scope="module")
def run(exit_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs one of the programs: what it prints."""
    directory = tmp_path_factory.mktemp("programs")
    for name, source in SOURCES.items():
        command = [*STRICT, "-I", str(ROOT / "include"), str(source), "-o", str(directory / name)]
        subprocess.run(command, check=True)

    def run(name: str, *arguments: str) -> list[str]:
        command = [str(directory / name), str(exit_socket), "vm", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        assert (0, "") == (done.returncode, done.stderr)
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize("spin", ["0", "400"])
@pytest.mark.parametrize("scenario", SEEN)
def test_client_sees_what_the_document_promises(run: Run, scenario: str, spin: str) -> None:
    """In place or by message, asleep or looking, broken off or killed: each exit is done once."""
    assert SEEN[scenario] == run("client", scenario, spin)


@pytest.mark.parametrize("kind", ["decoded", "raw", "posted"])
def test_bench_client_checks_what_it_is_answered(run: Run, kind: str) -> None:
    """It prints its five figures; one or eight vCPUs."""
    for vcpus in ("1", "8"):
        (line,) = run("bench", kind, "500", vcpus, "400")
        assert [kind, vcpus] == line.split()[:2]
        assert len(line.split()) == 6
