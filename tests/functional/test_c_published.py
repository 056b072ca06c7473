"""A client in C that reads what is published and posts what it may, against the real daemon."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from mmiod.attach.shared import OFFERED

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "attach" / "published.c"
STRICT = ("gcc", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-g", "-pthread")
TIMEOUT_S = 200

SEEN = {
    "reads": ["LSR 60, SCR 0, port 70h ff", "0 messages", "2 messages"],
    "order": ["0 wrong; some posts: 1, some loads: 1"],
    "config": ["13056 reads, 0 wrong, few messages: 1"],
    "counter": ["0 wrong, 0 messages", "ffffffff where it was", "0 messages where it is"],
    "vcpus": ["0 wrong, posted: 1"],
    "paused": ["0 1"],
}
"""What each scenario prints; in published.c is what it did."""

pytestmark = [pytest.mark.needs("gcc"), pytest.mark.skipif(not OFFERED, reason="x86-64 only")]

Run = Callable[[str], list[str]]


@pytest.fixture(scope="module")
def run(exit_socket: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Runs a scenario: what it prints."""
    program = tmp_path_factory.mktemp("programs") / "published"
    subprocess.run([*STRICT, "-I", str(ROOT / "include"), str(SOURCE), "-o", str(program)], check=True)

    def run(scenario: str) -> list[str]:
        command = [str(program), str(exit_socket), "vm", scenario]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        assert (0, "") == (done.returncode, done.stderr)
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize("scenario", SEEN)
def test_scenario(run: Run, scenario: str) -> None:
    """Every value is what a message would have brought, in the order of the program."""
    assert SEEN[scenario] == run(scenario)
