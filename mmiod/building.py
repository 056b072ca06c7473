"""From a configuration to a daemon: plugins loaded, machines assembled, nothing started."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

import structlog
import trio
from attrs import define, field

from mmiod import config as configuration
from mmiod.attach.attachment import Attachment
from mmiod.attach.functions import FunctionsAttachment, check_functions, check_unmapped
from mmiod.attach.vm import VmAttachment
from mmiod.core.backends.faces import Place
from mmiod.core.device_task import DeviceTask
from mmiod.core.gate import ShortWay
from mmiod.core.pump import Pump
from mmiod.core.spin import cap_ns
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
from mmiod.protocol.exit import Offer
from mmiod.trace import Recorder
from mmiod.upgrade.upgrader import Upgrader
from mmiod.values import Space

if TYPE_CHECKING:
    from mmiod.attach.flights import Flights
    from mmiod.attach.function import FunctionAttachment
    from mmiod.config import Config, DaemonConfig, VmConfig
    from mmiod.machine.description import DeviceDescription, MachineDescription

GENERATION: Final = 1
VFIO_USER: Final = "vfio-user"
PROCESS: Final = "process"
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
    device_tasks: Mapping[tuple[str, str], DeviceTask]
    """By VM and device."""
    reloader: Reloader
    upgrader: Upgrader
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

    async def withdrawn(self) -> None:
        """Wait until nothing of what is withheld stands in a hypervisor."""
        for attachment in self.attachments.values():
            await attachment.withdrawn()

    def settle(self, vm: str) -> None:
        """Hand on what was answered, or let go, without an input of a VM's devices."""
        self.pump.work(self.attachments[vm].settle)

    def close(self) -> None:
        """Let devices end that were built."""
        for machine in self.machines.values():
            for host in machine.hosts.values():
                host.close()

    def status(self) -> str:
        """One line for people."""
        attached = sum(attachment.attached for attachment in self.attachments.values())
        devices = sum(len(machine.hosts) for machine in self.machines.values())
        accesses = self.recorder.serial
        return f"{len(self.machines)} VMs, {attached} attached, {devices} devices, {accesses} accesses"


def build(config: Config, problems: Sequence[str] = ()) -> Daemon:
    """Load all plugins and assemble all machines; nothing is started.

    Args:
        config: what to build.
        problems: what is wrong with mmiod.toml, of which `config` is what is left.

    Raises:
        ConfigError: with these, and every problem of every machine file.
    """
    settings = config.daemon
    recorder = Recorder(settings.recorder_capacity)
    deadline_ns = settings.hook_deadline_ms * 1_000_000
    plugins = Registry([*settings.plugins, *bundled_directories()])
    making = _Machines(plugins, recorder, deadline_ns, list(problems))
    making.make(config.vm)
    machines, described = making.machines, making.described
    watchdog = Watchdog([machine.mark for machine in machines.values()], deadline_ns)
    pump = Pump(watchdog.working, cap_ns(settings.spin_us))
    attachments = {vm.name: _attachment(vm, machines[vm.name], pump, settings) for vm in config.vm}
    tasks = {
        (vm, device): connect(
            machines[vm],
            device,
            chosen,
            attachments[vm].inject,
            ShortWay(pump.soon, attachments[vm].inject_now),
            pump.give_way,
        )
        for (vm, device), chosen in making.backends.items()
    }

    def work(action: Callable[[], None]) -> None:
        pump.work(action)
        for attachment in attachments.values():
            pump.work(attachment.settle)

    reloader = Reloader(plugins, machines, described, recorder, deadline_ns, work)
    upgrader = Upgrader(machines, attachments, tasks, pump.work)
    return Daemon(config, recorder, machines, attachments, pump, watchdog, tasks, reloader, upgrader)


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


@define(eq=False)
class _Machines:
    """Makes the machines of all VMs; what is wrong with one keeps none of the others from being looked at."""

    plugins: Registry
    recorder: Recorder
    deadline_ns: int
    problems: list[str]
    machines: dict[str, Machine] = field(factory=dict)
    described: dict[tuple[str, str], tuple[DeviceDescription, Path]] = field(factory=dict)
    """By VM and device; the folder is the machine file's."""
    backends: dict[tuple[str, str], Backends] = field(factory=dict)

    def make(self, vms: Iterable[VmConfig]) -> None:
        """Make them all.

        Raises:
            ConfigError: with every problem; of several VMs with one machine file once.
        """
        for vm in vms:
            try:
                self._machine(vm)
            except ConfigError as error:
                self.problems += error.problems
        self.problems += _contended(self.backends)
        if self.problems:
            for host in (host for machine in self.machines.values() for host in machine.hosts.values()):
                host.close()
            raise ConfigError(list(dict.fromkeys(self.problems)))

    def _machine(self, vm: VmConfig) -> None:
        found = configuration.examine_machine(vm.machine.path, vm.machine.directory)
        self.problems += found.problems
        description = found.rest()
        parts: dict[str, Part] = {}
        isolated: dict[str, MakeHost] = {}
        for name, described in description.devices.items():
            part = self._part(vm, name, described)
            if part is None:
                continue
            parts[name] = part
            if described.isolation == PROCESS:
                source = self.plugins.current[described.plugin].source
                directory = vm.machine.directory
                isolated[name] = partial(process_host, source, described, directory, self.deadline_ns)
        complete = found.whole and parts.keys() == description.devices.keys()
        if complete:  # else wires would lead nowhere for that alone
            self.machines[vm.name] = _assemble(vm, description, parts, isolated, self.recorder)

    def _part(self, vm: VmConfig, name: str, described: DeviceDescription) -> Part | None:
        """A device's class and configuration, if both are there; its backends are chosen."""
        place, directory = f"{vm.machine.path}: devices.{name}", vm.machine.directory
        try:
            plugin = self.plugins.get(described.plugin)
        except (PluginError, ValueError) as error:
            self.problems.append(f"{place}: {error}")
            return None
        configured = configuration.examine_device(plugin, described, directory)
        self.problems += [f"{place}.{problem}" for problem in configured.problems]
        try:
            at = Place(vm.name, name, "", directory)
            self.backends[vm.name, name] = choose(plugin, at, described.streams)
        except (PluginError, ValueError) as error:
            self.problems.append(f"{place}: {error}")
        self.described[vm.name, name] = described, directory
        return (plugin, configured.value) if configured.whole else None


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
        else:
            check_unmapped(machine)
    except MachineError as error:
        raise ConfigError([f"{vm.machine.path}: {problem}" for problem in error.problems]) from error
    return machine


def _wall_s() -> float:
    return time.clock_gettime(time.CLOCK_REALTIME)


def _notify(vm: str, event: str, **fields: object) -> None:
    level = LEVELS.get(event, "info")
    if event == "access_unclaimed" and fields["space"] == Space.PIO.name.lower():
        level = "debug"  # firmware and systems probe ports blindly
    getattr(structlog.get_logger(), level)(event, vm=vm, **fields)
