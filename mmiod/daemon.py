"""The daemon: what it is made of, and the one nursery in which it lives.

serve
  pump                  the core task: all exit sockets
  attachment per VM     its clock and its sessions' grace
  device task           one per device that has backends
  control               the varlink socket
  signals, reports, the service manager's watchdog
"""

from __future__ import annotations

import contextlib
import gc
import signal
import socket
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import trio
from attrs import define, field

from mmiod import config as configuration
from mmiod.attach.vm import VmAttachment
from mmiod.control.commands import interface
from mmiod.control.server import Server
from mmiod.control.service import Service
from mmiod.core.backends.faces import Place
from mmiod.core.device_task import DeviceTask
from mmiod.core.listening import bind
from mmiod.core.pump import Pump
from mmiod.core.watchdog import Watchdog
from mmiod.core.wiring import Backends, choose, connect
from mmiod.device import Device
from mmiod.errors import ConfigError, MachineError, PluginError
from mmiod.machine.clock import MachineClock
from mmiod.machine.machine import Machine, Part, assemble
from mmiod.plugins.loader import bundled_directories, load
from mmiod.protocol.exit import Offer
from mmiod.service.limiter import PERIOD_S, RateLimiter
from mmiod.service.notify import Notifier
from mmiod.trace import Recorder
from mmiod.values import Space

if TYPE_CHECKING:
    from mmiod.attach.flights import Flights
    from mmiod.config import Config, VmConfig
    from mmiod.machine.description import MachineDescription

GENERATION: Final = 1
LEVELS: Final = {
    "device_quarantined": "error",
    "tpm_failed": "error",
    "effect_unknown": "error",
    "backend_failed": "warning",
    "access_unclaimed": "warning",
}
"""Of events that are no plain information."""


@define(eq=False)
class Daemon:
    """Everything that runs; also what the control socket sees."""

    config: Config
    recorder: Recorder
    machines: Mapping[str, Machine]
    attachments: Mapping[str, VmAttachment]
    pump: Pump
    watchdog: Watchdog
    device_tasks: list[DeviceTask]
    started: trio.Event = field(factory=trio.Event)
    stopping: trio.Event = field(factory=trio.Event)

    def flights(self, vm: str) -> Flights | None:
        """The exits of a VM's session; None while no hypervisor is attached."""
        session = self.attachments[vm].session
        return session.flights if session is not None else None

    def work(self, action: Callable[[], None]) -> None:
        """Run an action that calls a plugin's code: under the watchdog's eyes."""
        self.pump.work(action)

    def status(self) -> str:
        """One line for people."""
        attached = sum(attachment.primary is not None for attachment in self.attachments.values())
        devices = sum(len(machine.hosts) for machine in self.machines.values())
        accesses = self.recorder.serial
        return f"{len(self.machines)} VMs, {attached} attached, {devices} devices, {accesses} accesses"


# --- building ----------------------------------------------------------------------------


def build(config: Config) -> Daemon:
    """Load all plugins and assemble all machines; nothing is started.

    Raises:
        ConfigError: with every problem of every machine file.
    """
    settings = config.daemon
    recorder = Recorder(settings.recorder_capacity)
    deadline_ns = settings.hook_deadline_ms * 1_000_000
    plugins = _Plugins([*settings.plugins, *bundled_directories()])
    machines: dict[str, Machine] = {}
    backends: dict[tuple[str, str], Backends] = {}
    problems: list[str] = []
    for vm in config.vm:
        try:
            machines[vm.name] = _machine(vm, plugins, recorder, backends)
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    problems += _contended(backends)
    if problems:
        raise ConfigError(problems)
    watchdog = Watchdog([machine.mark for machine in machines.values()], deadline_ns)
    pump = Pump(watchdog.working)
    offer = Offer(
        capabilities=0,  # the attachment's to say: they depend on the machine
        generation=GENERATION,
        hook_deadline_ns=deadline_ns,
        max_vcpus=settings.max_vcpus,
        max_slots=settings.max_slots,
        rep_bound=settings.rep_bound,
    )
    attachments = {
        name: VmAttachment(machine, pump, offer, settings.reconnect_grace_s)
        for name, machine in machines.items()
    }
    tasks = [
        connect(machines[vm], device, chosen, attachments[vm].inject)
        for (vm, device), chosen in backends.items()
    ]
    return Daemon(config, recorder, machines, attachments, pump, watchdog, tasks)


