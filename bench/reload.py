"""How long a reload keeps exits waiting, and what `watch` adds.

A real `mmiod serve` has two PCs.  A vCPU of the one reads a port all the time; plugins of both are
reloaded one after another, as `mmioctl reload` does it, child and all, while `mmioctl watch` follows
the traffic.  Told are the pauses that the daemon measures itself, and what the vCPU saw, in which
the child and the watcher take their share of the computer.
"""

from __future__ import annotations

import itertools
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns
from typing import Any, Final

from attrs import define, field

from bench.contest import Effort
from bench.figures import NS_PER_US, Row
from bench.programs import BenchError, spawn, start_daemon, vm
from mmiod.ctl.client import Client as Control, Refused
from mmiod.protocol.exit import MAX_MESSAGE, Client
from mmiod.values import READ, DecodedExit, Space

SUBJECT: Final = "reloads"
PORT: Final = 0x505
"""pvpanic's: a read that does nothing."""
BUDGET_NS: Final = 60_000_000_000
"""For all reloads: on a busy computer there are fewer, see `n`."""
QUIET_S: Final = 0.01
"""For each reload."""


@define
class Vcpu:
    """A client that exits without a pause, and the ns of each of its round trips."""

    path: Path
    taken: list[int] = field(factory=list)
    stop: threading.Event = field(factory=threading.Event)

    def run(self) -> None:
        """Exit until stopped."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as channel:
            channel.connect(str(self.path))
            client = Client("other", 1, vendor="bench")
            channel.send(client.hello())
            client.receive(channel.recv(MAX_MESSAGE))
            while not self.stop.is_set():
                started = perf_counter_ns()
                channel.send(client.exit(DecodedExit(0, 0, Space.PIO, READ, PORT, 1)))
                client.receive(channel.recv(MAX_MESSAGE))
                self.taken.append(perf_counter_ns() - started)


def measure(effort: Effort) -> list[Row]:
    """Rows of pauses and of round trips: quiet, watched, and watched during reloads."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-bench-")))
        start_daemon(stack, directory, [vm(directory, name) for name in ("edited", "other")])
        client = Control(str(directory / "control"))
        stack.callback(client.close)
        plugins = sorted({device["plugin"] for device in client.call("ListDevices")["devices"]})
        vcpu = Vcpu(directory / "other.exit")
        thread = threading.Thread(target=vcpu.run, daemon=True)
        thread.start()
        effort.progress(f"{effort.reloads} reloads of {len(plugins)} plugins")
        quiet = _during(vcpu, QUIET_S * effort.reloads)
        command = [sys.executable, "-m", "mmiod.ctl", "--socket", str(directory / "control"), "watch"]
        spawn(stack, command, stdout=subprocess.DEVNULL)
        watched = _during(vcpu, QUIET_S * effort.reloads)
        pauses, loads, totals = [], [], []
        before = len(vcpu.taken)
        end = perf_counter_ns() + BUDGET_NS
        for plugin in itertools.islice(itertools.cycle(plugins), effort.reloads):
            started = perf_counter_ns()
            if started > end:
                break
            done = _reload(client, plugin)
            totals.append((perf_counter_ns() - started) / NS_PER_US)
            pauses.append(done["pause_us"])
            loads.append(done["load_us"])
        vcpu.stop.set()
        thread.join()
        reloaded = _us(vcpu.taken[before:])
    return [
        _row("pause: hand-over, no exit served", pauses),
        _row("load, in a thread beside the core", loads),
        _row("whole reload, with its child", totals),
        *_exits("exit while nothing happens", quiet),
        *_exits("exit while watched", watched),
        *_exits("exit while watched, during reloads", reloaded),
    ]


def _reload(client: Control, plugin: str) -> Mapping[str, Any]:
    try:
        return client.call("Reload", name=plugin)
    except Refused as error:
        raise BenchError(f"{plugin} was not reloaded: {error}") from error


def _during(vcpu: Vcpu, seconds: float) -> list[float]:
    before = len(vcpu.taken)
    threading.Event().wait(seconds)
    return _us(vcpu.taken[before:])


def _us(samples: Sequence[int]) -> list[float]:
    return [ns / NS_PER_US for ns in samples]


def _exits(name: str, samples: Sequence[float]) -> list[Row]:
    return [_row(name, samples), Row(SUBJECT, f"{name}, p99.9", _part(samples, 0.999), n=len(samples))]


def _row(name: str, samples: Sequence[float]) -> Row:
    return Row(SUBJECT, name, _part(samples, 0.5), _part(samples, 0.99), n=len(samples))


def _part(samples: Sequence[float], part: float) -> float:
    ordered = sorted(samples)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]
