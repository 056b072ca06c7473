"""The command line: measure, show, keep, check."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from bench import blk, check, contest, idle, in_process, plots, reload, round_trips, scale
from bench.boot import stall
from bench.contest import Effort
from bench.figures import Row
from bench.placement import WIDEST
from bench.programs import BenchError
from bench.report import KEPT, Report, table

ROUNDS, COUNT, IDLE_S, RELOADS = 20, 2000, 60.0, 500
QUICK_ROUNDS, QUICK_COUNT, QUICK_IDLE_S, QUICK_RELOADS = 5, 500, 5.0, 20
MAX_COUNT: Final = 1 << 20
"""As many times as the client keeps."""
INTERRUPTED: Final = 130
TRIPS, BOOT = "round-trips", "boot"
OTHERS: Final[dict[str, Callable[[Effort], list[Row]]]] = {
    "in-process": in_process.measure,
    "scale": scale.measure,
    "idle": idle.measure,
    "reload": reload.measure,
    "blk": blk.measure,
}
SUBJECTS: Final = (TRIPS, BOOT, *OTHERS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 if it came to its end and nothing regressed."""
    options = _parser().parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))  # what we started ends with us
    if options.plots:
        plots.write(Report.read(KEPT))
        return 0
    effort = Effort(
        rounds=options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS),
        count=options.count or (QUICK_COUNT if options.quick else COUNT),
        idle_s=QUICK_IDLE_S if options.quick else IDLE_S,
        reloads=QUICK_RELOADS if options.quick else RELOADS,
        progress=_say,
    )
    try:
        report = _measure(effort, options.only or SUBJECTS)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    print(report.json().decode() if options.json else "\n".join(table(report)))
    if not options.quick and not options.only:
        KEPT.write_bytes(report.json())
        _say(f"kept in {KEPT}")
    return _judge(report, accept=options.accept) if options.check or options.accept else 0


def _measure(effort: Effort, subjects: Sequence[str]) -> Report:
    rows: list[Row] = []
    lost: Mapping[str, int] = {}
    if {TRIPS, BOOT} & set(subjects):  # a boot is added up from round trips of the same run
        rows, lost = round_trips.measure(effort)
    if BOOT in subjects:
        rows += stall.measure([row for row in rows if row.subject == contest.subject(WIDEST)])
    for name, measure in OTHERS.items():
        if name in subjects:
            rows += measure(effort)
    return Report(effort.rounds, effort.count, rows, lost)


def _judge(report: Report, *, accept: bool) -> int:
    if accept:
        check.keep(report.rows)
        _say(f"accepted in {check.BASELINE}")
        return 0
    found = list(check.worse(report.rows, check.accepted()))
    for line in found:
        _say(f"worse: {line}")
    _say(f"{len(found)} of {len(check.ratios(report.rows))} ratios are worse than {check.BASELINE.name}")
    return 1 if found else 0


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure what an exit costs.")
    parser.add_argument("--only", action="append", choices=SUBJECTS, help="this subject; again for another")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"default: {ROUNDS}")
    parser.add_argument(
        "--count", type=_positive, metavar="N", help=f"round trips in a round, default: {COUNT}"
    )
    parser.add_argument("--quick", action="store_true", help="a minute; its figures are not kept")
    parser.add_argument("--json", action="store_true", help="print JSON instead of tables")
    parser.add_argument("--check", action="store_true", help="fail if a ratio is worse than the baseline's")
    parser.add_argument("--accept", action="store_true", help="make this run's ratios the baseline")
    parser.add_argument(
        "--plots", action="store_true", help="draw the last full run for docs/, measure nothing"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{text} is not within 1..{MAX_COUNT}")
    return value


if __name__ == "__main__":
    sys.exit(main())
