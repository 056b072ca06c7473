"""The interface `io.mmiod`: what can be asked of the daemon, one handler each.

Handlers run between two turns of the core.  `Reload`, `Rollback` and `Upgrade` change something,
and wait; `Break` holds accesses up, and `Continue` ends that; all others look and change nothing.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Awaitable, Callable
from functools import partial
from time import monotonic_ns
from typing import Any, Final

from attrs import AttrsInstance

from mmiod.control import messages, reports
from mmiod.control.breaks import break_, continue_
from mmiod.control.daemon import Daemon
from mmiod.control.interface import Command, Interface, fail
from mmiod.control.meant import NAME, check_names, machines_of, one_device, ranges_of
from mmiod.control.traffic import Watch
from mmiod.control.varlink import SERVICE, Failure
from mmiod.device import Fifo, Register
from mmiod.errors import UpgradeRejected
from mmiod.plugins.meant import AmbiguousDevice, UnknownPlugin
from mmiod.plugins.question import Rejected
from mmiod.plugins.reload import Reloaded
from mmiod.trace import FilterError, parse

DOC: Final = """What a running mmiod can be asked; Reload, Rollback and Upgrade change it, Break stops
accesses, Continue ends that or answers them; nothing else changes anything.

Addresses and values are unsigned and may have 64 bits or more.  Times are ns.
"""
STARTS: Final = ("now", "oldest")
UPGRADE: Final = f"{NAME}.Upgrade"


def list_devices(daemon: Daemon, request: messages.OfVm) -> messages.Devices:
    """Every device: where it is, its lines, what it has done."""
    return messages.Devices(
        [
            reports.device(machine, host)
            for machine in machines_of(daemon, request)
            for host in machine.hosts.values()
        ]
    )


def get_map(daemon: Daemon, request: messages.OfVm) -> messages.Map:
    """Every address space, holes included."""
    return messages.Map([reports.range_(machine, found) for machine, found in ranges_of(daemon, request)])


def list_functions(daemon: Daemon, request: messages.OfVm) -> messages.Functions:
    """Every function behind vfio-user: its socket and who is attached."""
    return messages.Functions(
        [
            reports.function(machine, function)
            for machine in machines_of(daemon, request)
            for function in daemon.functions(machine.name).values()
        ]
    )


def list_exits(daemon: Daemon, request: messages.OfVm) -> messages.Exits:
    """Exits in flight with their age, and how many there were by kind."""
    known = {machine.name: daemon.flights(machine.name) for machine in machines_of(daemon, request)}
    sessions = {vm: flights for vm, flights in known.items() if flights is not None}
    now = monotonic_ns()
    return messages.Exits(
        [
            reports.exit_(vm, flight, now)
            for vm, flights in sessions.items()
            for flight in flights.current.values()
        ],
        [reports.totals(vm, flights) for vm, flights in sessions.items()],
    )


def watch(daemon: Daemon, request: messages.WatchRequest) -> Watch:
    """Live traffic: accesses that pass a filter, and how many were lost on the way.

    A name in the filter that no VM, no device or no register has is refused; one with * or ? is not.
    """
    start = request.start or "now"
    if start not in STARTS:
        raise Failure(f"{SERVICE}.InvalidParameter", parameter="start")
    try:
        wanted = parse(request.filter or "")
    except FilterError as error:
        raise fail(NAME, messages.InvalidFilter(str(error))) from None
    check_names(daemon, wanted, registers=start == "now")
    recorder = daemon.recorder
    return Watch(daemon, wanted, recorder.serial if start == "now" else recorder.oldest)


def read_registers(daemon: Daemon, request: messages.RegistersRequest) -> messages.Registers:
    """A device's registers with their fields, without side effect on the device."""
    machine, host = one_device(daemon, request)
    named = re.compile(fnmatch.translate(request.pattern or "*"), re.IGNORECASE).match
    there: list[Register | Fifo] = [*host.device.declared.values(), *host.device.fifos.values()]
    wanted = [declared for declared in there if named(declared.name)]
    if request.pattern is not None and not wanted:
        known = [declared.name for declared in there]
        raise fail(NAME, messages.UnknownRegister(f"{machine.name}/{host.name}", request.pattern, known))
    found: list[messages.Register] = []
    daemon.work(lambda: found.extend(reports.register(machine, host, declared) for declared in wanted))
    return messages.Registers(machine.name, host.name, found)


