"""What a replayed boot waited for: which region, in which way, and why there was a message."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Sequence
from statistics import median
from typing import Final

from attrs import define, field, frozen

TOOK: Final = struct.Struct("<IBBBB")
"""Of replay.c: ns, way, cause, whether the daemon slept, whether it waited for posted writes."""
SHOWN: Final = 24


class Way(enum.IntEnum):
    """How an access was done."""

    MESSAGE = 0
    LOAD = 1
    POST = 2


class Cause(enum.IntEnum):
    """Why it was a message."""

    NONE = 0
    """It was none."""
    UNDECLARED = 1
    """Its register needs one."""
    NOT_NOW = 2
    """The policy of its register forbids now."""


@frozen(order=True)
class Group:
    """Accesses that should cost the same."""

    region: str
    write: bool
    way: Way
    cause: Cause
    asleep: bool
    """The daemon slept when the access began."""
    waited: bool
    """For posted writes."""

    def __str__(self) -> str:
        why = {Cause.UNDECLARED: ", undeclared", Cause.NOT_NOW: ", not now"}.get(self.cause, "")
        state = "" if self.way is Way.LOAD and not self.waited else ", asleep" if self.asleep else ", awake"
        waited = ", behind posts" if self.waited else ""
        return f"{'write' if self.write else 'read':5} {self.way.name.lower()}{why}{state}{waited}"


@define
class Breakdown:
    """What each access of one boot waited, in ns."""

    groups: dict[Group, list[int]] = field(factory=dict)
    different: int = 0
    """Published reads that were not what a message answered; 0 also where nobody looked."""

    @property
    def total_ns(self) -> int:
        """All that was waited, what other programs on this CPU took included."""
        return sum(map(sum, self.groups.values()))

    @property
    def stall_ns(self) -> float:
        """Each group by its median: what other programs took is left out."""
        return sum(map(_stall_ns, self.groups.values()))

    @property
    def accesses(self) -> int:
        """All of them."""
        return sum(map(len, self.groups.values()))

    @property
    def waits(self) -> int:
        """Published reads and posts that waited for posted writes."""
        return sum(len(times) for group, times in self.groups.items() if group.waited)

    def ways(self) -> Iterator[str]:
        """A line for each way, of all regions."""
        for way in Way:
            times = [times for group, times in self.groups.items() if group.way is way]
            yield _line(
                "all",
                f"{way.name.lower()}s",
                [ns for each in times for ns in each],
                sum(map(_stall_ns, times)),
            )

    def table(self) -> Iterator[str]:
        """A line for each group, the dearest first."""
        dearest = sorted(self.groups.items(), key=lambda item: -_stall_ns(item[1]))
        for group, times in dearest[:SHOWN]:
            yield _line(group.region, str(group), times, _stall_ns(times))
        rest = [times for _, times in dearest[SHOWN:]]
        yield _line("the rest", "", [ns for each in rest for ns in each], sum(map(_stall_ns, rest)))


def parsed(output: bytes, accesses: Sequence[tuple[str, bool]]) -> Breakdown:
    """What replay.c wrote, of accesses to these regions, and whether they were writes."""
    end, found = len(accesses) * TOOK.size, Breakdown()
    for (region, write), (ns, way, cause, asleep, waited) in zip(
        accesses, TOOK.iter_unpack(output[:end]), strict=True
    ):
        group = Group(region, write, Way(way), Cause(cause), bool(asleep), bool(waited))
        found.groups.setdefault(group, []).append(ns)
    found.different = int.from_bytes(output[end:], "little")
    return found


def _stall_ns(times: Sequence[int]) -> float:
    return len(times) * median(times) if times else 0


def _line(name: str, what: str, times: Sequence[int], stall_ns: float) -> str:
    each = median(times) / 1000 if times else 0
    return f"  {name:18} {what:48} {len(times):6} of {each:8.2f} us {stall_ns / 1e6:8.2f} ms"
