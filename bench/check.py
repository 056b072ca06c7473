"""`make bench-check`: whether a ratio got worse beyond noise.

`baseline.json` has the ratios that were accepted, with the quartiles of their rounds.  A ratio is worse
if even the lower quartile of this run is above the upper one of then, and by more than `MARGIN`.
Absolute times are not compared: they belong to one computer and one hour.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

import orjson
from cattrs import structure, unstructure

from bench import floors, peers
from bench.figures import Ratio, Row

BASELINE: Final = Path(__file__).parent / "baseline.json"
MARGIN: Final = 1.25
FOREIGN: Final = (*floors.ALL, peers.LIBVFIO_USER, peers.QTEST)
"""What we cannot make worse."""
CLOCK_US: Final = 0.5
"""What takes no longer is measured with the clock's own time: not compared."""

Ratios = Mapping[str, Ratio]
"""By "subject: name / reference"."""


def ratios(rows: Sequence[Row]) -> dict[str, Ratio]:
    """All that can be compared."""
    ours = (row for row in rows if not row.name.startswith(FOREIGN))
    return {
        f"{row.subject}: {row.name} / {reference}": found
        for row in ours
        if row.unit != "us" or row.p50 > CLOCK_US
        for reference, found in row.ratios.items()
    }


def keep(rows: Sequence[Row], path: Path = BASELINE) -> None:
    """Accept what was measured."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE
    path.write_bytes(orjson.dumps(unstructure(ratios(rows)), option=options))


def accepted(path: Path = BASELINE) -> Ratios:
    """The baseline."""
    return structure(orjson.loads(path.read_bytes()), dict[str, Ratio])


def worse(rows: Sequence[Row], baseline: Ratios) -> Iterator[str]:
    """What regressed, in words; nothing if all is well."""
    for name, now in ratios(rows).items():
        before = baseline.get(name)
        if before is not None and now.low > before.high * MARGIN:
            yield (
                f"{name}: {now.median:.3g} (at least {now.low:.3g}), "
                f"accepted was {before.median:.3g} (at most {before.high:.3g})"
            )
