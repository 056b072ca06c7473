"""A device whose hooks run in a process of its own: `isolation = "process"`.

The waist is that of a device in this process, and so are order, journal, quarantine and
restart.  Only the table of inputs differs: each one is a message to the worker, and this
call waits for its answer, as a hook never waits for anything and its deadline is short.
What the hook does to its surroundings comes before the answer and is done here.

`device` is a mirror: an instance of the class whose hooks are never called.  It has what
the machine needs to know, which are declarations, levels of lines, deadlines of timers.

A worker that fails in any way is killed.  The next one was started long before, and becomes
the device by the snapshot and the journal.
"""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Any, ClassVar, Final

import attrs
from attrs import define, field

from mmiod.device import Context, Device, Register, Request
from mmiod.device.dispatch import RegisterAnswerer
from mmiod.device.saved import Saved
from mmiod.errors import PluginError
from mmiod.machine.context import DeviceContext
from mmiod.machine.description import DeviceDescription
from mmiod.machine.host import InlineHost, Relived
from mmiod.machine.inputs import INPUTS, QUESTIONS, skip
from mmiod.machine.machine import Machine
from mmiod.machine.mark import HookDeadlineExceeded, RemoteError
from mmiod.machine.snapshot import give
from mmiod.plugins.loader import Source
from mmiod.plugins.process.channel import HostEnd, WorkerGone
from mmiod.plugins.process.texts import as_text, from_text, to_text
from mmiod.values import Direction, Space

START_NS: Final = 10_000_000_000
"""For a worker to load its plugin: a spare has done so long before it is needed."""


@define(eq=False)
class Worker:
    """One process and the way to it."""

    process: subprocess.Popen[bytes]
    channel: HostEnd

    @classmethod
    def start(cls, source: Source, config: Mapping[str, object], directory: Path) -> Worker:
        """Start a process that loads a plugin, and do not wait for it."""
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
        channel = HostEnd(ours)
        channel.send((attrs.asdict(source), dict(config), str(directory)))
        return cls(process, channel)

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

    def end(self) -> None:
        """Kill it, with whatever it started."""
        self.channel.socket.close()
        if self.process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


_MAIN: Final = "import sys; sys.path[:] = {path!r}; from mmiod.plugins.process.worker import main; main()"


