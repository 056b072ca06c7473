"""Journals of machines whose accesses went the flat lane or the general way."""

from __future__ import annotations

from typing import cast

from mmiod.core.places import place_of
from mmiod.machine.host import InlineHost
from mmiod.machine.journal import DONE, Entry
from mmiod.values import READ, Space


def changing(host: InlineHost) -> list[Entry]:
    """The journal without reads of what is stored: the lane does not note them, as they change nothing."""
    kept = list[Entry]()
    for entry in host.journal.entries:
        if entry is DONE and kept and _is_of_what_is_stored(host, kept[-1]):
            kept.pop()
        else:
            kept.append(entry)
    return kept


def _is_of_what_is_stored(host: InlineHost, entry: Entry) -> bool:
    if entry is None or len(entry) != 2:
        return False
    kind, arguments = entry
    if kind != "read":
        return False
    region, offset, size = cast("tuple[str, int, int]", arguments)
    place = place_of(host, region, offset, size, READ, (Space.MMIO, 0))
    return place is not None and place.stored > 0
