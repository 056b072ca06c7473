"""The daemon that executes itself anew, up to execve."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from time import monotonic_ns
from typing import Final

import structlog
import trio
from attrs import define, field, frozen

from mmiod.attach import inheritance as functions
from mmiod.attach.attachment import Attachment
from mmiod.attach.functions import FunctionsAttachment
from mmiod.core import inheritance as tasks
from mmiod.core.descriptor_table import DescriptorTable
from mmiod.core.device_task import DeviceTask
from mmiod.errors import UpgradeRejected
from mmiod.machine.machine import Machine
from mmiod.machine.state import save
from mmiod.service import inheritance
from mmiod.upgrade.estate import KIND, SCHEMA, Estate, ListenerEstate, VmEstate, dump

TRIAL_S: Final = 60
"""For the trial."""
MAX_START_S: Final = 3.0
"""For a start while clients wait, which the trial has measured: QEMU gives a connection up after 5 s."""
MANAGER: Final = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Of the environment, what a child must not have."""


@frozen
class Listening:
    """A listening socket, and whether the service manager opened it."""

    name: str
    path: Path
    socket: socket.socket
    passed: bool


@define(eq=False)
class Upgrader:
    """One daemon's."""

    machines: Mapping[str, Machine]
    attachments: Mapping[str, Attachment]
    device_tasks: Mapping[tuple[str, str], DeviceTask]
    """By VM and device."""
    work: Callable[[Callable[[], None]], None]
    """Runs an action in the core."""
    listening: list[Listening] = field(factory=list)
    """The sockets that are listened on, once they are."""
    callers: Callable[[], list[int]] = list
    """The control connections that wait for an upgrade."""
    before: Callable[[], None] = lambda: None
    """Called right before the end of this program."""
    upgrades: int = 0
    """How many there were."""
    _lock: trio.Lock = field(factory=trio.Lock)

    async def upgrade(self) -> None:
        """Execute this program anew: returns only by an error.

        Raises:
            UpgradeRejected: it cannot be; the daemon serves on, and the event was sent.
        """
        async with self._lock:
            try:
                await self._try()
                await self._replace()
            except UpgradeRejected as error:
                structlog.get_logger().warning("upgrade_rejected", reason=str(error))
                raise

    # --- trial -------------------------------------------------------------------------------

    async def _try(self) -> None:
        self._check()
        documents: list[bytes] = []
        self.work(lambda: documents.append(dump(self._estate(DescriptorTable(), 0))))
        began = trio.current_time()
        status, errors = await _trial(documents[0])
        if status:
            raise UpgradeRejected(errors or f"the next program's trial ended with status {status}")
        start_s = trio.current_time() - began
        if start_s > MAX_START_S and any(attachment.attached for attachment in self.attachments.values()):
            reason = (
                f"a start takes {start_s:.1f} s now, clients wait for {MAX_START_S:.0f}: the host is busy"
            )
            raise UpgradeRejected(f"{reason}; try again")

    def _check(self) -> None:
        reasons = [*self._stay_behind(), *self._keeping(), *self._migrating(), *self._sending()]
        if reasons:
            raise UpgradeRejected("\n".join(reasons))

    def _stay_behind(self) -> Iterator[str]:
        for vm, attachment in self.attachments.items():
            if attachment.attached and not isinstance(attachment, FunctionsAttachment):
                yield f"{vm}: its hypervisor is attached by the exit protocol; let it SAVE and detach first"

    def _migrating(self) -> Iterator[str]:
        """What a client began would be lost on the way."""
        for vm, attachment in self._functions().items():
            for name, function in attachment.functions.items():
                if function.migrating:
                    yield f"{vm}: {name} is being migrated by its client; try again behind that"

    def _sending(self) -> Iterator[str]:
        """Clients that are about to map something: what they were not sent yet goes along as bytes only."""
        for vm, attachment in self._functions().items():
            for name, function in attachment.functions.items():
                if any(visit.stream.sends_descriptor for visit in function.visits):
                    yield f"{vm}: the client of {name} has not taken a descriptor yet; try again"

    def _keeping(self) -> Iterator[str]:
        """Backends whose own state does not go along."""
        for vm, machine in self.machines.items():
            for (device, service), port in machine.services.items():
                if self.attachments[vm].attached and port.keeping is not None:
                    yield f"{vm}: {device}.{service} has a backend with a state of its own"

    # --- rest, inheritance, execve -----------------------------------------------------------

    async def _replace(self) -> None:
        stopped_ns = monotonic_ns()
        try:
            await self._rest()
            self._check()
            self._check_repeatable()
            self.work(partial(self._execute, stopped_ns))
        except OSError as error:
            raise UpgradeRejected(f"execve: {error}") from error
        finally:
            self._go_on()

    async def _rest(self) -> None:
        """First clients, whose accesses may wait for backends, then backends."""
        async with trio.open_nursery() as nursery:
            for attachment in self._functions().values():
                nursery.start_soon(attachment.rest)
        async with trio.open_nursery() as nursery:
            for task in self.device_tasks.values():
                nursery.start_soon(task.rest)

    def _check_repeatable(self) -> None:
        reasons = [
            f"{vm}/{device}.{lane.place.name}: its request is under way and cannot be repeated; try again"
            for (vm, device), task in self.device_tasks.items()
            for lane in task.services
            if lane.unrepeatable
        ]
        if reasons:
            raise UpgradeRejected("\n".join(reasons))

    def _execute(self, stopped_ns: int) -> None:
        table = DescriptorTable()
        document = dump(self._estate(table, stopped_ns))
        self.before()
        inheritance.execute(document, table.numbers)

    def _go_on(self) -> None:
        for task in self.device_tasks.values():
            task.go_on()
        for attachment in self._functions().values():
            attachment.go_on()

    def _functions(self) -> dict[str, FunctionsAttachment]:
        return {vm: found for vm, found in self.attachments.items() if isinstance(found, FunctionsAttachment)}

    # --- the document ------------------------------------------------------------------------

    def _estate(self, table: DescriptorTable, stopped_ns: int) -> Estate:
        listeners = [
            ListenerEstate(one.name, str(one.path), one.passed, table.keep(one.socket.fileno()))
            for one in self.listening
        ]
        vms = {vm: self._vm(vm, table) for vm in self.machines}
        callers = [table.keep(descriptor) for descriptor in self.callers()]
        return Estate(KIND, SCHEMA, self.upgrades + 1, stopped_ns, table.numbers, listeners, vms, callers)

    def _vm(self, vm: str, table: DescriptorTable) -> VmEstate:
        attachment = self._functions().get(vm)
        left = {
            name: functions.bequeath(function, table)
            for name, function in (attachment.functions if attachment is not None else {}).items()
        }
        backends = {
            device: tasks.bequeath(task, table)
            for (owner, device), task in self.device_tasks.items()
            if owner == vm
        }
        machine = self.machines[vm]
        storages = {
            device: functions.bequeath_storage(backings, table)
            for device, backings in machine.storages.items()
        }
        on = attachment is not None and attachment.on
        return VmEstate(save(machine, stored=False).decode() if on else None, left, backends, storages)


async def _trial(document: bytes) -> tuple[int, str]:
    """Start a child that sees whether the next program would serve: its status and what it says."""
    environment = {name: text for name, text in inheritance.ENVIRONMENT.items() if name not in MANAGER}
    file = inheritance.write(document)
    try:
        with trio.fail_after(TRIAL_S):
            done = await trio.run_process(
                inheritance.ARGUMENTS,
                env={**environment, inheritance.TRIAL: str(file)},
                pass_fds=[file],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                capture_stderr=True,
                check=False,
            )
    except trio.TooSlowError as error:
        raise UpgradeRejected(f"the next program's trial took more than {TRIAL_S} s") from error
    except OSError as error:
        raise UpgradeRejected(f"the next program does not start: {error}") from error
    finally:
        os.close(file)
    return done.returncode, done.stderr.decode(errors="replace").strip()
