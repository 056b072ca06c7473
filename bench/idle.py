"""What the daemon costs when little happens, or nothing: CPU and memory."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import scale
from bench.contest import Effort
from bench.figures import NS_PER_US, Round, Row
from bench.placement import WIDEST
from bench.programs import Process, client, compiled, cpu_ns, private_kib, start_daemon, vm

GAPS_US: Final = (20, 100, 1000, 10_000)
GAP_PART: Final = 0.1
"""Of the time that is spent on an idle daemon; each gap has so much."""
VMS: Final = (1, 64)
SETTLE_S: Final = 1.0
GAPS, IDLE = "an exit now and then", "no exits"


def measure(effort: Effort) -> list[Row]:
    """Rows of latency and CPU by gap, of CPU while idle, and of memory."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-bench-")))
        return [*_gaps(stack, directory, effort), *_idle(directory, effort)]


def _gaps(stack: ExitStack, directory: Path, effort: Effort) -> Iterator[Row]:
    daemon = start_daemon(stack, directory, [vm(directory, "bench")])
    line = client(stack, compiled("client", directory), str(directory / "bench.exit"), "bench")
    WIDEST.take(daemon, line.process)
    for gap_us in GAPS_US:
        effort.progress(f"an exit every {gap_us} us")
        count = max(10, int(effort.idle_s * GAP_PART * 1e6 / (gap_us + 100)))
        line.ask("decoded", 10, gap_us * NS_PER_US)
        before, began = cpu_ns(daemon), time.monotonic_ns()
        found = Round.of(line.ask("decoded", count, gap_us * NS_PER_US))
        share = (cpu_ns(daemon) - before) / (time.monotonic_ns() - began)
        yield Row(GAPS, f"gap of {gap_us} us", found.p50, found.p99, n=count)
        yield Row(GAPS, f"gap of {gap_us} us, CPU", share * 100, unit="% of a core", n=count)


def _idle(directory: Path, effort: Effort) -> Iterator[Row]:
    """Daemons with running machines that nobody asks anything."""
    private = {}
    for number in VMS:
        folder = directory / f"idle{number}"
        folder.mkdir()
        with ExitStack() as stack:
            daemon = start_daemon(stack, folder, [vm(folder, f"vm{each}") for each in range(number)])
            line = scale.loaded(stack, folder, number, 1, "slots")
            WIDEST.take(daemon, line.process)
            time.sleep(SETTLE_S)  # noqa: TID251 - idle time is what is measured
            effort.progress(f"{number} idle VMs for {effort.idle_s:.0f} s")
            yield Row(
                IDLE,
                _plural(number),
                _burnt_ms(daemon, effort.idle_s),
                unit=f"ms CPU in {effort.idle_s:.0f} s",
            )
            private[number] = private_kib(daemon)
    low, high = VMS
    yield Row(
        IDLE, "memory of one VM more", (private[high] - private[low]) / (high - low), unit="KiB", n=high
    )


def _plural(number: int) -> str:
    return f"{number} VM{'s' if number > 1 else ''}"


def _burnt_ms(daemon: Process, seconds: float) -> float:
    before = cpu_ns(daemon)
    time.sleep(seconds)  # noqa: TID251 - the same
    return (cpu_ns(daemon) - before) / 1e6