@define
class _Plugins:
    """Device classes by plugin name; each is loaded once for all its instances."""

    directories: list[Path]
    loaded: dict[str, type[Device]] = field(factory=dict)

    def get(self, name: str) -> type[Device]:
        if name not in self.loaded:
            self.loaded[name] = load(name, self.directories)
        return self.loaded[name]


def _machine(
    vm: VmConfig, plugins: _Plugins, recorder: Recorder, backends: dict[tuple[str, str], Backends]
) -> Machine:
    description = configuration.load_machine(vm.machine)
    problems: list[str] = []
    parts: dict[str, Part] = {}
    directory = vm.machine.parent
    for name, described in description.devices.items():
        try:
            plugin = plugins.get(described.plugin)
            parts[name] = (plugin, configuration.configure(plugin, described, directory))
            backends[vm.name, name] = choose(plugin, Place(vm.name, name, "", directory), described.streams)
        except ConfigError as error:
            problems += [f"{vm.machine}: devices.{name}.{problem}" for problem in error.problems]
        except (PluginError, ValueError) as error:
            problems.append(f"{vm.machine}: devices.{name}: {error}")
    if problems:
        raise ConfigError(problems)
    return _assemble(vm, description, parts, recorder)


def _contended(backends: Mapping[tuple[str, str], Backends]) -> list[str]:
    """What two backends would have to share."""
    owners: dict[str, str] = {}
    problems = []
    for (vm, device), chosen in backends.items():
        for thing, place in chosen.owned():
            owner = owners.setdefault(thing, f"{vm}/{device}.{place.name}")
            if owner != f"{vm}/{device}.{place.name}":
                problems.append(f"{vm}/{device}.{place.name}: {thing} is {owner}'s already")
    return problems


def _assemble(
    vm: VmConfig, description: MachineDescription, parts: Mapping[str, Part], recorder: Recorder
) -> Machine:
    clock = MachineClock(time.monotonic_ns, _wall_s)
    notify = partial(_notify, vm.name)
    try:
        return assemble(vm.name, description, parts, clock, notify, recorder.add)
    except MachineError as error:
        raise ConfigError([f"{vm.machine}: {problem}" for problem in error.problems]) from error


def _wall_s() -> float:
    return time.clock_gettime(time.CLOCK_REALTIME)


def _notify(vm: str, event: str, **fields: object) -> None:
    level = LEVELS.get(event, "info")
    if event == "access_unclaimed" and fields["space"] == Space.PIO.name.lower():
        level = "debug"  # firmware and systems probe ports blindly
    getattr(structlog.get_logger(), level)(event, vm=vm, **fields)


# --- running -------------------------------------------------------------------------------


