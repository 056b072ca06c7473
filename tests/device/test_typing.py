"""mypy sees the type of everything that a device declares."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = Path(__file__).parent / "typing"


def remarks(file: str) -> list[tuple[int, str]]:
    """Line and text of what mypy says about a file."""
    command = [sys.executable, "-m", "mypy", "--strict", "--show-error-codes", str(FOLDER / file)]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not said.stderr, said.stderr
    found = re.findall(rf"^\S*{file}:(\d+): (.*)$", said.stdout, re.MULTILINE)
    return [(int(line), text) for line, text in found]


def comments(file: str, begin: str) -> list[tuple[int, str]]:
    """Line and comment of the lines that match `begin`."""
    lines = enumerate((FOLDER / file).read_text().splitlines(), 1)
    return [(number, line.partition("  # ")[2]) for number, line in lines if re.search(begin, line)]


def test_every_declaration_has_its_type() -> None:
    """`reveal_type` says int of a register, Line of an output, and so on."""
    found = [
        (line, re.sub(r"\w+\.", "", text.partition('"')[2].rstrip('"').replace("builtins.", "")))
        for line, text in remarks("declared.py")
    ]
    assert comments("declared.py", "reveal_type\\(") == found


def test_mistakes_are_found() -> None:
    """An access mode that is none, a text in a register, a hook that answers a text."""
    found = {line: text for line, text in remarks("wrong.py") if text.startswith("error")}
    expected = dict(comments("wrong.py", "# (arg-type|assignment|return-value)"))
    for line, code in expected.items():
        assert f"[{code}]" in found.pop(line)
    assert {"type-var"} == {text.rpartition("[")[2].rstrip("]") for text in found.values()}
