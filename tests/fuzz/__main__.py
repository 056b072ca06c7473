"""Fuzz all targets, or some, two at a time; or run one on one input.

    python -m tests.fuzz [TARGET ...] [--seconds N] [--runs N]
    python -m tests.fuzz TARGET --input FILE

Prints per target the edges it has reached, executions and executions per second.  What is found
is in .fuzz/TARGET/findings, with the command that shows it again; then the exit code is 1.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final

from tests.fuzz.session import Outcome, fuzz
from tests.fuzz.target import NAMES, load

ROW: Final = "{:<14} {:>6} {:>7} {:>11} {:>7}  {}"
LINES: Final = 25
"""Of the log of a run that failed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if nothing was found."""
    options = _parser().parse_args(arguments)
    targets = options.targets or NAMES
    if options.input is not None:
        for target in targets:
            load(target).run(options.input.read_bytes())
        return 0
    print(ROW.format("target", "edges", "inputs", "executions", "per s", ""))
    with ThreadPoolExecutor(max_workers=min(2, os.cpu_count() or 1)) as pool:
        run = partial(fuzz, seconds=options.seconds, seed=options.seed, runs=options.runs)
        outcomes = pool.map(run, targets)
        found = [_shown(outcome) for outcome in outcomes]
    return int(any(found))


def _shown(outcome: Outcome) -> bool:
    """Print a row; whether there is a finding."""
    verdict = ""
    if outcome.failed:
        verdict = f"FOUND {outcome.finding}" if outcome.finding else f"did not run: status {outcome.status}"
    numbers = (outcome.edges, outcome.inputs, outcome.executions, outcome.per_second)
    print(ROW.format(outcome.target, *numbers, verdict).rstrip(), flush=True)
    if outcome.failed:
        print("\n".join(outcome.log.splitlines()[-LINES:]))
    if outcome.finding:
        print(f"again: .venv/bin/python -m tests.fuzz {outcome.target} --input {outcome.finding}")
    return outcome.failed


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--seconds", type=int, default=60, help="per target")
    parser.add_argument("--runs", type=int, default=-1, help="per target at most; -1: any number")
    parser.add_argument("--seed", type=int, default=0, help="of libFuzzer; 0: another one each time")
    parser.add_argument("--input", type=Path, help="run once on this file, without atheris")
    return parser


if __name__ == "__main__":
    sys.exit(main())
