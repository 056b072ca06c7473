"""One device of a machine goes to another machine: its part of a saved state, alone.

What travels is a document as of the whole machine (`mmiod.machine.document`), with this one device in
it, compressed: its base85 makes bytes longer by a quarter, which goes again.  The device there may
have another name.  Guest time there is another one: timers keep the time that they had left.
"""

from __future__ import annotations

import zlib
from typing import Final

from attrs import evolve

from mmiod.errors import RestoreError
from mmiod.machine.document import KIND, SCHEMA, ClockState, MachineState, TimerState, parse
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.machine.restart import resume
from mmiod.machine.state import Restoration, bring, fit_device, state_of

MAX_DOCUMENT: Final = 64 << 20
"""Bytes, as it is written out."""
_LEVEL: Final = 6


def migrates(machine: Machine, name: str) -> bool:
    """Whether a device's state is all there is: what a backend keeps of its own does not go along."""
    return all(port.keeping is None for (device, _), port in machine.services.items() if device == name)


def busy(machine: Machine, name: str) -> bool:
    """Whether something still works for the device, outside of it: it cannot go meanwhile."""
    return any(port.busy for (device, _), port in machine.services.items() if device == name)


def pack(machine: Machine, name: str) -> bytes:
    """A device as it is now, for another machine."""
    clock, host = machine.clock, machine.hosts[name]
    part = state_of(host, {}, stored=True)
    alarms = host.device.alarms.items()
    timers = [
        TimerState(name, timer, alarm.deadline_ns) for timer, alarm in alarms if alarm.deadline_ns is not None
    ]
    time = ClockState(clock.now_ns, clock.wall_start_s, clock.virtual)
    return zlib.compress(MachineState(KIND, SCHEMA, time, {name: part}, timers).unstructure(), _LEVEL)


def unpack(machine: Machine, name: str, packed: bytes) -> Restoration:
    """See whether a device can be brought to what another one was.

    Raises:
        RestoreError: it does not fit; the message names the place.
    """
    document = parse(_decompressed(packed))
    if len(document.devices) != 1:
        raise RestoreError(f"devices: {len(document.devices)}, one can migrate")
    (part,) = document.devices.values()
    host = machine.hosts[name]
    if part.plugin != host.plugin:
        raise RestoreError(f"plugin: {part.plugin!r}, here it is {host.plugin!r}")
    later = machine.clock.now_ns - document.clock.now_ns
    timers = [TimerState(name, one.timer, max(one.deadline_ns + later, 0)) for one in document.timers]
    moved = evolve(document, devices={name: part}, timers=timers)
    return Restoration(moved, {name: fit_device(machine, host, moved)})


def _decompressed(packed: bytes) -> bytes:
    work = zlib.decompressobj()
    try:
        document = work.decompress(packed, MAX_DOCUMENT)
    except zlib.error as error:
        raise RestoreError(f"no compressed document: {error}") from error
    if not work.eof:
        raise RestoreError(f"the document is cut short, or has more than {MAX_DOCUMENT} bytes")
    return document


def settle_in(machine: Machine, name: str, restoration: Restoration) -> None:
    """Bring a device that is held to what another one was."""
    host = machine.hosts[name]
    bring(host, restoration.document.devices[name], restoration.devices[name])
    for timer in restoration.timers:
        host.device.alarms[timer.timer].set(timer.deadline_ns)
    machine.backoff.forget(name)
    host.missed.clear()
    host.cut()


def hold(host: InlineHost) -> None:
    """Let a device stand still: it gets no input besides accesses."""
    host.held = True


def release(machine: Machine, host: InlineHost) -> None:
    """Let it go on: its lines and timers are as it has them, and it learns what it missed."""
    host.held = False
    if host.serves:
        resume(machine, host)
