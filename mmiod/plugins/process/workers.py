"""Processes of devices, as the daemon sees them: started, spoken to, ended."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from time import clock_gettime_ns, perf_counter_ns
from typing import Any, Final

import attrs
from attrs import define

from mmiod.device import Device
from mmiod.errors import PluginError
from mmiod.machine.mark import HookDeadlineExceeded, RemoteError
from mmiod.plugins.loader import Source
from mmiod.plugins.process.channel import HostEnd, WorkerGone
from mmiod.plugins.process.effects import perform

START_NS: Final = 10_000_000_000
"""For a worker to load its plugin: a spare has done so long before it is needed."""
CLOCK: Final = 10
"""Budgets by the clock that an answer may take, however little CPU time the process got."""
SPAWNER: Final = ThreadPoolExecutor(1, "mmiod-spawner")
"""Starts and ends processes beside the core: one thread for good, as a worker dies with its parent's."""
_MAIN: Final = "import sys; sys.path[:] = {path!r}; from mmiod.plugins.process.worker import main; main()"


@define(eq=False)
class Worker:
    """One process and the way to it."""

    process: subprocess.Popen[bytes]
    channel: HostEnd
    silent: bool = False
    """Whether it has not said anything yet about what it was told last."""

    @classmethod
    def start(
        cls, source: Source, config: Mapping[str, object], directory: Path, before: Source | None = None
    ) -> Worker:
        """Start a process that loads a plugin, and do not wait for it.

        Args:
            source: the plugin.
            config: the device's, as the machine file has it.
            directory: of the machine file.
            before: the generation whose state it will be given, if it is to succeed one.
        """
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _MAIN.format(path=sys.path), str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={},
                process_group=0,
            )
        worker = cls(process, HostEnd(ours))
        plugins = [None if each is None else attrs.asdict(each) for each in (source, before)]
        with suppress(WorkerGone):  # `ready` will tell
            worker.channel.send((*plugins, dict(config), str(directory)))
        return worker

    @property
    def speaks(self) -> bool:
        """Whether it has loaded its plugin, or will never."""
        readable, _, _ = select.select([self.channel.socket], [], [], 0)
        return bool(readable)

    def ready(self) -> str:
        """Wait until it is; what its confinement lacks.

        Raises:
            PluginError: it does not come up.
        """
        message: list[object] = []
        try:
            message = next(self.channel.receive(perf_counter_ns() + START_NS))
        except (WorkerGone, TimeoutError) as error:
            self.end()
            raise PluginError(f"its process does not start: {str(error) or 'it takes too long'}") from error
        return str(message[-1])

    @property
    def cpu_ns(self) -> int:
        """CPU time that it has had; 0 if it is gone (clock_getcpuclockid(3), `MAKE_PROCESS_CPUCLOCK`)."""
        try:
            return clock_gettime_ns(~self.process.pid << 3 | 2)
        except OSError:
            return 0

    def exchange(self, mirror: Device, message: tuple[Any, ...], budget_ns: int) -> Any:  # noqa: ANN401
        """Say something, do what the device does meanwhile, and return the answer.

        Raises:
            RemoteError: a hook failed.
            WorkerGone: it has ended, or says what no worker says.
            HookDeadlineExceeded: no answer in time, which is CPU time of the process: see `core/watchdog.py`.
        """
        started_ns, used_ns = perf_counter_ns(), self.cpu_ns
        deadline_ns = started_ns + budget_ns
        self.silent = True
        self.channel.send(message)
        while True:
            try:
                for name, *arguments in self.channel.receive(deadline_ns):
                    self.silent = False
                    if name == "answer":
                        return arguments[0]
                    if name == "failed":
                        raise RemoteError(*arguments)
                    perform(mirror, self.channel, name, arguments)
            except TimeoutError:
                left_ns = budget_ns - (self.cpu_ns - used_ns)
                deadline_ns = min(perf_counter_ns() + left_ns, started_ns + CLOCK * budget_ns)
                if left_ns <= 0 or deadline_ns <= perf_counter_ns():
                    raise HookDeadlineExceeded from None

    def end(self) -> None:
        """Kill it, with whatever it started."""
        self.channel.socket.close()
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
