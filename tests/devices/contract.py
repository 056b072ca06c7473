"""Every bundled device under many hostile accesses: what it must not do is grow.

python -m tests.devices.contract 100000             # that many accesses for each device
python -m tests.devices.contract 100000 hpet        # of these devices
"""

from __future__ import annotations

import sys
import time
from typing import Final

from mmiod.testing.suite import answers_every_access, growth
from tests.devices.subjects import PLUGINS, terms

ROW: Final = "{:28} {:>11,} accesses {:7.1f} s {:9,.0f}/s   {}"


def main(arguments: list[str]) -> int:
    """Try each device; a table that grows as it goes."""
    count = int(arguments[0]) if arguments else 100_000
    chosen = [path for path in PLUGINS if not arguments[1:] or path.stem in arguments[1:]]
    failed = 0
    for number, path in enumerate(chosen, 1):
        sys.stderr.write(f"\r\x1b[K{number}/{len(chosen)} {path.stem} ")
        sys.stderr.flush()
        started, device = time.perf_counter(), terms(path, count)
        try:
            answers_every_access(device)
            grown = growth(device)
            said = ", ".join(f"{what} {by:+}" for what, by in grown.items())
            bad = max(grown.values()) > device.growth
        except AssertionError as error:
            said, bad = str(error), True
        seconds = time.perf_counter() - started
        failed += bad
        name = f"{path.parent.name}/{path.stem}"
        sys.stderr.write("\r\x1b[K")
        sys.stdout.write(
            ROW.format(name, count, seconds, count / seconds, ("FAILED: " if bad else "") + said) + "\n"
        )
        sys.stdout.flush()
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
