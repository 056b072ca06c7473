"""A device's next generation takes over from the one that serves.

`prepare` makes the new device beside the old one, with its state, and touches nothing that
serves: what the new one does meanwhile waits.  `Handover.commit` puts it in service and
cannot fail.  The host stays: what it owes, its statistics, its claims and wires name the
host, and so follow.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from functools import partial
from typing import Final, TypeVar

from attrs import define, evolve

from mmiod.device import Device, Region
from mmiod.device.saved import Saved
from mmiod.errors import MachineError, RestoreError
from mmiod.machine.address_map import Claim, build
from mmiod.machine.held import HeldContext
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.machine.mark import HookDeadlineExceeded, reason_of
from mmiod.machine.restart import resume
from mmiod.machine.storage import areas
from mmiod.values import Space

T = TypeVar("T")

Claims = dict[tuple[str, str], tuple[Space, Claim]]

CLASHES: Final = "make the region fit beside the others, or change the machine file and restart"
KEEP: Final = "keep it, or change the machine file and restart"
MIGRATE: Final = "keep it, or raise `schema` by 1 and override `migrate` to say what becomes of it"
HOOK: Final = "correct the hook; the traceback's last line in the plugin is the one named"


class NotReady(RestoreError):
    """A successor cannot be made: why, and what would help."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


@define(eq=False)
class Successor:
    """A device that is ready to take over from that of `host`."""

    host: InlineHost
    device: Device
    context: HeldContext
    dropped: list[str]
    """What an older class does not take, by name."""
    owing: bool
    """Whether it owes an answer."""


@define(eq=False)
class Handover:
    """All devices of a machine that are replaced in one step."""

    machine: Machine
    claims: Claims
    successors: list[Successor]

    def commit(self, generation: int) -> None:
        """Put the successors in service."""
        if self.claims != self.machine.claims:
            self.machine.reclaim(self.claims)
        failed = {successor.host.name for successor in self.successors if not successor.host.serves}
        for successor in self.successors:
            successor.host.install(successor.device, generation, owing=successor.owing)
        if self.machine.page is not None:
            self.machine.page.move()  # its rows are the old devices', and the new ones have inputs now
        for successor in self.successors:
            host = successor.host
            host.guarded(successor.context.release, None)
            self.machine.backoff.forget(host.name)
            resume(self.machine, host, returns=host.name in failed)


def prepare(
    machine: Machine, plugin: type[Device], configs: Mapping[str, object], *, drop: bool = False
) -> Handover:
    """Make the successors of the devices in `configs`, each with its configuration.

    Raises:
        NotReady: the state does not fit the new class, a hook of it fails, or what others use
            is missing.
    """
    successors = []
    for name, config in configs.items():
        host = machine.hosts[name]
        missing = list(_missing(machine, name, type(host.device), plugin))
        if missing:
            raise NotReady(f"{name}: the machine uses {', '.join(missing)}, the new class has none", KEEP)
        if areas(host.device) != areas(plugin):
            raise NotReady(f"{name}: the new class has other storage, of which the guest has the old", KEEP)
        successors.append(_successor(machine, host, plugin, config, drop=drop))
    devices = {successor.host.name: successor.device for successor in successors}
    return Handover(machine, _claims(machine, devices), successors)


def _successor(
    machine: Machine, host: InlineHost, plugin: type[Device], config: object, *, drop: bool
) -> Successor:
    """Make a device with the state of the one that serves, or did."""
    context = HeldContext(machine, host.name, host.journal)
    saved, owing = last_good(machine, host)
    succeed = partial(host.succeed, plugin, config, context, saved, drop=drop)
    device, dropped = _guarded(machine, host, succeed)
    return Successor(host, device, context, dropped, owing)


def last_good(machine: Machine, host: InlineHost) -> tuple[Saved, bool]:
    """What is handed over: a device's state, and whether it owes an answer.

    Raises:
        NotReady: it cannot be had.
    """
    return _guarded(machine, host, host.last_good)


def _guarded(machine: Machine, host: InlineHost, action: Callable[[], T]) -> T:
    """Run what is the plugin's own, under the watchdog's eyes."""
    mark = machine.mark
    outer = mark.enter(host.name)
    try:
        try:
            return action()
        finally:
            mark.leave(outer)  # until its end the watchdog may interrupt, in here too
    except RestoreError as error:
        raise NotReady(f"{host.name}: {error}", MIGRATE) from error
    except (Exception, HookDeadlineExceeded) as error:  # a plugin may raise anything
        mark.leave(outer)
        raise NotReady(f"{host.name}: {reason_of(error)}", HOOK) from error


# --- what others use of a device -----------------------------------------------------------


def _missing(machine: Machine, device: str, before: type[Device], after: type[Device]) -> Iterator[str]:
    """What is wired, connected or placed by the machine file, and not there any more."""
    outputs = {name for output in after.outputs.values() for name in output.names()}
    used: list[tuple[list[str], Container[str]]] = [
        (_of(device, machine.wires.nets), outputs),
        (_of(device, machine.wires.sinks), after.input_of),
        ([name for owner, name in machine.backends if owner == device], after.streams),
        (
            [name for (owner, name), (_, claim) in machine.claims.items() if owner == device and claim.fixed],
            after.regions,
        ),
    ]
    for names, known in used:
        yield from (name for name in names if name not in known)
    for name in [name for owner, name in machine.services if owner == device]:
        kinds = after.services[name].effects if name in after.services else {}
        yield from (f"{name} {kind!r}" for kind in before.services[name].effects if kind not in kinds)


def _of(device: str, ends: Iterable[str]) -> list[str]:
    """A device's own among the ends of wires."""
    return [end.partition(".")[2] for end in ends if end.partition(".")[0] == device]


def _claims(machine: Machine, devices: Mapping[str, Device]) -> Claims:
    """The machine's claims with the regions of new devices.

    Raises:
        NotReady: regions overlap.
    """
    claims: Claims = {}
    changed = set()
    for (device, name), (space, claim) in machine.claims.items():
        region = devices[device].regions.get(name) if device in devices else None
        resized = claim if device not in devices else _resized(claim, region)
        if resized is not claim:
            changed.add(space)
        if resized is not None:
            claims[device, name] = space, resized
    try:
        for space in changed:
            found = [claim for at, claim in claims.values() if at == space]
            build(space, found, machine.layout.unclaimed.get(space, ()))
    except MachineError as error:
        raise NotReady("; ".join(error.problems), CLASHES) from error
    return claims if changed else machine.claims


def _resized(claim: Claim, region: Region | None) -> Claim | None:
    if region is None:
        return None
    length = region.length // claim.width
    return claim if length == claim.length else evolve(claim, length=length)