@define(eq=False)
class ProcessHost(InlineHost):
    """The host of such a device."""

    source: Source = field(kw_only=True)
    settings: Mapping[str, object] = field(kw_only=True)
    """The device's configuration as the machine file has it."""
    directory: Path = field(kw_only=True)
    deadline_ns: int = field(kw_only=True)
    machine: Machine = field(kw_only=True)
    worker: Worker | None = None
    _spare: Worker | None = None
    _restored: bool = False

    def __attrs_post_init__(self) -> None:
        """Inputs are messages."""
        self.inputs = {kind: partial(self._input, kind) for kind in (*INPUTS, *QUESTIONS)}

    isolated: ClassVar[bool] = True

    # --- workers -----------------------------------------------------------------------------

    def begin(self) -> None:
        """Bring the first worker up; the next one starts already.

        Raises:
            PluginError: it does not start, or does not make the device.
        """
        try:
            self._become(None)
        except (WorkerGone, RemoteError, HookDeadlineExceeded) as error:
            self.close()
            raise PluginError(str(error) or "making it takes too long") from error

    def relive(self) -> Relived | None:
        """A worker where the journal ends; None if it failed on the way."""
        self.failure = None
        lived = self.guarded(self._become, None, self.journal.snapshot)
        return lived if self.serves else None

    def _become(self, snapshot: Saved | None) -> Relived:
        journal = self.journal
        plugin = type(self.device)
        text = None if snapshot is None else as_text(plugin, snapshot)
        self.worker, self._spare = self._spare or self._start(), None
        missing = self.worker.ready()
        if missing:
            self.machine.notify("isolation_incomplete", device=self.name, missing=missing)
        self._spare = self._start()
        budget_ns = self.deadline_ns * (1 + len(journal.entries))
        message = ("begin", text, journal.entries, journal.owing, journal.refused)
        owing, inputs, saved = self._exchange(message, budget_ns)
        mirror = _mirror(plugin, self.device.context, self.device.config)
        give(mirror, from_text(plugin, saved))
        return Relived(mirror, bool(owing), int(inputs))

    @property
    def ready(self) -> bool:
        """Whether the next worker has loaded its plugin, or will never."""
        self._spare = self._spare or self._start()
        readable, _, _ = select.select([self._spare.channel.socket], [], [], 0)
        return bool(readable)

    def _start(self) -> Worker:
        return Worker.start(self.source, self.settings, self.directory)

    def _fail(self, reason: BaseException) -> None:
        """The device is out of service, and its process ends."""
        super()._fail(reason)
        worker, self.worker = self.worker, None
        if worker is not None:
            worker.end()

    def close(self) -> None:
        """The daemon ends."""
        for worker in (self.worker, self._spare):
            if worker is not None:
                worker.end()
        self.worker = self._spare = None

    # --- what an inline device does by itself --------------------------------------------------

    def register_at(self, region: str, offset: int, size: int, direction: Direction) -> str:  # noqa: ARG002
        """The registers that may be there: in which bank the device is only its process knows."""
        if self.failure is not None:
            return ""
        answerer = self.device.answerers[region]
        if not isinstance(answerer, RegisterAnswerer):
            return ""
        return "/".join(claimant.name for claimant in answerer.candidates(offset, direction))

    def value_of(self, declared: Register) -> int:
        """A register, without side effects."""
        clock = self.machine.clock
        value = self._exchange(("inspect", declared.name, clock.now_ns, clock.wall_s), self.deadline_ns)
        if not isinstance(value, int):
            raise RemoteError(f"{declared.name} is {value!r:.80}")
        return value

    def restored(self) -> None:
        """The mirror has a restored state: the worker gets it with the next snapshot, when timers are set."""
        self._restored = True

    def refresh(self) -> None:
        """Bring the mirror to what the device is now."""
        if self.serves:
            self.guarded(self._refresh, None)

    def _refresh(self) -> None:
        give(self.device, self.snapshot())

    def snapshot(self) -> Saved:
        """What the device is now; the worker knows."""
        message: tuple[Any, ...] = ("save",)
        if self._restored:
            self._restored = False
            clock, clients = self.machine.clock, self.device.clients
            restored = {name: client.restored for name, client in clients.items()}
            message = ("give", to_text(self.device), restored, clock.now_ns, clock.wall_s)
        return from_text(type(self.device), self._exchange(message, self.deadline_ns))

    # --- messages ------------------------------------------------------------------------------

    def _input(self, kind: str, device: Device, *arguments: Any) -> Any:  # noqa: ANN401
        if kind in INPUTS:
            skip(device, kind, arguments)
        plain = tuple(int(given) if isinstance(given, Direction) else given for given in arguments)
        clock = self.machine.clock
        return self._exchange((kind, plain, clock.now_ns, clock.wall_s), self.deadline_ns)

    def _exchange(self, message: tuple[Any, ...], budget_ns: int) -> Any:  # noqa: ANN401
        """Say something to the worker, do what it does meanwhile, and return its answer."""
        if self.worker is None:
            raise WorkerGone("it has no process")
        channel = self.worker.channel
        deadline_ns = perf_counter_ns() + budget_ns
        channel.send(message)
        try:
            while True:
                for name, *arguments in channel.receive(deadline_ns):
                    if name == "answer":
                        return arguments[0]
                    if name == "failed":
                        raise RemoteError(*arguments)
                    self._perform(channel, name, arguments)
        except TimeoutError:
            raise HookDeadlineExceeded from None

    def _perform(self, channel: HostEnd, name: str, arguments: list[Any]) -> None:
        """What a hook did or asks; a guest may have written it, so types are checked."""
        action, *kinds = EFFECTS.get(name, QUERIES.get(name, (None,)))
        if (
            action is None
            or len(arguments) != len(kinds)
            or not all(isinstance(given, kind) for given, kind in zip(arguments, kinds, strict=True))
        ):
            raise WorkerGone(f"it says {[name, *arguments]!r:.80}")
        answer = action(self.device, *arguments)
        if name in QUERIES:
            channel.send(("answer", answer))


