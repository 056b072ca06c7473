"""What a fuzz target is: a module of `tests.fuzz.targets`.

Its docstring begins with the invariant.  `seeds()` gives inputs that make sense, made by
code; `run(data)` takes any bytes, is deterministic, and raises if the invariant is broken.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Final, Protocol, cast

FOLDER: Final = Path(__file__).parent / "targets"
NAMES: Final = sorted(path.stem for path in FOLDER.glob("*.py"))


class Target(Protocol):
    """The face of such a module."""

    def seeds(self) -> list[bytes]:
        """Inputs to begin with."""

    def run(self, data: bytes) -> None:
        """One execution."""


def load(name: str) -> Target:
    """A target by its name; a dotted name is that of any module."""
    module = name if "." in name else f"tests.fuzz.targets.{name}"
    return cast("Target", importlib.import_module(module))
