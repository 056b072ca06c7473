"""Counters that an access passes: plain classes, of which `mmiod.compiled` makes C structures."""

from __future__ import annotations

from typing import Final

LAST_BUCKET: Final = 39


class Statistics:
    """Of one device."""

    def __init__(self) -> None:
        self.reads = 0
        self.writes = 0
        self.refused = 0
        """Accesses of a size or alignment that the region does not answer."""
        self.faults = 0
        """Hooks that failed."""
        self.latency = [0] * (LAST_BUCKET + 1)
        """Accesses, in buckets of powers of two of ns."""

    def took(self, ns: int) -> None:
        """Count a hook's duration."""
        self.latency[min(ns.bit_length(), LAST_BUCKET)] += 1


class Taken:
    """Exits that a session's flat lane took, posted writes included."""

    def __init__(self) -> None:
        self.decoded = 0
        self.raw = 0
