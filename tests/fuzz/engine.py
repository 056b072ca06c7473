"""One target under atheris, in a process of its own: libFuzzer ends the process when it is done.

    python -m tests.fuzz.engine TARGET LIBFUZZER-ARGUMENTS

All of `mmiod` and every plugin is instrumented, so that libFuzzer sees edges of Python code.
"""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from types import FunctionType
from typing import Final

import atheris

from tests.fuzz.target import load

PLUGINS: Final = str(Path(__file__).parents[2] / "devices")


def main() -> None:
    """Fuzz until libFuzzer has had enough."""
    name, arguments = sys.argv[1], sys.argv[2:]
    with atheris.instrument_imports(include=["mmiod"]):
        target = load(name)
    for thing in gc.get_objects():  # the loader of plugins is our own: atheris does not see it
        if isinstance(thing, FunctionType) and thing.__code__.co_filename.startswith(PLUGINS):
            atheris.instrument_func(thing)
    atheris.Setup([sys.argv[0], *arguments], target.run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
