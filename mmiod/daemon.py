"""The daemon: what it is made of, and the one nursery in which it lives.

serve
  pump                  the core task: all exit sockets
  attachment per VM     its clock and its sessions' grace
  restarts per VM       brings devices back that failed
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
from mmiod.attach.attachment import Attachment
from mmiod.attach.functions import FunctionsAttachment, check_functions
from mmiod.attach.vm import VmAttachment
from mmiod.control.commands import interface
from mmiod.control.server import Server
from mmiod.control.service import Service
from mmiod.core.backends.faces import Place
from mmiod.core.device_task import DeviceTask
from mmiod.core.listening import bind
from mmiod.core.pump import Pump
from mmiod.core.restarts import keep_restarting
from mmiod.core.watchdog import Watchdog
from mmiod.core.wiring import Backends, choose, connect
from mmiod.errors import ConfigError, MachineError, PluginError
from mmiod.machine.assembly import MakeHost, Part, assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.machine import Machine
from mmiod.plugins.loader import bundled_directories
from mmiod.plugins.process.host import process_host
from mmiod.plugins.registry import Registry
from mmiod.plugins.reload import Reloader
from mmiod.plugins.watch import follow
from mmiod.protocol.exit import Offer
from mmiod.service.limiter import PERIOD_S, RateLimiter
from mmiod.service.notify import Notifier
from mmiod.trace import Recorder
from mmiod.values import Space

if TYPE_CHECKING:
    from mmiod.attach.flights import Flights
    from mmiod.attach.function import FunctionAttachment
    from mmiod.config import Config, DaemonConfig, VmConfig
    from mmiod.machine.description import DeviceDescription, MachineDescription
    from mmiod.plugins.watch import Changes

GENERATION: Final = 1
VFIO_USER: Final = "vfio-user"
PROCESS: Final = "process"
NOT_RELOADED: Final = "mmiod.toml and machine files, which are read at start only"
LEVELS: Final = {
    "device_quarantined": "error",
    "device_abandoned": "error",
    "tpm_failed": "error",
    "effect_unknown": "error",
    "isolation_incomplete": "warning",
    "backend_failed": "warning",
    "access_unclaimed": "warning",
    "interrupt_dropped": "warning",
    "access_expired": "warning",
    "message_refused": "warning",
    "connection_not_accepted": "warning",
}
"""Of events that are no plain information."""


@define(eq=False)
class Daemon:
    """Everything that runs; also what the control socket sees."""

    config: Config
    recorder: Recorder
    machines: Mapping[str, Machine]
    attachments: Mapping[str, Attachment]
    pump: Pump
    watchdog: Watchdog
    device_tasks: list[DeviceTask]
    reloader: Reloader
    started: trio.Event = field(factory=trio.Event)
    stopping: trio.Event = field(factory=trio.Event)

    def flights(self, vm: str) -> Flights | None:
        """The exits of a VM's session; None while no hypervisor is attached."""
        return self.attachments[vm].flights

    def functions(self, vm: str) -> Mapping[str, FunctionAttachment]:
        """What a VM's hypervisor reaches by vfio-user, by device; nothing for the exit protocol."""
        attachment = self.attachments[vm]
        return attachment.functions if isinstance(attachment, FunctionsAttachment) else {}

    def work(self, action: Callable[[], None]) -> None:
        """Run an action that calls a plugin's code: under the watchdog's eyes."""
        self.pump.work(action)

    def status(self) -> str:
        """One line for people."""
        attached = sum(attachment.attached for attachment in self.attachments.values())
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
    plugins = Registry([*settings.plugins, *bundled_directories()])
    machines: dict[str, Machine] = {}
    described: dict[tuple[str, str], tuple[DeviceDescription, Path]] = {}
    backends: dict[tuple[str, str], Backends] = {}
    problems: list[str] = []
    for vm in config.vm:
        try:
            machines[vm.name] = _machine(vm, plugins, recorder, backends, described, deadline_ns)
        except ConfigError as error:
            problems += [problem for problem in error.problems if problem not in problems]
    problems += _contended(backends)
    if problems:
        raise ConfigError(problems)
    watchdog = Watchdog([machine.mark for machine in machines.values()], deadline_ns)
    pump = Pump(watchdog.working)
    attachments = {vm.name: _attachment(vm, machines[vm.name], pump, settings) for vm in config.vm}
    tasks = [
        connect(machines[vm], device, chosen, attachments[vm].inject)
        for (vm, device), chosen in backends.items()
    ]

    def work(action: Callable[[], None]) -> None:
        pump.work(action)
        for attachment in attachments.values():
            pump.work(attachment.settle)

    reloader = Reloader(plugins, machines, described, recorder, deadline_ns, work)
    return Daemon(config, recorder, machines, attachments, pump, watchdog, tasks, reloader)


