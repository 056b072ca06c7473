"""How a command ends that was not done: an exit code, and a sentence on standard error."""

from __future__ import annotations

import sys
from typing import Final

REFUSED: Final = 1
WRONG: Final = 2
GONE: Final = 3
INTERRUPTED: Final = 130


def complain(text: str) -> None:
    """Say what is wrong."""
    print(f"mmioctl: {text}", file=sys.stderr)
