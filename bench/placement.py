"""Where servers and clients run."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

from attrs import frozen

from bench.programs import Process, pin

SAME, TWO = "same CPU", "two CPUs"


@frozen
class Placement:
    """A CPU for the servers and one for the clients."""

    name: str
    server: int
    client: int

    def take(self, server: Process, client: Process) -> None:
        """Move them."""
        pin(server, self.server)
        pin(client, self.client)


def _available() -> dict[str, Placement]:
    first, *others = sorted(os.sched_getaffinity(0))
    places = [Placement(SAME, first, first)]
    places += [Placement(TWO, first, other) for other in others[:1]]
    return {place.name: place for place in places}


PLACEMENTS: Final[Mapping[str, Placement]] = _available()
"""With one CPU to run on there is only `SAME`."""
WIDEST: Final = list(PLACEMENTS.values())[-1]
