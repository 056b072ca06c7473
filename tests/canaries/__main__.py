"""Plant bugs in copies of the tree; each must be caught by the test that its row names.

    python -m tests.canaries [WORD ...]      only bugs whose description has one of the words

First the tests run without any bug, and must pass.  The exit code is 1 if a bug survived.
"""

from __future__ import annotations

import os
import queue
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from tests.canaries.runner import CanaryError, Result, check, copy_tree, run_tests, try_canary
from tests.canaries.table import CANARIES, Canary

WORKERS: Final = min(2, os.cpu_count() or 1)
LINES: Final = 30
"""Of the output of a test that did not do what it should."""


def main(words: Sequence[str]) -> int:
    """0 if all bugs were caught."""
    chosen = [canary for canary in CANARIES if not words or any(word in canary.bug for word in words)]
    started = time.monotonic()
    try:
        with ExitStack() as stack:
            results = _run(chosen, [_tree(stack) for _ in range(WORKERS)])
    except CanaryError as error:
        print(f"canaries: {error}", file=sys.stderr)
        return 1
    survived = [result for result in results if not result.good]
    print(f"{len(results) - len(survived)} of {len(results)} caught in {time.monotonic() - started:.0f} s")
    return int(bool(survived))


def _tree(stack: ExitStack) -> Path:
    tree = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-canary-")))
    copy_tree(tree)
    return tree


def _run(chosen: list[Canary], trees: list[Path]) -> list[Result]:
    """Raises CanaryError if a row does not fit, or a test fails without a bug."""
    for canary in chosen:
        check(canary, trees[0])
    tests = sorted({canary.test for canary in chosen})
    free: queue.SimpleQueue[Path] = queue.SimpleQueue()
    for tree in trees:
        free.put(tree)
    with ThreadPoolExecutor(len(trees)) as pool:
        shares = [tests[number :: len(trees)] for number in range(len(trees))]
        for code, output in pool.map(run_tests, trees, filter(None, shares)):
            if code != 0:
                print("\n".join(output.splitlines()[-LINES:]))
                raise CanaryError("a test fails, or is not there, without any bug")

        def attempt(canary: Canary) -> Result:
            tree = free.get()
            try:
                return try_canary(tree, canary)
            finally:
                free.put(tree)

        return [_shown(result) for result in pool.map(attempt, chosen)]


def _shown(result: Result) -> Result:
    canary = result.canary
    print(f"{result.verdict:<9} {canary.bug:<34} {canary.test.partition('::')[2]}", flush=True)
    if not result.good:
        print("\n".join(result.output.splitlines()[-LINES:]))
    return result


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
