"""The daemon that was executed anew, from its start until it serves."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import monotonic_ns

import attrs
from attrs import define, field

from mmiod.attach import inheritance as functions
from mmiod.attach.functions import FunctionsAttachment
from mmiod.core import inheritance as tasks
from mmiod.core.descriptor_table import DescriptorTable
from mmiod.errors import ConfigError, RestoreError
from mmiod.machine.machine import Machine
from mmiod.machine.state import Restoration, apply, read
from mmiod.service import inheritance
from mmiod.upgrade.estate import Estate, VmEstate, load
from mmiod.upgrade.upgrader import Upgrader


def of(document: bytes) -> Heir:
    """Own what the program before us left, and end what else of it is there.

    Raises:
        RestoreError: the document is none.
        OSError: a descriptor is not open.
    """
    inheritance.clean_up()
    return Heir(load(document))


def check(upgrader: Upgrader, estate: Estate) -> None:
    """See that an inheritance fits the daemon that was built for it.

    Raises:
        ConfigError: it does not; with every problem.
    """
    found = list(problems(upgrader, estate))
    if found:
        raise ConfigError(found)


def problems(upgrader: Upgrader, estate: Estate) -> Iterator[str]:
    """What of an inheritance does not fit the daemon that was built for it."""
    for vm, left in estate.vms.items():
        if vm not in upgrader.machines:
            if left.state is not None:
                yield f"{vm}: it has a client, and is not in the configuration"
            continue
        yield from (f"{vm}: {problem}" for problem in _problems(upgrader, vm, left))


def _problems(upgrader: Upgrader, vm: str, left: VmEstate) -> Iterator[str]:
    attachment = upgrader.attachments[vm]
    known = attachment.functions if isinstance(attachment, FunctionsAttachment) else {}
    for name, function in left.functions.items():
        if function.visits and name not in known:
            yield f"devices.{name}: it has a client, and is no function in the configuration"
        elif function.visits and function.shape != functions.shape(known[name]):
            yield f"devices.{name}: its client knows other BARs or interrupts: {function.shape}"
    if left.state is not None:
        yield from (
            f"devices.{name}: it has other storage, of which its guest has the old"
            for name, host in upgrader.machines[vm].hosts.items()
            if not functions.fits(host.storages, left.storages.get(name, {}))
        )
        try:
            _read(upgrader.machines[vm], left.state)
        except RestoreError as error:
            yield str(error)


@define(eq=False)
class Heir:
    """What was inherited."""

    estate: Estate
    table: DescriptorTable = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Own the descriptors."""
        self.table = DescriptorTable.inherited(self.estate.descriptors)

    def listeners(self, name: str, path: str) -> list[tuple[int, bool]]:
        """Sockets that listen already, and whether the service manager opened them."""
        return [
            (self.table.take(found.descriptor), found.passed)
            for found in self.estate.listeners
            if found.name == name and (found.passed or found.path == path)
        ]

    def take_over(self, upgrader: Upgrader) -> None:
        """Become what the daemon before was; nothing runs yet."""
        for vm, left in self.estate.vms.items():
            if vm in upgrader.machines:
                _inherit_storages(upgrader.machines[vm], left, self.table)
            attachment = upgrader.attachments.get(vm)
            for (owner, device), task in upgrader.device_tasks.items():
                if owner == vm and device in left.backends:
                    tasks.inherit(task, left.backends[device], self.table)
            if left.state is None and vm in upgrader.machines:  # devices begin anew, and ask anew
                for port in upgrader.machines[vm].services.values():
                    port.disown(0)
            if isinstance(attachment, FunctionsAttachment):  # what devices send now is behind that
                _resume(attachment, left, self.table, monotonic_ns() - self.estate.stopped_ns)
        upgrader.upgrades = self.estate.upgrades
        self._close()

    def _close(self) -> None:
        """Of what nobody wants: a VM that is not configured any more, a socket that is elsewhere now."""
        for found in self.estate.listeners:
            if not found.passed and self.table.has(found.descriptor):
                Path(found.path).unlink(missing_ok=True)
        self.table.close()

    def callers(self) -> list[int]:
        """Control connections that wait for the answer: to be taken before `take_over`."""
        return [self.table.take(place) for place in self.estate.callers]

    def pause_us(self) -> int:
        """Since the rest began."""
        return (monotonic_ns() - self.estate.stopped_ns) // 1000


def _inherit_storages(machine: Machine, left: VmEstate, table: DescriptorTable) -> None:
    for name, found in left.storages.items():
        host = machine.hosts.get(name)
        if host is not None and functions.fits(host.storages, found):
            functions.inherit_storage(host.storages, found, table)


def _resume(attachment: FunctionsAttachment, left: VmEstate, table: DescriptorTable, elapsed_ns: int) -> None:
    """A VM's functions; guest time has gone on meanwhile."""
    inherited = {name: found for name, found in left.functions.items() if name in attachment.functions}
    for name, function in inherited.items():
        functions.inherit(attachment.functions[name], function, table)
    if left.state is not None:
        attachment.resume()
        restoration = _read(attachment.machine, left.state)
        clock = restoration.document.clock
        restoration.document.clock = attrs.evolve(clock, now_ns=clock.now_ns + elapsed_ns)
        apply(attachment.machine, restoration)
    for host in attachment.machine.hosts.values():
        if host.failure is not None:  # the next code may have what it lacked
            attachment.machine.backoff.failed(host.name)
    for name, function in inherited.items():
        functions.resume(attachment.functions[name], function)


def _read(machine: Machine, state: str) -> Restoration:
    return read(machine, state.encode())
