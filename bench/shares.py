"""Where a process spends its CPU time: in the kernel, in Python, in the C library.

`perf` samples all its threads, and a sample belongs to the file that the instruction is in.  Python
is the interpreter, its library and its extension modules; what the C library does is copying and
allocating memory, nearly all of it.  Where `perf` is missing or not let, the kernel's ticks of user
and kernel time (proc(5), stat) are told, which do not say what of the former is the library's.
"""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import define, field

from bench.programs import Process

HERTZ: Final = 2000
KERNEL, PYTHON, LIBRARY, USER = "in the kernel", "in Python", "in the C library", "in Python or the C library"
_LIBRARY: Final = ("libc.so", "libc-", "[vdso]")


@define(eq=False)
class Shares:
    """Parts of the CPU time, which are 1 in all."""

    parts: dict[str, float] = field(factory=dict)
    samples: int = 0
    """Or ticks."""

    def count(self, found: Counter[str]) -> None:
        """Enter so many samples of each place."""
        self.samples = found.total()
        self.parts = {place: number / self.samples for place, number in found.most_common() if number}


@contextmanager
def sampled(process: Process, path: Path, progress: Callable[[str], None]) -> Iterator[Shares]:
    """Those of the time until the block ends, at whose end they are entered; `path` is for perf."""
    shares, before, perf = Shares(), _ticks(process), shutil.which("perf")
    recorder = None
    if perf is not None:
        command = [perf, "record", "-F", str(HERTZ), "-o", str(path), "-p", str(process.pid)]
        recorder = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield shares
    finally:
        if recorder is not None:
            recorder.terminate()
            recorder.wait()
    shares.count(Counter() if perf is None else _samples(perf, path))
    if not shares.samples:
        progress("no samples by perf: ticks of user and kernel time instead")
        shares.count(_ticks(process) - before)


def _samples(perf: str, path: Path) -> Counter[str]:
    command = [perf, "report", "-i", str(path), "--stdio", "-q", "-F", "sample,dso", "-t", ";"]
    lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    found: Counter[str] = Counter()
    for number, _, file in (line.partition(";") for line in lines):
        if number.strip().isdigit():
            found[_place(file.strip())] += int(number)
    return found


def _place(file: str) -> str:
    if file.startswith(_LIBRARY):
        return LIBRARY
    return KERNEL if file.startswith("[") else PYTHON


def _ticks(process: Process) -> Counter[str]:
    """User and system time of all threads, in ticks."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return Counter({USER: int(fields[11]), KERNEL: int(fields[12])})
