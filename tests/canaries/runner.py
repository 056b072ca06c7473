"""A copy of the tree for each worker: plant one bug, run its test, take the bug out again."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final, Literal

from attrs import frozen

from tests.canaries.table import Canary

ROOT: Final = Path(__file__).parents[2]
LIMIT_S: Final = 60
"""Of a test with a bug, which may hang: that is caught too."""
ALL_S: Final = 600
"""Of all tests without one, on a slow machine."""
ONE_OR_MORE_FAILED: Final = 1
"""pytest's exit code, apart from those that say that it ran nothing."""

Verdict = Literal["caught", "hung", "SURVIVED", "NOT RUN"]


class CanaryError(Exception):
    """The table does not fit the tree."""


@frozen
class Result:
    """How a canary fared; `output` is pytest's."""

    canary: Canary
    verdict: Verdict
    output: str

    @property
    def good(self) -> bool:
        """Whether the bug was noticed."""
        return self.verdict in {"caught", "hung"}


def copy_tree(to: Path) -> None:
    """The files that git knows or would know, as they are in the work tree now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def check(canary: Canary, tree: Path = ROOT) -> None:
    """See that a bug can be planted.

    Raises:
        CanaryError: its text is not there exactly once.
    """
    file = tree / canary.file
    count = file.read_text().count(canary.old) if file.is_file() else 0
    if count != 1:
        raise CanaryError(f"{canary.bug!r}: its text is {count} times in {canary.file}; plant it anew")


def run_tests(tree: Path, tests: list[str], limit_s: int = ALL_S) -> tuple[int | None, str]:
    """The exit code of pytest (None if it took too long) and what it printed."""
    assert tests, "without a name pytest runs them all"
    command = [sys.executable, "-B", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    environment = os.environ | {"CI": "1", "PYTHONDONTWRITEBYTECODE": "1"}  # the same examples always
    environment.pop("PYTHONPATH", None)
    try:
        done = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, f"no end within {limit_s} s"
    return done.returncode, done.stdout


def try_canary(tree: Path, canary: Canary) -> Result:
    """Plant one bug in a tree of its own, and run its test."""
    check(canary, tree)
    file = tree / canary.file
    whole = file.read_text()
    file.write_text(whole.replace(canary.old, canary.new))
    try:
        code, output = run_tests(tree, [canary.test], LIMIT_S)
    finally:
        file.write_text(whole)
    return Result(canary, _verdict(code), output)


def _verdict(code: int | None) -> Verdict:
    if code is None:
        return "hung"
    return "caught" if code == ONE_OR_MORE_FAILED else "SURVIVED" if code == 0 else "NOT RUN"
