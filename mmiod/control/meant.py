"""Which machines, devices and ranges a request is about."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from difflib import get_close_matches
from typing import Final, Protocol

from mmiod.control import messages
from mmiod.control.daemon import Daemon
from mmiod.control.interface import fail
from mmiod.control.varlink import Failure
from mmiod.device import Buffer, Device
from mmiod.machine.address_map import Range
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.machine.stop import names
from mmiod.trace import Filter
from mmiod.values import Space

NAME: Final = "io.mmiod"
NEAR: Final = 8
"""Names that are told for one that nobody has, where several devices are meant."""


def machines_of(daemon: Daemon, request: messages.OfVm) -> Iterable[Machine]:
    """Those of one VM, or all."""
    if request.vm is None:
        return daemon.machines.values()
    return [_machine(daemon, request.vm)]


def _machine(daemon: Daemon, vm: str) -> Machine:
    found = daemon.machines.get(vm)
    if found is None:
        raise fail(NAME, messages.UnknownVm(vm, list(daemon.machines)))
    return found


class OfDevice(Protocol):
    """A request about one device; `vm` may be left out where one VM has it."""

    @property
    def device(self) -> str:
        """Its name."""

    @property
    def vm(self) -> str | None:
        """Whose."""


def one_device(daemon: Daemon, request: OfDevice) -> tuple[Machine, InlineHost]:
    """The device that a request names; a failure tells which there are."""
    machines = list(machines_of(daemon, messages.OfVm(request.vm)))
    having = [machine for machine in machines if request.device in machine.hosts]
    if not having:
        known = [f"{machine.name}/{name}" for machine in machines for name in machine.hosts]
        raise fail(NAME, messages.UnknownDevice(request.device, known))
    if len(having) > 1:
        candidates = [f"{machine.name}/{request.device}" for machine in having]
        raise fail(NAME, messages.AmbiguousDevice(request.device, candidates))
    return having[0], having[0].hosts[request.device]


def check_names(daemon: Daemon, wanted: Filter, *, registers: bool) -> None:
    """See that somebody is called what a filter asks for by name; a failure tells who is called how.

    `registers`: theirs as well.  What a reload has taken away may still be in older records.
    """
    machines = list(daemon.machines.values())
    for vm in wanted.names("vm"):
        machines = [machine for machine in machines if names(vm, machine.name)]
        if not machines:
            raise fail(NAME, messages.UnknownVm(vm, list(daemon.machines)))
    devices = {
        f"{machine.name}/{name}": host.device for machine in machines for name, host in machine.hosts.items()
    }
    for word in wanted.names("device"):
        if not any(names(word, place.partition("/")[2]) for place in devices):
            raise fail(NAME, messages.UnknownDevice(word, list(devices)))
    meant = {place: device for place, device in devices.items() if wanted.may_match(*place.split("/"))}
    for register in wanted.names("register") if registers and meant else ():
        known = sorted({name for device in meant.values() for name in _recorded(device)})
        if not any(names(register, name) for name in known):
            raise _unknown_register(list(meant), register, known)


def _recorded(device: Device) -> list[str]:
    """What records call the parts of a device."""
    buffers = inspect.getmembers_static(type(device), lambda declared: isinstance(declared, Buffer))
    return [*device.declared, *device.fifos, *device.storages, *(name for name, _ in buffers)]


def _unknown_register(devices: Sequence[str], register: str, known: Sequence[str]) -> Failure:
    """Of one device all names are told, of several those that are near."""
    if len(devices) == 1:
        return fail(NAME, messages.UnknownRegister(devices[0], register, list(known)))
    near = get_close_matches(register.lower(), known, NEAR, cutoff=0.5) or list(known)
    return fail(NAME, messages.UnknownRegister(f"each of {len(devices)} devices", register, near))


def ranges_of(daemon: Daemon, request: messages.OfVm) -> Iterator[tuple[Machine, Range]]:
    """All ranges of all spaces."""
    for machine, space in itertools.product(machines_of(daemon, request), Space):
        for found in machine.table(space).ranges:
            yield machine, found
