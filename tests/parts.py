"""The real parts that tests run, as `.ci/parts` lists them.

`@pytest.mark.needs("seabios")` skips a test where the part is missing.  Where
MMIOD_REQUIRE names the part ("seabios,gcc", or "all"), the test fails instead.  "all"
does not ask for what a machine has or has not (/dev/kvm): that is named, "all,kvm".
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from attrs import frozen

LIST = Path(__file__).parent.parent / ".ci" / "parts"


@frozen
class Part:
    """A program or file that is not ours; `probe` is a shell command that finds it."""

    name: str
    packages: str
    skipped: str
    probe: str

    @property
    def installable(self) -> bool:
        """Whether set-up can provide it."""
        return self.packages != "(machine)"


@functools.cache
def parts() -> dict[str, Part]:
    """All parts by name."""
    lines = (line for line in LIST.read_text().splitlines() if not line.startswith("#"))
    rows = ([cell.strip() for cell in line.split("|", 3)] for line in lines)
    return {row[0]: Part(*row) for row in rows}


@functools.cache
def present(part: Part) -> bool:
    """Whether the part is on this machine."""
    environment = os.environ | {"PYTHON": sys.executable}
    found = subprocess.run(["sh", "-c", part.probe], env=environment, capture_output=True, check=False)
    return found.returncode == 0


def need(name: str) -> None:
    """Skip the test at hand if the part is missing, or fail it where MMIOD_REQUIRE names the part."""
    part = parts()[name]
    if not present(part):
        wanted = os.environ.get("MMIOD_REQUIRE", "").replace(",", " ").split()
        asked = name in wanted or (part.installable and "all" in wanted)
        verdict = pytest.fail if asked else pytest.skip
        verdict(f"{name} is missing; Debian packages: {part.packages or 'none'}")
