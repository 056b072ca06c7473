"""The command line: measure, show, keep."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import attrs
import orjson

from bench import in_process, round_trips
from bench.programs import BenchError, start
from bench.report import KEPT, Computer, Report, table

ROUNDS, COUNT = 20, 2000
QUICK_ROUNDS, QUICK_COUNT = 5, 500
MAX_COUNT: Final = 1 << 20
"""As many times as the client keeps."""
INTERRUPTED: Final = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; 0 if it came to its end."""
    options = _parser().parse_args(arguments)
    rounds = options.rounds or (QUICK_ROUNDS if options.quick else ROUNDS)
    count = options.count or (QUICK_COUNT if options.quick else COUNT)
    signal.signal(signal.SIGTERM, lambda _number, _frame: sys.exit(1))  # what we started ends with us
    try:
        report = _measure(rounds, count)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        _say("interrupted")
        return INTERRUPTED
    data = orjson.dumps(attrs.asdict(report), option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    print(data.decode() if options.json else "\n".join(table(report)))
    if not options.quick:
        KEPT.write_bytes(data)
        _say(f"kept in {KEPT}")
    return 0


def _measure(rounds: int, count: int) -> Report:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-bench-")))
        _say("compiling the client, starting the daemon")
        programs = start(stack, directory)
        placements = round_trips.Placements()
        if len(placements.cpus) == 1:
            _say("only one CPU to run on: no figures for two")
        trips = round_trips.measure(programs, placements, rounds=rounds, count=count, progress=_say)
    _say("the pipeline in one process")
    return Report(Computer(), rounds, count, trips, in_process.measure(count=count))


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure what an exit costs.")
    parser.add_argument("--rounds", type=_positive, metavar="N", help=f"default: {ROUNDS}")
    parser.add_argument(
        "--count", type=_positive, metavar="N", help=f"round trips in a round, default: {COUNT}"
    )
    parser.add_argument("--quick", action="store_true", help="some seconds; its figures are not kept")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the table")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if not 1 <= value <= MAX_COUNT:
        raise argparse.ArgumentTypeError(f"{text} is not within 1..{MAX_COUNT}")
    return value


if __name__ == "__main__":
    sys.exit(main())
