"""What a subject gives: rows, and how rounds become one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import median, quantiles
from typing import Final

from attrs import field, frozen

NS_PER_US: Final = 1000
LOST: Final = 1.5
"""A round in which the floor took so many times its median tells of the computer and not of us."""


@frozen
class Ratio:
    """A row by another one, each round by itself: the median and the quartiles of the rounds."""

    median: float
    low: float
    high: float


@frozen
class Row:
    """One figure, with all that is needed to judge it."""

    subject: str
    name: str
    p50: float
    p99: float | None = None
    unit: str = "us"
    rate: float | None = None
    """In a second."""
    ratios: Mapping[str, Ratio] = field(factory=dict)
    """To other rows of the same rounds, by their names."""
    n: int = 1
    """Samples behind it."""


@frozen
class Round:
    """What one round gave for one contestant; times in us."""

    p50: float
    p99: float
    rate: float
    n: int

    @classmethod
    def of(cls, samples: Sequence[int], took_ns: int | None = None) -> Round:
        """From ns each; `took_ns` is all of it where trips overlap."""
        ordered, count = sorted(samples), len(samples)
        return cls(
            p50=ordered[count // 2] / NS_PER_US,
            p99=ordered[count * 99 // 100] / NS_PER_US,
            rate=count * 1e9 / (took_ns or sum(samples)),
            n=count,
        )


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> Ratio:
    """Round by round."""
    found = [one / other for one, other in zip(ours, theirs, strict=True)]
    low, _, high = quantiles(found, n=4, method="inclusive") if len(found) > 1 else (found[0],) * 3
    return Ratio(median(found), low, high)


def without_lost(taken: Mapping[str, Sequence[Round]], floor: str) -> tuple[dict[str, list[Round]], int]:
    """The rounds in which the floor was as usual, and how many others there were."""
    usual = median(each.p50 for each in taken[floor])
    kept = [number for number, each in enumerate(taken[floor]) if each.p50 <= LOST * usual]
    rounds = {name: [series[number] for number in kept] for name, series in taken.items()}
    return rounds, len(taken[floor]) - len(kept)


def rows(subject: str, taken: Mapping[str, Sequence[Round]], references: Sequence[str]) -> list[Row]:
    """The medians of the rounds, and the ratios of p50 to each reference that is among them."""
    return [
        Row(
            subject,
            name,
            p50=median(each.p50 for each in rounds),
            p99=median(each.p99 for each in rounds),
            rate=median(each.rate for each in rounds),
            ratios={
                reference: ratio((each.p50 for each in rounds), (each.p50 for each in taken[reference]))
                for reference in references
                if reference in taken and reference != name
            },
            n=sum(each.n for each in rounds),
        )
        for name, rounds in taken.items()
    ]
