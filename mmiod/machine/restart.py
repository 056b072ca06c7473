"""A device comes back into service: after it failed, or with a new class.

A device that failed is made anew, brought to its last snapshot, and lives through its journal
up to the input that it failed at, which is not given again: who waited for it has all ones.
One that nobody waits for it may get once more: see `InlineHost.due_again`.
Lines and timers are then as the device has them, and it learns what it missed: levels of its
input lines, answers of backends, the last write to each doorbell, a reset, also if that is what
it failed at.  At last `on_restart` lets it look for what is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mmiod.device import Device
from mmiod.machine.context import DeviceContext
from mmiod.machine.host import InlineHost
from mmiod.machine.inputs import ANSWERS
from mmiod.machine.machine import Machine
from mmiod.machine.replay import adopt
from mmiod.machine.waist import Owed


def restart(machine: Machine, name: str) -> None:
    """Try to bring a device out of quarantine; on another failure it stays there."""
    host = machine.hosts[name]
    if host.failure is None:
        return
    if not host.ready:
        machine.backoff.postpone(name)
        return
    host.failure = None
    lived = host.guarded(host.relive, None, host.journal.entries)
    if lived is None:
        return
    host.device = lived.device
    host.owes = Owed.answered_by_ones() if lived.owing else None
    adopt(lived.device, DeviceContext(machine, name, host.journal))
    machine.notify(
        "device_restarted", device=name, attempt=machine.backoff.attempts(name), replayed=lived.inputs
    )
    resume(machine, host, returns=True)


def resume(machine: Machine, host: InlineHost, *, returns: bool = False) -> None:
    """Everything around a device is as the device has it, and it learns what it missed.

    One that returns from quarantine also looks for what is lost (`on_restart`).
    """
    due = host.due_again()
    if due is not None and due not in host.missed:
        host.missed.insert(0, due)
    _disown(machine, host)
    if not host.cut() or host.held:
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
        else:
            host.miss(kind, *arguments)
    if returns and host.serves and type(host.device).on_restart is not Device.on_restart:
        host.feed(None, "restart")
    if host.serves:
        host.repeated = None
    machine.streams_ready(host.name)
    if machine.page is not None:
        machine.page.move()
        machine.page.settle()


def _disown(machine: Machine, host: InlineHost) -> None:
    """What the input that failed had asked for: its number will be that of another request."""
    last = {name: client.number for name, client in host.device.clients.items()}
    for name, number in last.items():
        port = machine.services.get((host.name, name))
        if port is not None:
            port.disown(number)
    host.missed[:] = [missed for missed in host.missed if not _unknown(last, *missed)]


def _unknown(last: Mapping[str, int], kind: str, arguments: tuple[Any, ...]) -> bool:
    """Whether an input answers a request that the device has not made."""
    return kind in ANSWERS and arguments[0] in last and arguments[1] > last[arguments[0]]


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
