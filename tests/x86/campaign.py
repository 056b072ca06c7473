"""Forms against their oracles, shared by two processes that may die of a case."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Final

from attrs import define, field, frozen

from tests.x86.forms import CODES, Judge, executed_forms, judge
from tests.x86.native import missing
from tests.x86.worker import FAILURES

ROOT: Final = Path(__file__).parents[2]
CHUNK: Final = 200
"""Seeds of a form in one job."""


@frozen
class Failure:
    """A case that differs from its oracle."""

    form: str
    code: str
    mode: int
    seed: int
    difference: str

    def __str__(self) -> str:
        return (
            f"{self.form}: {self.code} {self.mode} {self.seed}: {self.difference}\n    again: {self.command}"
        )

    @property
    def command(self) -> str:
        """What shows it again."""
        return f".venv/bin/python -m tests.x86 --replay {self.code or '-'} {self.mode} {self.seed}"


@define
class Results:
    """What came of a campaign so far, by form."""

    cases: dict[str, int] = field(factory=dict)
    failures: dict[str, list[Failure]] = field(factory=dict)

    @property
    def total(self) -> int:
        """Cases that were tried."""
        return sum(self.cases.values())

    @property
    def failed(self) -> list[Failure]:
        """All of them."""
        return [failure for failures in self.failures.values() for failure in failures]


@define
class Worker:
    """A process that tries cases; a new one where it died."""

    process: subprocess.Popen[str] | None = None

    def run(self, form: str, first: int, count: int) -> tuple[int, list[Failure]]:
        """One job: the cases that were tried, and failures."""
        process = self.process = self.process or _started()
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{form} {first} {count}\n")
        process.stdin.flush()
        last, tried = "case - 0 0", 0
        for line in process.stdout:
            if not line.startswith("case "):
                answer = json.loads(line)
                return answer["tried"], [Failure(form, *failure) for failure in answer["failures"]]
            last, tried = line, tried + 1
        self.stop()
        _, code, mode, seed = last.split()
        return tried, [Failure(form, code, int(mode), int(seed), f"the process died: {process.returncode}")]

    def stop(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.communicate()
            self.process = None


def _started() -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "tests.x86.worker"]
    return subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def judged_forms() -> list[str]:
    """Names of the forms that an oracle can run on this machine."""
    judges = {Judge.UNICORN} if missing() else {Judge.UNICORN, Judge.NATIVE}
    return [CODES[code] for code in executed_forms() if judge(code) in judges]


def jobs(forms: Sequence[str], cases: int) -> list[tuple[str, int, int]]:
    """(form, first seed, seeds), all forms in turn."""
    return [(form, first, min(CHUNK, cases - first)) for first in range(0, cases, CHUNK) for form in forms]


def campaign(forms: Sequence[str], cases: int, seed: int = 0) -> Iterator[Results]:
    """`cases` of each form in each mode, seeds from `seed` on; the results so far after each job."""
    results, workers = Results(), [Worker() for _ in range(min(2, os.cpu_count() or 1))]
    waiting, idle = jobs(forms, cases)[::-1], list(workers)
    running: dict[Future[tuple[int, list[Failure]]], tuple[Worker, str]] = {}
    try:
        with ThreadPoolExecutor(len(workers)) as pool:
            while waiting or running:
                while waiting and idle:
                    form, first, count = waiting.pop()
                    worker = idle.pop()
                    running[pool.submit(worker.run, form, seed + first, count)] = worker, form
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    worker, form = running.pop(done)
                    idle.append(worker)
                    _add(results, form, *done.result())
                    yield results
                waiting = [job for job in waiting if len(results.failures.get(job[0], ())) < FAILURES]
    finally:
        for worker in workers:
            worker.stop()


def _add(results: Results, form: str, tried: int, failures: list[Failure]) -> None:
    results.cases[form] = results.cases.get(form, 0) + tried
    results.failures.setdefault(form, []).extend(failures)
