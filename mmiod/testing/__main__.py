"""Write a device's state of now to where its older ones are: see `mmiod.testing.golden`.

python -m mmiod.testing countdown.py states
"""

from __future__ import annotations

import sys
from pathlib import Path

from mmiod.testing.golden import add
from mmiod.testing.suite import Terms, load


def main(arguments: list[str]) -> int:
    """Do it, and say what became of it."""
    if len(arguments) != 2:
        sys.stderr.write("usage: python -m mmiod.testing PLUGIN.py FOLDER\n")
        return 2
    try:
        written = add(Terms(load(Path(arguments[0]))), Path(arguments[1]))
    except (OSError, ValueError, SyntaxError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"{written or 'there is one of this shape'}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