async def serve(
    daemon: Daemon,
    notifier: Notifier,
    limiter: RateLimiter,
    passed: Mapping[str, list[socket.socket]],
) -> None:
    """Serve until a signal ends it.

    Args:
        daemon: what to run.
        notifier: the service manager.
        limiter: the log's, whose counts are reported.
        passed: listening sockets that the service manager opened, by name
            (`exit.VM`, `control`).

    Raises:
        ConfigError: a socket cannot be bound.
    """
    log = structlog.get_logger()
    with contextlib.ExitStack() as sockets:
        for vm in daemon.config.vm:
            for listener in _listeners(sockets, passed, f"exit.{vm.name}", vm.socket, socket.SOCK_SEQPACKET):
                daemon.attachments[vm.name].listen(listener)
        control = [
            trio.SocketListener(trio.socket.from_stdlib_socket(listener))
            for listener in _listeners(
                sockets, passed, "control", daemon.config.daemon.control, socket.SOCK_STREAM
            )
        ]
        daemon.watchdog.start()
        sockets.callback(daemon.watchdog.stop)
        async with trio.open_nursery() as nursery:
            await nursery.start(_handle_signals, daemon)
            nursery.start_soon(daemon.pump.run)
            for attachment in daemon.attachments.values():
                nursery.start_soon(attachment.run)
            for task in daemon.device_tasks:
                nursery.start_soon(task.run)
            nursery.start_soon(Server(Service.of(interface(daemon))).run, control)
            nursery.start_soon(_report, daemon, notifier, limiter)
            if notifier.watchdog_s is not None:
                nursery.start_soon(_feed_watchdog, daemon, notifier)
            gc.collect()
            gc.freeze()  # what is here now stays; collecting it again would only cost pauses
            notifier.ready(daemon.status())
            daemon.started.set()
            log.info("daemon_started", vms=sorted(daemon.machines), control=str(daemon.config.daemon.control))
            await daemon.stopping.wait()
            notifier.stopping("answering what is in flight")
            for attachment in daemon.attachments.values():
                attachment.stop()
            async with trio.open_nursery() as draining:
                for task in daemon.device_tasks:
                    draining.start_soon(task.drain)
            log.info("daemon_stopped", accesses=daemon.recorder.serial)
            nursery.cancel_scope.cancel()
    limiter.report(final=True)


def _listeners(
    stack: contextlib.ExitStack,
    passed: Mapping[str, list[socket.socket]],
    name: str,
    path: Path,
    kind: socket.SocketKind,
) -> list[socket.socket]:
    """The passed sockets of that name, or one of our own, which disappears in the end."""
    if name in passed:
        return passed[name]
    try:
        return [bind(stack, path, kind)]
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror or error}"]) from error


async def _handle_signals(
    daemon: Daemon, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    actions: dict[int, Callable[[], None]] = {
        signal.SIGTERM: daemon.stopping.set,
        signal.SIGINT: daemon.stopping.set,
        signal.SIGUSR2: partial(_dump, daemon),
        signal.SIGHUP: _refuse_reload,
    }
    with trio.open_signal_receiver(*actions) as received:
        task_status.started()
        async for number in received:
            actions[number]()


async def _report(daemon: Daemon, notifier: Notifier, limiter: RateLimiter) -> None:
    """What was held back from the log, and one line for the service manager."""
    while True:
        await trio.sleep(PERIOD_S)
        limiter.report()
        notifier.status(daemon.status())


async def _feed_watchdog(daemon: Daemon, notifier: Notifier) -> None:
    """The message goes out from the core task: if that hangs, none goes."""
    assert notifier.watchdog_s is not None
    while True:
        daemon.pump.soon(notifier.watchdog)
        await trio.sleep(notifier.watchdog_s)


def _refuse_reload() -> None:
    """SIGHUP: nothing can be loaded anew yet, and guests must not pay for the question."""
    reason = "plugins and machine files are read at start only"
    structlog.get_logger().warning("reload_refused", reason=reason)


def _dump(daemon: Daemon) -> None:
    """SIGUSR2: all tasks with their stacks, all exits in flight."""
    log = structlog.get_logger()
    for task in _tasks(trio.lowlevel.current_root_task()):
        frames = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in _stack(task)]
        log.info("task_dumped", task=task.name, stack=frames)
    for name in daemon.machines:
        flights = daemon.flights(name)
        for flight in flights.current.values() if flights else ():
            log.info(
                "exit_dumped",
                vm=name,
                vcpu=flight.vcpu,
                sequence=flight.sequence,
                kind=type(flight.exit).__name__,
                waits_for=flight.waits_for.name if flight.waits_for else None,
                age_ms=(time.monotonic_ns() - flight.since_ns) // 1_000_000,
            )


def _tasks(task: trio.lowlevel.Task | None) -> Iterator[trio.lowlevel.Task]:
    if task is not None:
        yield task
        for nursery in task.child_nurseries:
            for child in nursery.child_tasks:
                yield from _tasks(child)


def _stack(task: trio.lowlevel.Task) -> traceback.StackSummary:
    return traceback.StackSummary.extract(task.iter_await_frames())
