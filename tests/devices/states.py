"""Write the states of now of all bundled devices to tests/devices/states: `make states`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from mmiod.testing.golden import add
from tests.devices.subjects import PLUGINS, ROOT, terms

STATES: Final = Path(__file__).parent / "states"


def folder(plugin: Path) -> Path:
    """Where the states of a bundled device are."""
    return STATES / plugin.relative_to(ROOT).with_suffix("")


def main() -> int:
    """Write what is missing; whether nothing contradicts what is there."""
    refused = 0
    for plugin in PLUGINS:
        try:
            written = add(terms(plugin), folder(plugin))
        except ValueError as error:
            refused += 1
            sys.stderr.write(f"{error}\n")
        else:
            sys.stdout.write(f"{written}\n" if written else "")
    return refused


if __name__ == "__main__":
    sys.exit(main())
