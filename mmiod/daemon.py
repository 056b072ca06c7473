"""The daemon: what it is made of, and the one nursery in which it lives.

serve
  pump                  the core task: all exit sockets
  attachment per VM     its clock and its sessions' grace
  restarts per VM       brings devices back that failed
  stops per VM          ends accesses that stood for too long at a break
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

import attrs
import structlog
import trio

import mmiod
from mmiod import compiled
from mmiod.attach.attachment import Attachment
from mmiod.attach.functions import FunctionsAttachment
from mmiod.attach.vm import VmAttachment
from mmiod.building import Daemon, build
from mmiod.control import messages
from mmiod.control.commands import UPGRADE, interface
from mmiod.control.server import Server
from mmiod.control.service import Service
from mmiod.core.restarts import keep_restarting
from mmiod.core.stops import keep_ending
from mmiod.plugins.watch import follow
from mmiod.service.limiter import PERIOD_S, RateLimiter
from mmiod.service.notify import Notifier
from mmiod.upgrade.heir import Heir
from mmiod.upgrade.listeners import Listeners

if TYPE_CHECKING:
    from mmiod.config import VmConfig
    from mmiod.plugins.watch import Changes

__all__ = ["Daemon", "build", "serve"]

NOT_RELOADED: Final = "mmiod.toml and machine files, which are read at start only"


async def serve(
    daemon: Daemon,
    notifier: Notifier,
    limiter: RateLimiter,
    passed: Mapping[str, list[socket.socket]],
    succeed: Callable[[], None] = lambda: None,
    saved: Changes | None = None,
    heir: Heir | None = None,
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
        heir: what the daemon had that this process was before.

    Raises:
        ConfigError: a socket cannot be bound.
    """
    with contextlib.ExitStack() as sockets:
        server = Server(Service.of(interface(daemon)))
        control = _open(sockets, daemon, Listeners(sockets, passed, heir, daemon.upgrader.listening))
        daemon.upgrader.callers = partial(server.waiting, UPGRADE)
        daemon.upgrader.before = partial(limiter.report, final=True)
        succeed()
        callers = [] if heir is None else _inherit(daemon, heir)
        daemon.watchdog.start()
        sockets.callback(daemon.watchdog.stop)
        async with trio.open_nursery() as nursery:
            await nursery.start(_handle_signals, daemon, notifier)
            _start(nursery, daemon)
            nursery.start_soon(server.run, control)
            nursery.start_soon(_report, daemon, notifier, limiter)
            if saved is not None:
                nursery.start_soon(follow, daemon.reloader, saved)
            if notifier.watchdog_s is not None:
                nursery.start_soon(_feed_watchdog, daemon, notifier)
            _freeze(sockets)
            _started(daemon, notifier)
            if heir is not None:
                _upgraded(nursery, daemon, heir, server, callers)
            await daemon.stopping.wait()
            notifier.stopping("answering what is in flight")
            await _drain(daemon)
            structlog.get_logger().info("daemon_stopped", accesses=daemon.recorder.serial)
            nursery.cancel_scope.cancel()
    limiter.report(final=True)


def _open(stack: contextlib.ExitStack, daemon: Daemon, listeners: Listeners) -> list[trio.SocketListener]:
    """Listen for hypervisors, and let devices end with the sockets; gives the control socket's listeners."""
    for vm in daemon.config.vm:
        _listen(listeners, vm, daemon.attachments[vm.name])
    control = listeners.open("control", daemon.config.daemon.control, socket.SOCK_STREAM)
    stack.callback(daemon.close)
    return [trio.SocketListener(trio.socket.from_stdlib_socket(listener)) for listener in control]


def _start(nursery: trio.Nursery, daemon: Daemon) -> None:
    """The tasks that answer exits."""
    nursery.start_soon(daemon.pump.run)
    for vm, attachment in daemon.attachments.items():
        nursery.start_soon(attachment.run)
        nursery.start_soon(keep_restarting, attachment.machine, attachment.inject)
        nursery.start_soon(keep_ending, attachment.machine.breaks, partial(daemon.settle, vm))
    for task in daemon.device_tasks.values():
        nursery.start_soon(task.run)


def _freeze(stack: contextlib.ExitStack) -> None:
    """What is here now stays: collecting it again would only cost pauses."""
    gc.collect()
    gc.freeze()
    stack.callback(gc.unfreeze)  # a process may go on when its daemon has ended: the tests' does


def _started(daemon: Daemon, notifier: Notifier) -> None:
    """Tell of it: the service manager, whoever waits, the log."""
    notifier.ready(daemon.status())
    daemon.started.set()
    structlog.get_logger().info(
        "daemon_started",
        vms=sorted(daemon.machines),
        control=str(daemon.config.daemon.control),
        compiled=compiled.made() is not None,
    )


async def _drain(daemon: Daemon) -> None:
    """Take nothing new, and let backends take what devices have sent."""
    for attachment in daemon.attachments.values():
        attachment.machine.breaks.rest()
        attachment.settle()
        attachment.stop()
    async with trio.open_nursery() as draining:
        for task in daemon.device_tasks.values():
            draining.start_soon(task.drain)


def _inherit(daemon: Daemon, heir: Heir) -> list[int]:
    """Have what the program before had; gives the connections that wait to be told of it."""
    callers = heir.callers()
    heir.take_over(daemon.upgrader)
    return callers


def _listen(listeners: Listeners, vm: VmConfig, attachment: Attachment) -> None:
    if isinstance(attachment, VmAttachment):
        for listener in listeners.open(f"exit.{vm.name}", vm.socket, socket.SOCK_SEQPACKET):
            attachment.listen(listener)
    elif isinstance(attachment, FunctionsAttachment):
        for device in attachment.functions:
            name, path = f"function.{vm.name}.{device}", vm.socket / device
            for listener in listeners.open(name, path, socket.SOCK_STREAM):
                attachment.listen(device, listener)


def _upgraded(nursery: trio.Nursery, daemon: Daemon, heir: Heir, server: Server, callers: list[int]) -> None:
    """Tell of it: in the log, and to whoever asked for it."""
    upgraded = messages.Upgraded(daemon.upgrader.upgrades, heir.pause_us(), mmiod.__version__)
    structlog.get_logger().info("daemon_upgraded", **attrs.asdict(upgraded))
    for caller in callers:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=caller)))
        nursery.start_soon(server.go_on, stream, upgraded)


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
