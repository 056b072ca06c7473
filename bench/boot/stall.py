"""How long a vCPU waits for devices during a recorded boot, by each way of asking them.

The counts are those of the trace, the times those of the round trips of this run: p50 across
CPUs.  Only with shared memory there is something to publish; where exits go by sockets, a
published read costs the same, as if the hypervisor had the page by other means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from attrs import frozen

from bench import exits, floors, peers
from bench.boot.steps import ALL_WAIT, BEST, NAIVE, STEPS, Step, count, exits as exits_of
from bench.boot.trace import Boot, load, recorded
from bench.boot.values import Verdict, judge
from bench.figures import Ratio, Row


@frozen
class Way:
    """Somebody's round trip, and a post if there is one."""

    trip: str
    post: str | None = None

    @property
    def steps(self) -> tuple[Step, ...]:
        """What can be had of it."""
        return (ALL_WAIT,) if self.post is None else (*STEPS, NAIVE)


WAYS: Final = (
    Way(floors.SEQPACKET),
    Way(peers.LIBVFIO_USER),
    Way(peers.QTEST),
    Way(peers.FUNCTION),
    Way(exits.DECODED, exits.POSTED),
    Way(exits.SLOT_DECODED, exits.SLOT_POSTED),
)


def measure(round_trips: Sequence[Row]) -> list[Row]:
    """Rows of stall and of what waits, of each boot; `round_trips` are those of one placement."""
    by_name = {row.name: row for row in round_trips}
    return [row for path in recorded() for row in _boot(load(path), by_name)]


def _boot(boot: Boot, by_name: Mapping[str, Row]) -> Iterator[Row]:
    accesses = exits_of(boot.accesses)
    counts = {step: count(accesses, step) for step in (*STEPS, NAIVE)}
    for step, found in counts.items():
        yield Row(
            f"boot of {boot.name}: what waits",
            step.name,
            found.trips + found.waits,
            unit="accesses",
            n=len(accesses),
        )
    yield from _values(boot.name, judge(accesses))
    load_us = by_name[exits.PUBLISHED].p50 if exits.PUBLISHED in by_name else 0.0
    for way in WAYS:
        if way.trip not in by_name:
            continue
        trip = by_name[way.trip]
        post_us = 0.0 if way.post is None else by_name[way.post].p50
        for step in way.steps:
            stall = counts[step].stall_us(trip.p50, post_us, load_us)
            ratios = {name: _ratio(stall, len(accesses), trip, by_name[name]) for name in trip.ratios}
            name = f"{way.trip}: {step.name}"
            yield Row(
                f"boot of {boot.name}: stall", name, stall / 1000, unit="ms", ratios=ratios, n=len(accesses)
            )


def _ratio(stall: float, accesses: int, trip: Row, peer: Row) -> Ratio:
    """To a peer of which all wait; as uncertain as the ratio of one round trip."""
    spread, middle = trip.ratios[peer.name], stall / (accesses * peer.p50)
    return Ratio(middle, middle * spread.low / spread.median, middle * spread.high / spread.median)


def _values(name: str, verdict: Verdict) -> Iterator[Row]:
    subject = f"boot of {name}: published reads by {BEST.name}"
    yield Row(subject, "equal to our device's register", verdict.device, unit="reads")
    yield Row(subject, "equal to the last read", verdict.same, unit="reads")
    yield Row(subject, "nothing to compare with", verdict.first, unit="reads")
    yield Row(subject, "time, computed", verdict.counted, unit="reads")
    for reason, number in verdict.explained.items():
        yield Row(subject, f"explained: {reason}", number, unit="reads")
    for register, number in verdict.different.items():
        yield Row(subject, f"DIFFERENT: {register}", number, unit="reads")
    yield Row(subject, "different, not explained", sum(verdict.different.values()), unit="reads")
