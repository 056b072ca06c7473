"""A VM's device state as one versioned document, and back.

    {"kind": "mmiod-state", "schema": 2,
     "clock": {"now_ns": ..., "wall_start_s": ..., "virtual": ...},
     "devices": {NAME: {"plugin": ..., "schema": ..., "registers": {...}, "state": {...},
                        "lines": {...}, "inputs": {...}, "requests": {SERVICE: number},
                        "backends": {SERVICE: {"kind": ..., "schema": ..., "parts": {...}}}}},
     "timers": [{"device": ..., "timer": ..., "deadline_ns": ...}, ...]}

JSON; bytes are base85 text.  A document is checked as a whole before anything is touched:
what does not fit is refused with its path.  `backends` has what services keep outside of
their devices, as a TPM does; null is what was lost before the save.  That takes time: it is
fetched before `save`, and handed over between `read` and `apply`.  `requests` are the
numbers of the last ones; all have their answers.  What is not in a document: accesses and
requests under way (a save needs a pause), guest memory and vCPUs (the hypervisor's).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from attrs import Factory, define, frozen

from mmiod.errors import RestoreError
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.machine.plain import JSON, structure, text_form
from mmiod.machine.ports import Keeping, ServicePort

KIND: Final = "mmiod-state"
SCHEMA: Final = 2


@frozen
class ClockState:
    """Guest time, and what a real-time clock showed at power-on."""

    now_ns: int
    wall_start_s: int
    virtual: bool


@frozen
class TimerState:
    """An armed timer; timers of all devices stand in the order in which they would fire."""

    device: str
    timer: str
    deadline_ns: int


@frozen
class BackendState:
    """What a service's backend keeps, by part."""

    kind: str
    schema: int
    parts: dict[str, bytes]


@define
class DeviceState:
    """One device."""

    plugin: str
    schema: int
    registers: dict[str, int]
    state: dict[str, Any]
    lines: dict[str, bool]
    inputs: dict[str, bool]
    requests: dict[str, int]
    backends: dict[str, BackendState | None]
    failure: str | None = None


@define
class MachineState:
    """All devices of a VM."""

    kind: str
    schema: int
    clock: ClockState
    devices: dict[str, DeviceState]
    timers: list[TimerState] = Factory(list)


@frozen
class Restoration:
    """A document that fits a machine."""

    document: MachineState
    states: dict[str, object]
    """By device."""


def save(machine: Machine) -> bytes:
    """The document of a machine; no access may be under way, and services' backends were asked."""
    clock = machine.clock
    timers = sorted(clock.armed.items(), key=lambda item: item[1][:2])
    document = MachineState(
        kind=KIND,
        schema=SCHEMA,
        clock=ClockState(clock.now_ns, clock.wall_start_s, clock.virtual),
        devices={name: _device(host, _keepers(machine, name)) for name, host in machine.hosts.items()},
        timers=[TimerState(device, timer, deadline) for (device, timer), (deadline, _, _) in timers],
    )
    return json.dumps(JSON.unstructure(document)).encode()


def restore(machine: Machine, document: bytes) -> None:
    """Bring a machine to a saved state.

    Raises:
        RestoreError: the document does not fit; the message names the place, and the
            machine is as it was.
    """
    apply(machine, read(machine, document))


def read(machine: Machine, document: bytes) -> Restoration:
    """Check a document against a machine.

    Raises:
        RestoreError: it does not fit; the message names the place.
    """
    saved = _parse(document)
    _check_devices(machine, saved)
    states = {name: _state_of(name, host, saved.devices[name]) for name, host in machine.hosts.items()}
    return Restoration(saved, states)


def hand_over(machine: Machine, restoration: Restoration) -> None:
    """Begin to hand backends what they kept; their ports are busy until that is done."""
    for device, service, port in _all_keepers(machine):
        kept = restoration.document.devices[device].backends[service]
        if kept is not None:
            port.put_back(kept.parts)


def check_taken(machine: Machine) -> None:
    """See that backends took what they kept.

    Raises:
        RestoreError: one did not; the message names the place.
    """
    for device, service, port in _all_keepers(machine):
        if port.refusal is not None:
            raise RestoreError(f"devices.{device}.backends.{service}: {port.refusal}")


def apply(machine: Machine, restoration: Restoration) -> None:
    """Bring a machine to the state of a document that fits it."""
    saved, states = restoration.document, restoration.states
    machine.clock.restore(saved.clock.now_ns, saved.clock.wall_start_s)
    machine.settled.clear()
    for name, host in machine.hosts.items():
        _apply(host, saved.devices[name], states[name])
    machine.restore_levels()
    for timer in saved.timers:
        machine.hosts[timer.device].device.alarms[timer.timer].set(timer.deadline_ns)
    for host in machine.hosts.values():
        machine.backoff.forget(host.name)
        host.missed.clear()
        host.cut()


def _all_keepers(machine: Machine) -> Iterator[tuple[str, str, ServicePort]]:
    """Device, service and port of all backends that keep something."""
    for (device, service), port in machine.services.items():
        if port.keeping is not None:
            yield device, service, port


def _keepers(machine: Machine, name: str) -> dict[str, ServicePort]:
    """Those of a device, by service."""
    return {service: port for device, service, port in _all_keepers(machine) if device == name}


