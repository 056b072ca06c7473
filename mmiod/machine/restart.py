"""A device comes back into service: after it failed, or with a new class.

A device that failed is made anew, brought to its last snapshot, and lives through its journal
up to the input that it failed at, which is not given again: who waited for it has all ones.
Lines and timers are then as the device has them, and it learns what it missed: levels of its
input lines, answers of backends, a reset.
"""

from __future__ import annotations

from typing import Final

from mmiod.device import Device
from mmiod.machine.context import DeviceContext
from mmiod.machine.host import InlineHost, Owed
from mmiod.machine.inputs import skip
from mmiod.machine.machine import Machine
from mmiod.machine.replay import adopt
from mmiod.values import WRITE

RESET: Final = ("reset", ())


def restart(machine: Machine, name: str) -> None:
    """Try to bring a device out of quarantine; on another failure it stays there."""
    host = machine.hosts[name]
    if host.failure is None:
        return
    if not host.ready:
        machine.backoff.postpone(name)
        return
    lived = host.relive()
    if lived is None:
        return
    device = lived.device
    if host.journal.refused is not None:
        _refuse(host, device)
    host.device = device
    host.owes = Owed(WRITE, 0, 0, "", 0, answered=True) if lived.owing else None
    adopt(device, DeviceContext(machine, name, host.journal))
    machine.notify(
        "device_restarted", device=name, attempt=machine.backoff.attempts(name), replayed=lived.inputs
    )
    resume(machine, host)


def resume(machine: Machine, host: InlineHost) -> None:
    """Everything around a device is as the device has it, and it learns what it missed."""
    if not host.cut():
        return
    _drive(machine, host)
    for line, level in host.device.inputs.items():
        net = machine.wires.sinks.get(f"{host.name}.{line}")
        if net is not None and bool(net.high) != level:
            host.deliver(line, bool(net.high))
    missed, host.missed = host.missed, []
    for kind, arguments in missed:
        if host.failure is None:
            host.feed(None, kind, *arguments)
    for (owner, _), port in machine.backends.items():
        if owner == host.name:
            port.ready()


def _refuse(host: InlineHost, device: Device) -> None:
    """The input that failed: a reset is still due, of anything else the framework takes its part."""
    assert host.journal.refused is not None
    kind, arguments = host.journal.refused
    if kind != "reset":
        skip(device, kind, arguments)
    elif RESET not in host.missed:
        host.missed.insert(0, RESET)


def _drive(machine: Machine, host: InlineHost) -> None:
    """Lines and timers as the device has them: a quarantine has let them go.

    A timer that is set as it was keeps its place among those of equal deadline.
    """
    for name, line in host.device.lines.items():
        machine.wires.drive(f"{host.name}.{name}", line.level)
    for name, alarm in host.device.alarms.items():
        known = machine.clock.armed.get((host.name, name))
        if (known[0] if known else None) != alarm.deadline_ns:
            host.device.context.arm(name, alarm.deadline_ns)
