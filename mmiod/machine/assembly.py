"""From a machine file's description to a machine: devices made, placed and wired.

What is wrong is collected: every problem of a description is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, ParamSpec

from mmiod.device import Device
from mmiod.errors import MachineError
from mmiod.machine.address_map import Unclaimed
from mmiod.machine.clock import MachineClock
from mmiod.machine.context import DeviceContext
from mmiod.machine.description import DeviceDescription, MachineDescription, Sinks
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine, Record
from mmiod.machine.snapshot import take
from mmiod.machine.storage import check_total
from mmiod.machine.wires import expand, hypervisor_line_of, vcpu_of
from mmiod.values import Space

P = ParamSpec("P")

CONFIG_REGION: Final = "config_space"
"""The region of a PCI function that its slot places."""

Part = tuple[type[Device], object]
"""A device's class and its configuration."""
MakeHost = Callable[[Machine, str, Part], InlineHost]
Input = tuple[InlineHost, str]
"""A device and the name of an input line."""


def assemble(
    name: str,
    description: MachineDescription,
    parts: Mapping[str, Part],
    clock: MachineClock,
    notify: Callable[..., None],
    recorder: Callable[[Record], None],
    *,
    own_memories: bool = False,
    isolated: Mapping[str, MakeHost] | None = None,
) -> Machine:
    """Build a machine from its description.

    Args:
        name: the VM's name.
        description: its devices and wires.
        parts: for each device its class and its structured configuration.
        clock: its clock.
        notify: takes events for people, `notify(event, **fields)`.
        recorder: takes one record per access.
        isolated: what makes the hosts of devices that run in processes of their own.
        own_memories: each device reaches guest memory on a way of its own.

    Raises:
        MachineError: devices cannot be placed or wired as described; with every problem.
    """
    machine = Machine(name, clock, notify, recorder, own_memories)
    problems: list[str] = []
    for found in description.unclaimed:
        machine.layout.unclaimed.setdefault(found.space, []).append(
            Unclaimed(found.base, found.length, found.policy)
        )
    for device, described in description.devices.items():
        make = (isolated or {}).get(device, partial(_inline, described))
        _collect(problems, _add, machine, device, described, make, parts[device])
    for space in Space:
        _collect(problems, machine.table, space)
    _collect(problems, check_total, machine.storages)
    if set(machine.hosts) == set(description.devices):  # else wires fail for that alone
        _collect(problems, _connect, machine, description.wires)
    if not problems:  # else the map is not what the file means
        _check_announced(machine)
    if problems:
        raise MachineError(*problems)
    return machine


def _inline(described: DeviceDescription, machine: Machine, name: str, part: Part) -> InlineHost:
    plugin, config = part
    context = DeviceContext(machine, name)
    device = plugin(context, config)
    take(device)  # compiles what the journal's snapshots will use, and sees that it can be saved
    number = len(machine.hosts) + 1
    return InlineHost(name, described.plugin, device, machine, number=number, journal=context.journal)


def _add(machine: Machine, name: str, described: DeviceDescription, make: MakeHost, part: Part) -> None:
    """Make a device and place what the machine file places.

    Raises:
        MachineError: a place names no region of it, or its class cannot be made.
    """
    try:
        host = make(machine, name, part)
        machine.add_host(host)
    except Exception as error:  # a plugin may raise anything
        raise MachineError(f"{name}: {described.plugin}: {type(error).__name__}: {error}") from error
    device = host.device
    if described.mmap:
        if not host.storages:
            raise MachineError(f"{name}: mmap: {described.plugin} has no storage")
        machine.mappable.add(name)
    machine.memory_of(name).prefers_messages = described.dma == "messages"
    places = {region: (place.space, place.base) for region, place in described.at.items()}
    if described.slot is not None:
        places[CONFIG_REGION] = (Space.PCI_CONFIG, described.slot)
    for region, (space, base) in places.items():
        if region not in device.regions:
            has = ", ".join(device.regions) or "none"
            raise MachineError(f"{name}: {described.plugin} has no region {region}; it has {has}")
        machine.place(host.name, device.regions[region], space, base, fixed=True)


def _connect(machine: Machine, wires: Mapping[str, Sinks]) -> None:
    """Wire the devices.

    Raises:
        MachineError: a wire leads nowhere.
    """
    hosts = machine.hosts.values()
    sources = [f"{host.name}.{line}" for host in hosts for line in host.device.lines]
    sinks = {f"{host.name}.{line}": (host, line) for host in hosts for line in host.device.input_of}
    for source, sink in expand(wires, sources, sinks):
        _wire(machine, source, sink, sinks)


def _check_announced(machine: Machine) -> None:
    """See that devices are where others tell the guest that they are.

    Raises:
        MachineError: nobody is there; with every such place.
    """
    wrong = [
        f"{host.name}: {key} says {space.name.lower()}:{address:#x}, where no device is"
        for host in machine.hosts.values()
        for key, (space, address) in host.device.announced().items()
        if machine.find(space, address).claim is None
    ]
    if wrong:
        raise MachineError(*wrong)


def _wire(machine: Machine, source: str, sink: str, sinks: Mapping[str, Input]) -> None:
    vcpu, line = vcpu_of(sink), hypervisor_line_of(sink)
    if vcpu is not None:
        device, _, output = source.partition(".")
        machine.controllers[vcpu] = (machine.hosts[device], output)
        machine.interrupts[vcpu] = False
        machine.wires.connect(source, sink, partial(machine.interrupt, vcpu))
    elif line is not None:
        machine.wires.connect(source, sink, partial(machine.set_level, line))
    else:
        host, name = sinks[sink]
        machine.wires.connect(source, sink, partial(host.deliver, name))


def _collect(problems: list[str], action: Callable[P, object], *arguments: P.args, **named: P.kwargs) -> None:
    try:
        action(*arguments, **named)
    except MachineError as error:
        problems += error.problems
