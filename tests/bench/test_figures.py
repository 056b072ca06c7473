from __future__ import annotations

from pathlib import Path

import pytest

from bench import check
from bench.figures import Ratio, Round, Row, ratio, rows, without_lost
from bench.plots import chart
from bench.report import Report, table


def one_round(p50: float) -> Round:
    """Only its p50 matters."""
    return Round(p50, p50 * 2, 1e6 / p50, 100)


def row(ratio_: Ratio) -> Row:
    """Of one ratio."""
    return Row("round trips", "ours", 10.0, ratios={"floor": ratio_})


def test_a_round_is_its_samples() -> None:
    """100 samples of 1 to 100 us: the median, the 99th, and how many a second."""
    found = Round.of([us * 1000 for us in range(100, 0, -1)])
    assert (51, 100, 100) == (found.p50, found.p99, found.n)
    assert pytest.approx(1e6 / 50.5) == found.rate


def test_a_ratio_is_of_each_round_by_itself() -> None:
    """The computer was twice as slow in one round, for both: the ratio does not see it."""
    assert Ratio(2, 2, 2) == ratio([10, 20, 10], [5, 10, 5])
    assert Ratio(3, 3, 3) == ratio([3], [1])


def test_a_round_without_its_floor_is_lost() -> None:
    """Where the floor took more than 1.5 times its median, nobody's figures count."""
    taken = {
        "floor": [one_round(p50) for p50 in (10, 16, 10)],
        "ours": [one_round(p50) for p50 in (20, 21, 22)],
    }
    kept, lost = without_lost(taken, "floor")
    assert (1, [20, 22]) == (lost, [each.p50 for each in kept["ours"]])
    [_, ours] = rows("subject", kept, ["floor"])
    assert 21.0 == ours.p50
    assert 2.1 == pytest.approx(ours.ratios["floor"].median)


@pytest.mark.parametrize(
    ("now", "regressed"),
    [
        (Ratio(2.0, 1.9, 2.1), False),  # as before
        (Ratio(2.6, 2.2, 3.0), False),  # a noisy run whose lower quartile is within the margin
        (Ratio(3.0, 2.8, 3.1), True),
        (Ratio(1.0, 0.9, 1.1), False),  # better
    ],
)
def test_a_ratio_regresses_beyond_noise(tmp_path: Path, now: Ratio, regressed: bool) -> None:
    """Beyond the quartiles of both runs and a margin."""
    baseline = tmp_path / "baseline.json"
    check.keep([row(Ratio(2.0, 1.9, 2.1))], baseline)
    assert regressed == bool(list(check.worse([row(now)], check.accepted(baseline))))


def test_what_is_new_regresses_nothing(tmp_path: Path) -> None:
    """A row that the baseline does not have."""
    baseline = tmp_path / "baseline.json"
    check.keep([], baseline)
    assert [] == list(check.worse([row(Ratio(9, 9, 9))], check.accepted(baseline)))


def test_what_is_not_ours_is_not_compared() -> None:
    """Floors and peers, and what takes no longer than reading the clock."""
    ratios = {"floor": Ratio(1, 1, 1)}
    foreign = Row("subject", "libvfio-user (C): all wait", 10.0, ratios=ratios)
    instant = Row("subject", "mmiod, slots, published read", 0.02, ratios=ratios)
    assert {"round trips: ours / floor": Ratio(1, 1, 1)} == check.ratios(
        [foreign, instant, row(Ratio(1, 1, 1))]
    )


def test_a_report_is_kept_and_shown(tmp_path: Path) -> None:
    """What is read is what was written; a row is in the table and in the picture."""
    report = Report(1, 2, [row(Ratio(2, 1, 3)), Row("memory", "one VM", 300, unit="KiB")], {"same CPU": 1})
    path = tmp_path / "results.json"
    path.write_bytes(report.json())
    assert report == Report.read(path)
    assert any(line.startswith("ours") and line.endswith("2") for line in table(report))
    assert "lost rounds: 1 same CPU" in "\n".join(table(report))
    assert ">ours</text>" in "".join(chart("caption", report.rows[:1]))
