"""One access at a time, by every way there is: floors, peers and ours in one contest."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import exits, floors, peers
from bench.contest import Effort, contest
from bench.figures import Row

REFERENCES: Final = (floors.SEQPACKET, peers.LIBVFIO_USER)
"""The floor, and the peer that ours have to stand beside."""


def measure(effort: Effort) -> tuple[list[Row], Mapping[str, int]]:
    """Rows and lost rounds."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-bench-")))
        effort.progress("compiling clients, starting servers")
        contestants = [
            *floors.contestants(stack, directory),
            *peers.contestants(stack, directory, effort.progress),
            *exits.contestants(stack, directory),
        ]
        return contest(contestants, REFERENCES, effort)
