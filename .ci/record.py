"""Turn what a command prints into a picture: standard input -> an SVG file.

    mmiod demo | python .ci/record.py docs/demo.svg "make demo"

The middle of a long output is left out, and says so.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

WIDTH: Final = 134
HEAD: Final = 30
TAIL: Final = 46


def record(lines: list[str], title: str) -> str:
    """The SVG of a terminal that shows these lines."""
    left_out = len(lines) - HEAD - TAIL
    if left_out > 0:
        lines = [*lines[:HEAD], f"        ... {left_out} lines ...", *lines[-TAIL:]]
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    for line in lines:
        console.print(Text(line[:WIDTH]), no_wrap=True)
    return console.export_svg(title=title)


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(record(sys.stdin.read().splitlines(), sys.argv[2]))