def _device(host: InlineHost, keepers: Mapping[str, ServicePort]) -> DeviceState:
    host.refresh()
    device = host.device
    return DeviceState(
        plugin=host.plugin,
        schema=device.schema,
        registers=dict(device.values),
        state=text_form(type(device)).unstructure(device.state),
        lines={name: line.level for name, line in device.lines.items()},
        inputs=dict(device.inputs),
        requests={name: client.number for name, client in device.clients.items()},
        backends={name: _kept(port) for name, port in keepers.items()},
        failure=host.failure,
    )


def _kept(port: ServicePort) -> BackendState | None:
    if port.keeping is None or port.kept is None:
        return None
    return BackendState(port.keeping.kind, port.keeping.schema, dict(port.kept))


# --- what can be wrong with a document -----------------------------------------------------


def _parse(document: bytes) -> MachineState:
    try:
        data = json.loads(document)
    except ValueError as error:
        raise RestoreError(f"no JSON: {error}") from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        found = data.get("kind") if isinstance(data, dict) else data
        raise RestoreError(f"kind: {found!r} is not {KIND!r}")
    if data.get("schema") != SCHEMA:
        raise RestoreError(f"schema: {data.get('schema')!r}, this mmiod reads {SCHEMA}")
    return structure(JSON, data, MachineState, "")


def _check_devices(machine: Machine, saved: MachineState) -> None:
    if saved.clock.virtual != machine.clock.virtual:
        raise RestoreError(f"clock.virtual: {saved.clock.virtual}, this session's is {machine.clock.virtual}")
    for name in saved.devices.keys() ^ machine.hosts.keys():
        where = "the machine" if name in machine.hosts else "the saved state"
        raise RestoreError(f"devices.{name}: only {where} has it")
    for name, host in machine.hosts.items():
        found, device = saved.devices[name], host.device
        _same(f"devices.{name}.plugin", found.plugin, host.plugin)
        _same(f"devices.{name}.schema", found.schema, device.schema)
        _same_names(f"devices.{name}.registers", found.registers, device.values)
        _same_names(f"devices.{name}.lines", found.lines, device.lines)
        _same_names(f"devices.{name}.inputs", found.inputs, device.inputs)
        _same_names(f"devices.{name}.requests", found.requests, device.clients)
        for service, number in found.requests.items():
            if number < 0:
                raise RestoreError(f"devices.{name}.requests.{service}: {number} is no number of a request")
        _check_backends(f"devices.{name}.backends", found.backends, _keepers(machine, name))
        for register, value in found.registers.items():
            size = device.declared[register].size
            if not 0 <= value < 1 << 8 * size:
                raise RestoreError(
                    f"devices.{name}.registers.{register}: {value:#x} does not fit {size} bytes"
                )
    _check_timers(machine, saved)


def _check_backends(
    place: str, found: Mapping[str, BackendState | None], keepers: Mapping[str, ServicePort]
) -> None:
    _same_names(place, found, keepers)
    for name, port in keepers.items():
        backend, keeping = found[name], port.keeping
        if backend is not None and keeping is not None:
            _check_backend(f"{place}.{name}", backend, keeping)


def _check_backend(place: str, found: BackendState, keeping: Keeping) -> None:
    _same(f"{place}.kind", found.kind, keeping.kind)
    _same(f"{place}.schema", found.schema, keeping.schema)
    _same_names(f"{place}.parts", found.parts, keeping.parts)
    for part, data in found.parts.items():
        if len(data) > keeping.parts[part]:
            raise RestoreError(f"{place}.parts.{part}: {len(data)} bytes, at most {keeping.parts[part]}")


def _check_timers(machine: Machine, saved: MachineState) -> None:
    armed: set[tuple[str, str]] = set()
    for index, timer in enumerate(saved.timers):
        owner = machine.hosts.get(timer.device)
        if owner is None or timer.timer not in owner.device.timers:
            raise RestoreError(f"timers[{index}]: {timer.device} has no timer {timer.timer}")
        if (timer.device, timer.timer) in armed:
            raise RestoreError(f"timers[{index}]: {timer.device}.{timer.timer} is armed twice")
        armed.add((timer.device, timer.timer))


def _same(place: str, found: object, expected: object) -> None:
    if found != expected:
        raise RestoreError(f"{place}: {found!r}, here it is {expected!r}")


def _same_names(place: str, found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    for name in found.keys() ^ expected.keys():
        raise RestoreError(f"{place}.{name}: {'is missing' if name in expected else 'the device has none'}")


def _state_of(name: str, host: InlineHost, saved: DeviceState) -> object:
    kind = type(host.device)
    state: object = structure(text_form(kind), saved.state, kind.state_class, f"devices.{name}.state")
    return state


def _apply(host: InlineHost, saved: DeviceState, state: object) -> None:
    device = host.device
    host.owes = None
    host.failure = saved.failure
    for name, client in device.clients.items():
        client.number, client.restored = saved.requests[name], saved.backends.get(name) is not None
    device.values.update(saved.registers)
    device.inputs.update(saved.inputs)
    device.state = state
    for name, level in saved.lines.items():
        device.lines[name].level = level
    for alarm in device.alarms.values():
        alarm.cancel()
    host.restored()
