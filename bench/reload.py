"""`python -m bench.reload`: how long a reload keeps exits waiting.

A real `mmiod serve` has two PCs.  A vCPU of the one, paced by nothing, reads a port all the
time; plugins of both are reloaded one after another, as `mmioctl reload` does it, child and
all.  Told are the pauses that the daemon measures itself, and what the vCPU saw: its exits
while nothing is reloaded, and during all of the reloads, in which the child takes its share
of the computer.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import sys
import tempfile
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter_ns
from typing import Final

from attrs import define, field

from mmiod.ctl.client import Client as Control
from mmiod.demo import config_folder, serve
from mmiod.protocol.exit import MAX_MESSAGE, Client
from mmiod.values import READ, DecodedExit, Space

CONFIG: Final = """\
[daemon]
control = "{directory}/control"
log_level = "error"
[[vm]]
name = "edited"
machine = "{machine}"
socket = "{directory}/edited.exit"
[[vm]]
name = "other"
machine = "{machine}"
socket = "{directory}/other.exit"
"""
PORT: Final = 0x505
"""pvpanic's: a read that does nothing."""
QUIET_S: Final = 5.0
PARTS: Final = (0.5, 0.99, 1.0)


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.reload", description="Measure what reloads cost.")
    parser.add_argument("--reloads", type=int, default=500, metavar="N", help="default: %(default)s")
    options = parser.parse_args(arguments)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mmiod-bench-")))
        machine = config_folder() / "machines" / "pc.toml"
        control = serve(stack, directory, CONFIG.format(directory=directory, machine=machine))
        client = Control(str(control))
        stack.callback(client.close)
        plugins = sorted({device["plugin"] for device in client.call("ListDevices")["devices"]})
        vcpu = Vcpu(directory / "other.exit")
        thread = threading.Thread(target=vcpu.run, daemon=True)
        thread.start()
        threading.Event().wait(QUIET_S)
        quiet = len(vcpu.taken)
        pauses, loads, totals = [], [], []
        for plugin in itertools.islice(itertools.cycle(plugins), options.reloads):
            started = perf_counter_ns()
            done = client.call("Reload", name=plugin)
            totals.append((perf_counter_ns() - started) / 1000)
            pauses.append(done["pause_us"])
            loads.append(done["load_us"])
        vcpu.stop.set()
        thread.join()
    print(f"{options.reloads} reloads of {len(plugins)} plugins, each serving two VMs; us")
    print(f"{'':34}{'median':>10}{'p99':>10}{'most':>10}")
    _row("pause: hand-over, no exit served", pauses)
    _row("load, in a thread beside the core", loads)
    _row("whole reload, with its child", totals)
    _row("exit while nothing is reloaded", [ns / 1000 for ns in vcpu.taken[:quiet]])
    _row("exit during the reloads", [ns / 1000 for ns in vcpu.taken[quiet:]])
    return 0


def _row(name: str, samples: Sequence[float]) -> None:
    ordered = sorted(samples)
    figures = [ordered[min(len(ordered) - 1, int(part * len(ordered)))] for part in PARTS]
    print(f"{name:34}" + "".join(f"{figure:10.0f}" for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