def _attachment(vm: VmConfig, machine: Machine, pump: Pump, settings: DaemonConfig) -> Attachment:
    if vm.protocol == VFIO_USER:
        return FunctionsAttachment(machine, pump, settings.access_deadline_ms / 1000)
    offer = Offer(
        capabilities=0,  # the attachment's to say: they depend on the machine
        generation=GENERATION,
        hook_deadline_ns=settings.hook_deadline_ms * 1_000_000,
        max_vcpus=settings.max_vcpus,
        max_slots=settings.max_slots,
        rep_bound=settings.rep_bound,
    )
    return VmAttachment(machine, pump, offer, settings.reconnect_grace_s)


def _machine(
    vm: VmConfig,
    plugins: Registry,
    recorder: Recorder,
    backends: dict[tuple[str, str], Backends],
    known: dict[tuple[str, str], tuple[DeviceDescription, Path]],
    deadline_ns: int,
) -> Machine:
    description = configuration.load_machine(vm.machine)
    problems: list[str] = []
    parts: dict[str, Part] = {}
    isolated: dict[str, MakeHost] = {}
    directory = vm.machine.parent
    for name, described in description.devices.items():
        try:
            plugin = plugins.get(described.plugin)
            parts[name] = (plugin, configuration.configure(plugin, described, directory))
            backends[vm.name, name] = choose(plugin, Place(vm.name, name, "", directory), described.streams)
            known[vm.name, name] = described, directory
            if described.isolation == PROCESS:
                source = plugins.current[described.plugin].source
                isolated[name] = partial(process_host, source, described, directory, deadline_ns)
        except ConfigError as error:
            problems += [f"{vm.machine}: devices.{name}.{problem}" for problem in error.problems]
        except (PluginError, ValueError) as error:
            problems.append(f"{vm.machine}: devices.{name}: {error}")
    if problems:
        raise ConfigError(problems)
    return _assemble(vm, description, parts, isolated, recorder)


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
    vm: VmConfig,
    description: MachineDescription,
    parts: Mapping[str, Part],
    isolated: Mapping[str, MakeHost],
    recorder: Recorder,
) -> Machine:
    clock = MachineClock(time.monotonic_ns, _wall_s)
    notify = partial(_notify, vm.name)
    try:
        functions = vm.protocol == VFIO_USER
        machine = assemble(
            vm.name,
            description,
            parts,
            clock,
            notify,
            recorder.add,
            own_memories=functions,
            isolated=isolated,
        )
        if functions:
            check_functions(machine)
    except MachineError as error:
        raise ConfigError([f"{vm.machine}: {problem}" for problem in error.problems]) from error
    return machine


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
    succeed: Callable[[], None] = lambda: None,
    saved: Changes | None = None,
) -> None:
    """Serve until a signal ends it.

    Args:
        daemon: what to run.
        notifier: the service manager.
        limiter: the log's, whose counts are reported.
        passed: listening sockets that the service manager opened, by name
            (`exit.VM`, `function.VM.DEVICE`, `control`).
        succeed: called as soon as the sockets are ours.
        saved: what tells that plugins may have been saved, if that is watched.

    Raises:
        ConfigError: a socket cannot be bound.
    """
    log = structlog.get_logger()
    with contextlib.ExitStack() as sockets:
        control = _open(sockets, daemon, passed)
        succeed()
        daemon.watchdog.start()
        sockets.callback(daemon.watchdog.stop)
        async with trio.open_nursery() as nursery:
            await nursery.start(_handle_signals, daemon, notifier)
            _start(nursery, daemon)
            nursery.start_soon(Server(Service.of(interface(daemon))).run, control)
            nursery.start_soon(_report, daemon, notifier, limiter)
            if saved is not None:
                nursery.start_soon(follow, daemon.reloader, saved)
            if notifier.watchdog_s is not None:
                nursery.start_soon(_feed_watchdog, daemon, notifier)
            gc.collect()
            gc.freeze()  # what is here now stays; collecting it again would only cost pauses
            notifier.ready(daemon.status())
            daemon.started.set()
            log.info("daemon_started", vms=sorted(daemon.machines), control=str(daemon.config.daemon.control))
            await daemon.stopping.wait()
            notifier.stopping("answering what is in flight")
            await _drain(daemon)
            log.info("daemon_stopped", accesses=daemon.recorder.serial)
            nursery.cancel_scope.cancel()
    limiter.report(final=True)


