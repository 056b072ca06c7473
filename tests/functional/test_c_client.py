"""A client in C, written from the header and the document alone, against the real daemon."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "tests" / "attach" / "client.c"
STRICT = ("-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-g", "-I", str(ROOT / "include"))
C = ("gcc", "-std=c11")
CPLUSPLUS = ("g++", "-std=c++17", "-x", "c++")
VALGRIND = ("valgrind", "--quiet", "--leak-check=full", "--show-leak-kinds=all", "--error-exitcode=9")
TIMEOUT_S = 200

SEEN = {
    "decoded": ["12345678 5678", "QEMU", "stnemele neetxis"],
    "raw": [
        "rax 6f696d6d rip 1002",
        "need 37 8000 4",
        "rsi 8004 rdi febf0008",
        "written 9000 mmio alone 1",
        "answer 34 vector 13 rip 1004",
    ],
    "posted": ["200", "200"],
    "interrupts": ["intr 1", "pending 1", "intr 0", "vector 20"],
    "reset": ["request 2", "Operation canceled", "ffffffff"],
    "resend": ["0", "welcome 1", "2", "3"],
    "error": ["Remote I/O error", "exit_decoded.size 3", "welcome 1", "abc"],
    "join": ["6d6d1234"],
}
"""What each scenario prints after its first WELCOME; in client.c is what it did."""

Run = Callable[..., list[str]]


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(C, id="c11", marks=pytest.mark.needs("gcc")),
        pytest.param(CPLUSPLUS, id="c++17", marks=pytest.mark.needs("g++")),
    ],
)
def client(
    request: pytest.FixtureRequest, exit_socket: Path, tmp_path_factory: pytest.TempPathFactory
) -> Run:
    """Runs client.c: what it prints of a scenario."""
    program = tmp_path_factory.mktemp("client") / "client"
    subprocess.run([*request.param, *STRICT, str(SOURCE), "-o", str(program)], check=True)

    def run(scenario: str, *under: str) -> list[str]:
        command = [*under, str(program), str(exit_socket), "vm", scenario]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        assert (0, "") == (done.returncode, done.stderr)
        return done.stdout.splitlines()

    return run


@pytest.mark.parametrize("scenario", SEEN)
def test_client_sees_what_the_document_promises(client: Run, scenario: str) -> None:
    """Values, deltas, supplements, vectors, resets, resends and errors arrive as documented."""
    assert ["welcome 0", *SEEN[scenario]] == client(scenario)


@pytest.mark.needs("valgrind")
@pytest.mark.parametrize("scenario", ["decoded", "raw", "resend", "error"])
def test_client_has_no_error_that_valgrind_sees(client: Run, scenario: str) -> None:
    """No byte is sent or used that nobody wrote, none is lost, whatever breaks."""
    assert ["welcome 0", *SEEN[scenario]] == client(scenario, *VALGRIND)


def test_client_stays_small() -> None:
    """The header carries a client of 200 lines."""
    assert len(SOURCE.read_text().splitlines()) <= 200
