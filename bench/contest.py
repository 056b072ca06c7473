"""Contestants, asked in turn, round by round: what else the computer does meets all alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from attrs import frozen

from bench.figures import Round, Row, rows, without_lost
from bench.placement import PLACEMENTS, TWO, Placement
from bench.programs import Line, Process

WARM_UP: Final = 10
"""A part of this size of a round's round trips is done before, and forgotten."""

Progress = Callable[[str], None]


@frozen
class Effort:
    """How much is measured."""

    rounds: int
    count: int
    """Round trips in a round."""
    idle_s: float
    reloads: int
    progress: Progress


@frozen
class Contestant:
    """A server, and a client that asks it."""

    name: str
    server: Process
    line: Line
    command: str
    """What the client calls it."""
    spins: bool = False
    """Both sides spin: on one CPU that would measure the scheduler's slices."""

    def round(self, placement: Placement, count: int) -> Round:
        """One round."""
        placement.take(self.server, self.line.process)
        self.line.ask(self.command, count // WARM_UP + 1)
        return Round.of(self.line.ask(self.command, count))


def contest(
    contestants: Sequence[Contestant], references: Sequence[str], effort: Effort
) -> tuple[list[Row], Mapping[str, int]]:
    """Rows of each placement, and its lost rounds; the first reference is the floor.

    Each row's ratios are to those references that are contestants.
    """
    found, lost = list[Row](), dict[str, int]()
    for placement in PLACEMENTS.values():
        able = [each for each in contestants if placement.name == TWO or not each.spins]
        taken: dict[str, list[Round]] = {each.name: [] for each in able}
        for number in range(effort.rounds + 1):
            effort.progress(
                f"{placement.name}: " + (f"round {number} of {effort.rounds}" if number else "warming up")
            )
            for each in able:
                one = each.round(placement, effort.count)
                if number:
                    taken[each.name].append(one)
        kept, lost[placement.name] = without_lost(taken, references[0])
        found += rows(subject(placement), kept, references)
    return found, lost


def subject(placement: Placement) -> str:
    """What its rows are called."""
    return f"round trips, {placement.name}"
