"""All instruction forms in all modes against their oracles, for as long as you like.

    python -m tests.x86 [--cases N] [--seed S] [--form PATTERN ...]
    python -m tests.x86 --replay BYTES MODE SEED
    python -m tests.x86 --coverage

A failure is a line of bytes, mode and seed, shrunk, and the command that shows it again.
"""

from __future__ import annotations

import argparse
import fnmatch
import sys
from collections.abc import Sequence
from random import SystemRandom
from typing import Final

from mmiod.x86 import Mode
from tests.x86.campaign import Failure, Results, campaign, jobs, judged_forms
from tests.x86.coverage import COUNTED, covered, table
from tests.x86.native import missing
from tests.x86.predicted import decoded
from tests.x86.situations import Unplaceable, situation
from tests.x86.trial import difference

_EVERY: Final = 20
"""Jobs between two signs of life."""


def main(arguments: Sequence[str] | None = None) -> int:
    """0 if nothing differs."""
    options = _parser().parse_args(arguments)
    if options.replay is not None:
        return _replay(*options.replay)
    if missing():
        print(f"without the forms that only a CPU can run: {missing()}")
    if options.coverage:
        results = _run(judged_forms(), COUNTED, 0)
        print(table(covered(results.cases, {failure.form for failure in results.failed})))
        return 0
    seed = SystemRandom().randrange(1 << 32) if options.seed is None else options.seed
    forms = _chosen(options.form)
    print(f"seed {seed}: {len(forms)} forms, {options.cases} cases in each mode", flush=True)
    results = _run(forms, options.cases, seed)
    failing = len({failure.form for failure in results.failed})
    print(f"{results.total} cases, {len(results.failed)} failures in {failing} forms")
    return int(bool(results.failed))


def _run(forms: list[str], cases: int, seed: int) -> Results:
    """Progress on standard error, failures as they come."""
    results, shown, total = Results(), set[Failure](), len(jobs(forms, cases))
    try:
        for number, so_far in enumerate(campaign(forms, cases, seed), 1):
            results = so_far
            for failure in set(results.failed) - shown:
                shown.add(failure)
                print(failure, flush=True)
            if number % _EVERY == 0 or number == total:
                _tell(f"\r{100 * number // total:3} % {results.total} cases")
    except KeyboardInterrupt:
        _tell("\ninterrupted")
    _tell("\n")
    return results


def _tell(text: str) -> None:
    print(text, end="", file=sys.stderr, flush=True)


def _chosen(patterns: list[str]) -> list[str]:
    names = judged_forms()
    found = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in patterns)]
    if not found:
        sys.exit(f"no form matches {' '.join(patterns)}; they are named as in iced, for example {names[0]}")
    return found


def _replay(code: str, mode: str, seed: str) -> int:
    try:
        case = situation(bytes.fromhex(code), Mode(int(mode)), int(seed))
    except (ValueError, KeyError, Unplaceable) as error:
        sys.exit(f"{code} {mode} {seed} is no case: {error!r}")
    found = difference(case)
    print(f"{decoded(case.code, case.mode)}\n{case}\n{found or 'no difference'}")
    return int(found is not None)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.x86", description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=_positive, default=COUNTED, help="of each form in each mode")
    parser.add_argument("--seed", type=int, help="of the first case; another one each time if left out")
    parser.add_argument("--form", nargs="+", default=["*"], metavar="PATTERN", help="names of iced, with *")
    parser.add_argument("--replay", nargs=3, metavar=("BYTES", "MODE", "SEED"), help="one case")
    parser.add_argument("--coverage", action="store_true", help="count the forms that are proven")
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no positive number")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