def _open(
    stack: contextlib.ExitStack, daemon: Daemon, passed: Mapping[str, list[socket.socket]]
) -> list[trio.SocketListener]:
    """Listen for hypervisors, and let devices end with the sockets; gives the control socket's listeners."""
    for vm in daemon.config.vm:
        _listen(stack, passed, vm, daemon.attachments[vm.name])
    path = daemon.config.daemon.control
    control = _listeners(stack, passed, "control", path, socket.SOCK_STREAM)
    for machine in daemon.machines.values():
        for host in machine.hosts.values():
            stack.callback(host.close)
    return [trio.SocketListener(trio.socket.from_stdlib_socket(listener)) for listener in control]


def _start(nursery: trio.Nursery, daemon: Daemon) -> None:
    """The tasks that answer exits."""
    nursery.start_soon(daemon.pump.run)
    for attachment in daemon.attachments.values():
        nursery.start_soon(attachment.run)
        nursery.start_soon(keep_restarting, attachment.machine, attachment.inject)
    for task in daemon.device_tasks:
        nursery.start_soon(task.run)


async def _drain(daemon: Daemon) -> None:
    """Take nothing new, and let backends take what devices have sent."""
    for attachment in daemon.attachments.values():
        attachment.stop()
    async with trio.open_nursery() as draining:
        for task in daemon.device_tasks:
            draining.start_soon(task.drain)


def _listen(
    stack: contextlib.ExitStack,
    passed: Mapping[str, list[socket.socket]],
    vm: VmConfig,
    attachment: Attachment,
) -> None:
    if isinstance(attachment, VmAttachment):
        for listener in _listeners(stack, passed, f"exit.{vm.name}", vm.socket, socket.SOCK_SEQPACKET):
            attachment.listen(listener)
    elif isinstance(attachment, FunctionsAttachment):
        for device in attachment.functions:
            name, path = f"function.{vm.name}.{device}", vm.socket / device
            for listener in _listeners(stack, passed, name, path, socket.SOCK_STREAM):
                attachment.listen(device, listener)


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
    daemon: Daemon,
    notifier: Notifier,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    async with trio.open_nursery() as nursery:
        actions: dict[int, Callable[[], None]] = {
            signal.SIGTERM: daemon.stopping.set,
            signal.SIGINT: daemon.stopping.set,
            signal.SIGUSR2: partial(_dump, daemon),
            signal.SIGHUP: partial(nursery.start_soon, _reload, daemon, notifier),
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


async def _reload(daemon: Daemon, notifier: Notifier) -> None:
    """SIGHUP: plugins whose files have changed; each has an event of its own."""
    notifier.reloading()
    changed = await daemon.reloader.reload_changed()
    structlog.get_logger().info("plugins_reloaded", changed=changed, not_reloaded=NOT_RELOADED)
    notifier.ready(daemon.status())


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