def process_host(
    source: Source,
    described: DeviceDescription,
    directory: Path,
    deadline_ns: int,
    machine: Machine,
    name: str,
    part: tuple[type[Device], object],
) -> ProcessHost:
    """Make the host of a device, and bring its worker up.

    Raises:
        PluginError: the worker does not start, or does not make the device.
    """
    plugin, config = part
    context = DeviceContext(machine, name)
    host = ProcessHost(
        name,
        described.plugin,
        _mirror(plugin, context, config),
        machine,
        number=len(machine.hosts) + 1,
        journal=context.journal,
        source=source,
        settings=described.config,
        directory=directory,
        deadline_ns=deadline_ns,
        machine=machine,
    )
    host.begin()
    return host


def _mirror(plugin: type[Device], context: Context, config: object) -> Device:
    """An instance that no code of the plugin has seen."""
    mirror = plugin.__new__(plugin)
    Device.__init__(mirror, context, config)
    return mirror


def _set_level(device: Device, line: str, level: bool) -> None:
    device.lines[line].set_level(level)


def _arm(device: Device, timer: str, deadline_ns: int | None) -> None:
    device.alarms[timer].deadline_ns = deadline_ns
    device.context.arm(timer, deadline_ns)


def _ask(device: Device, service: str, number: int, kind: str, data: bytes) -> None:
    client = device.clients[service]
    if kind not in client.effects:
        raise ValueError(f"{service}: {kind!r} is no request")
    client.number = number
    device.context.ask(service, number, kind, data)


def _notify(device: Device, event: str, fields: dict[str, object]) -> None:
    device.context.notify(event, **fields)


def _told(device: Device, value: int) -> None:
    context = device.context
    assert isinstance(context, DeviceContext), context
    context.journal.told(value)


EFFECTS: Final[Mapping[str, tuple[Any, ...]]] = {
    "set_level": (_set_level, str, bool),
    "arm": (_arm, str, int | None),
    "ask": (_ask, str, int, str, bytes),
    "notify": (_notify, str, dict),
    "told": (_told, int),
    "msi": (lambda device, address, data: device.context.msi(address, data), int, int),
    "request": (lambda device, kind, value: device.context.request(Request(kind), value), int, int),
    "place": (
        lambda device, region, space, base: device.context.place(device.regions[region], Space(space), base),
        str,
        int,
        int | None,
    ),
    "send": (lambda device, stream, data: device.channels[stream].send(data), str, bytes),
    "ready": (lambda device, stream: device.channels[stream].ready(), str),
    "cancel": (lambda device, service, number: device.clients[service].cancel(number), str, int),
    "complete": (lambda device, value: device.context.complete(value), object),
    "memory.write": (lambda device, gpa, data: device.memory.write(gpa, data), int, bytes),
}
"""What a hook does: the action, and the types of its arguments."""
QUERIES: Final[Mapping[str, tuple[Any, ...]]] = {
    "memory.below_4g": (lambda device: device.memory.below_4g,),
    "memory.above_4g": (lambda device: device.memory.above_4g,),
    "memory.read": (lambda device, gpa, length: device.memory.read(gpa, length), int, int),
    "memory.holds": (lambda device, gpa, length: device.memory.holds(gpa, length), int, int),
    "bus.read": (lambda device, space, at, size: device.bus.read(Space(space), at, size), int, int, int),
    "bus.write": (
        lambda device, space, at, size, value: device.bus.write(Space(space), at, size, value),
        int,
        int,
        int,
        int,
    ),
}
"""What a hook waits for."""