def get_statistics(daemon: Daemon, request: messages.OfVm) -> messages.Statistics:
    """Accesses and latencies of each device, and who asked for what nobody claims."""
    hosts = [
        (machine.name, host) for machine in machines_of(daemon, request) for host in machine.hosts.values()
    ]
    buckets = [sum(column) for column in zip(*(host.statistics.latency for _, host in hosts), strict=True)]
    missed = [
        reports.range_(machine, found)
        for machine, found in ranges_of(daemon, request)
        if found.claim is None and reports.misses(machine, found)
    ]
    return messages.Statistics(
        devices=[reports.statistics(vm, host) for vm, host in hosts],
        unclaimed=missed,
        accesses=sum(host.statistics.reads + host.statistics.writes for _, host in hosts),
        p50_ns=reports.quantile(buckets, 0.50),
        p99_ns=reports.quantile(buckets, 0.99),
    )


async def reload(daemon: Daemon, request: messages.PluginRequest) -> messages.Reloaded:
    """Let a plugin's files, as they are now, serve all its devices, with the state they have."""
    return await _replaced(request, daemon.reloader.reload)


async def rollback(daemon: Daemon, request: messages.PluginRequest) -> messages.Reloaded:
    """Let a plugin's generation before serve again, with the state its devices have now."""
    return await _replaced(request, daemon.reloader.rollback)


async def upgrade(daemon: Daemon, _request: messages.Nothing) -> messages.Upgraded:
    """Execute the daemon anew, with the code and the configuration of now; clients keep their connections.

    The answer is the next program's.
    """
    try:
        await daemon.upgrader.upgrade()
    except UpgradeRejected as error:
        raise fail(NAME, messages.UpgradeRejected(str(error))) from None
    raise AssertionError("who executes another program does not come back")


async def _replaced(
    request: messages.PluginRequest, action: Callable[[str], Awaitable[Reloaded]]
) -> messages.Reloaded:
    try:
        done = await action(request.name)
    except UnknownPlugin as error:
        raise fail(NAME, messages.UnknownPlugin(request.name, error.known)) from None
    except AmbiguousDevice as error:
        raise fail(NAME, messages.AmbiguousDevice(request.name, error.candidates)) from None
    except Rejected as error:
        found = error.verdict
        told = (found.file, found.line, found.reason or "", found.remedy)
        raise fail(NAME, messages.ReloadRejected(request.name, *told)) from None
    return messages.Reloaded(
        done.plugin,
        done.generation,
        list(done.devices),
        done.pause_us,
        done.load_us,
        done.accesses,
        done.differing,
        list(done.differences),
        list(done.dropped),
    )


# --- the table ---------------------------------------------------------------------------


Row = tuple[str, type[AttrsInstance], type[AttrsInstance], Callable[..., Any], bool]


def interface(daemon: Daemon) -> Interface:
    """`io.mmiod`, served for a daemon."""
    return Interface(
        NAME,
        DOC,
        tuple(
            Command(name, request, reply, partial(handler, daemon), handler.__doc__, streams)
            for name, request, reply, handler, streams in COMMANDS
        ),
        (
            messages.UnknownVm,
            messages.UnknownDevice,
            messages.AmbiguousDevice,
            messages.UnknownPlugin,
            messages.ReloadRejected,
            messages.UpgradeRejected,
            messages.InvalidFilter,
            messages.UnknownRegister,
            messages.NotStopped,
            messages.TooManyClients,
        ),
    )


COMMANDS: Final[tuple[Row, ...]] = (
    ("ListDevices", messages.OfVm, messages.Devices, list_devices, False),
    ("GetMap", messages.OfVm, messages.Map, get_map, False),
    ("ListFunctions", messages.OfVm, messages.Functions, list_functions, False),
    ("ListExits", messages.OfVm, messages.Exits, list_exits, False),
    ("Watch", messages.WatchRequest, messages.Watched, watch, True),
    ("Break", messages.BreakRequest, messages.Broken, break_, True),
    ("Continue", messages.ContinueRequest, messages.Continued, continue_, False),
    ("ReadRegisters", messages.RegistersRequest, messages.Registers, read_registers, False),
    ("GetStatistics", messages.OfVm, messages.Statistics, get_statistics, False),
    ("Reload", messages.PluginRequest, messages.Reloaded, reload, False),
    ("Rollback", messages.PluginRequest, messages.Reloaded, rollback, False),
    ("Upgrade", messages.Nothing, messages.Upgraded, upgrade, False),
)
