"""What a worker cannot do, as the kernel says."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROGRAM = """\
import os, resource, socket, sys
from mmiod.plugins.process import confinement
if os.getuid() == 0 and {drop}:
    os.setgid(65534); os.setuid(65534)
    confinement._needed = set  # root's own Python is not for this account
confinement.die_with_parent()
missing = confinement.confine()
if missing:
    print("skip", missing); sys.exit()
try:
    {attempt}
except BaseException as error:
    print(type(error).__name__)
else:
    print("done")
"""


def attempt(code: str, *, drop: bool = False) -> str:
    """What becomes of a statement in a confined process."""
    # A pipe, as a confined process writes no files.
    program = PROGRAM.format(attempt=code, drop=drop)
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    answer = done.stdout.strip()
    if answer.startswith("skip"):
        pytest.skip(f"this kernel has no {answer.removeprefix('skip ')}")
    return answer


@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("open('/etc/passwd')", "PermissionError"),
        ("open(os.devnull, 'w')", "PermissionError"),
        ("os.unlink({file!r})", "PermissionError"),
        ("os.mkdir({file!r} + '.d')", "PermissionError"),
        ("os.listdir('/')", "PermissionError"),
        ("os.execv('/bin/true', ['true'])", "PermissionError"),
        ("os.kill(os.getppid(), 0)", "PermissionError"),
        ("os.fork() or os._exit(0)", "PermissionError"),
        ("os.posix_spawn('/bin/true', ['true'], {{}})", "PermissionError"),
        ("socket.create_connection(('127.0.0.1', 9))", "PermissionError"),
        ("bytearray(2 << 30)", "MemoryError"),
        ("[os.dup(0) for _ in range(20)]", "OSError"),
        ("resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))", "ValueError"),
        ("import ftplib", "done"),
        ("sum(range(1000))", "done"),
    ],
)
def test_confined_process(tmp_path: Path, code: str, outcome: str) -> None:
    """Files, network, memory, descriptors, signals, processes: no.  Modules and computing: yes."""
    (tmp_path / "file").write_text("")
    root_raises_its_limits = "setrlimit" in code
    assert outcome == attempt(code.format(file=str(tmp_path / "file")), drop=root_raises_its_limits)
    assert (tmp_path / "file").exists()


def test_threads_are_no_processes() -> None:
    """The filter lets them start; an account without privileges has its `RLIMIT_NPROC`."""
    outcome = "done" if os.getuid() == 0 else "RuntimeError"
    assert outcome == attempt("__import__('threading').Thread(target=int).start()")
