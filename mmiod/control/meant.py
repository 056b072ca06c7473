"""Which machines, devices and ranges a request is about."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from mmiod.control import messages
from mmiod.control.daemon import Daemon
from mmiod.control.interface import fail
from mmiod.machine.address_map import Range
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.values import Space

NAME: Final = "io.mmiod"


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


def ranges_of(daemon: Daemon, request: messages.OfVm) -> Iterator[tuple[Machine, Range]]:
    """All ranges of all spaces."""
    for machine, space in itertools.product(machines_of(daemon, request), Space):
        for found in machine.table(space).ranges:
            yield machine, found
