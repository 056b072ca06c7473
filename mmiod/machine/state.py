"""A VM's device state as one versioned document (`mmiod.machine.document`), and back.

A document is checked as a whole before anything is touched: what does not fit is refused with
its path.  What backends keep takes time: it is fetched before `save`, and handed over between
`read` and `apply`.  What is not in a document: accesses and requests under way (a save needs a
pause), guest memory and vCPUs (the hypervisor's).

A document may be of another generation of a plugin.  What the class has and the document lacks
begins with its reset value or default; from another `schema` leads the `migrate` of the class
that is here, up or down, as for a reload.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from attrs import frozen

from mmiod.device.saved import Saved
from mmiod.errors import RestoreError
from mmiod.machine import storage
from mmiod.machine.document import (
    FORMS,
    KIND,
    SCHEMA,
    BackendState,
    ClockState,
    DeviceState,
    MachineState,
    TimerState,
    parse,
)
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.machine.mark import HookDeadlineExceeded, reason_of
from mmiod.machine.plain import structure, tagged, untagged
from mmiod.machine.ports import Keeping, ServicePort
from mmiod.machine.snapshot import fit, take
from mmiod.machine.storage import Content


@frozen
class Fitted:
    """What a device is brought to."""

    saved: Saved
    state: object
    """An instance of the device's own class."""
    stored: Content | None
    """What its storage is brought to; None: it stays."""


@frozen
class Restoration:
    """A document that fits a machine."""

    document: MachineState
    devices: dict[str, Fitted]

    @property
    def timers(self) -> list[TimerState]:
        """In the order in which they fire; of those at the same time, as the document has them."""
        places = {(timer.device, timer.timer): place for place, timer in enumerate(self.document.timers)}
        armed = [
            TimerState(device, timer, deadline)
            for device, fitted in self.devices.items()
            for timer, deadline in fitted.saved.timers.items()
        ]
        last = len(places)
        return sorted(armed, key=lambda one: (one.deadline_ns, places.get((one.device, one.timer), last)))


def save(machine: Machine, *, stored: bool = True) -> bytes:
    """The document of a machine; no access may be under way, and services' backends were asked.

    Without what is `stored` it is for who gets the storage itself.
    """
    clock = machine.clock
    timers = sorted(clock.armed.items(), key=lambda item: item[1][:2])
    document = MachineState(
        kind=KIND,
        schema=SCHEMA,
        clock=ClockState(clock.now_ns, clock.wall_start_s, clock.virtual),
        devices={
            name: state_of(host, _keepers(machine, name), stored=stored)
            for name, host in machine.hosts.items()
        },
        timers=[TimerState(device, timer, deadline) for (device, timer), (deadline, _, _) in timers],
    )
    return document.unstructure()


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
    saved = parse(document)
    _check_devices(machine, saved)
    _check_timers(saved)
    return Restoration(
        saved, {name: fit_device(machine, host, saved) for name, host in machine.hosts.items()}
    )


def hand_over(machine: Machine, restoration: Restoration) -> None:
    """Begin to hand backends what they kept; their ports are busy until that is done."""
    for device, service, port in _all_keepers(machine):
        kept = restoration.document.devices[device].backends.get(service)
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
    document = restoration.document
    machine.clock.restore(document.clock.now_ns, document.clock.wall_start_s)
    machine.settled.clear()
    for name, host in machine.hosts.items():
        bring(host, document.devices[name], restoration.devices[name])
    machine.restore_levels()
    for timer in restoration.timers:
        machine.hosts[timer.device].device.alarms[timer.timer].set(timer.deadline_ns)
    for host in machine.hosts.values():
        machine.backoff.forget(host.name)
        host.missed.clear()
        host.cut()
        machine.streams_ready(host.name)
    for name, fitted in restoration.devices.items():
        _tell_new_inputs(machine, name, fitted.saved.inputs)


def _all_keepers(machine: Machine) -> Iterator[tuple[str, str, ServicePort]]:
    """Device, service and port of all backends that keep something."""
    for (device, service), port in machine.services.items():
        if port.keeping is not None:
            yield device, service, port


def _keepers(machine: Machine, name: str) -> dict[str, ServicePort]:
    """Those of a device, by service."""
    return {service: port for device, service, port in _all_keepers(machine) if device == name}


def state_of(host: InlineHost, keepers: Mapping[str, ServicePort], *, stored: bool) -> DeviceState:
    """A device's part of a document."""
    host.refresh()
    saved = take(host.device)
    return DeviceState(
        plugin=host.plugin,
        schema=saved.schema,
        registers=saved.registers,
        state=tagged(saved.state),
        lines=saved.lines,
        inputs=saved.inputs,
        requests=saved.requests,
        backends={name: _kept(port) for name, port in keepers.items()},
        failure=host.failure,
        storages=storage.kept(host.device, host.storages) if stored else None,
    )


def _kept(port: ServicePort) -> BackendState | None:
    if port.keeping is None or port.kept is None:
        return None
    return BackendState(port.keeping.kind, port.keeping.schema, dict(port.kept))


def bring(host: InlineHost, document: DeviceState, fitted: Fitted) -> None:
    """Bring a device to its part of a document; no timer of it is set."""
    device, saved = host.device, fitted.saved
    host.owes = None
    host.failure = document.failure
    for name, client in device.clients.items():
        client.number = saved.requests.get(name, 0)
        client.restored = document.backends.get(name) is not None
    device.values.update({name: register.reset for name, register in device.declared.items()})
    device.values.update(saved.registers)
    device.inputs.update(dict.fromkeys(device.inputs, False) | saved.inputs)
    device.state = fitted.state
    for name, line in device.lines.items():
        line.level = saved.lines.get(name, False)
    for alarm in device.alarms.values():
        alarm.cancel()
    if fitted.stored is not None:
        storage.put_back(device, host.storages, fitted.stored)
    host.restored()


def _tell_new_inputs(machine: Machine, name: str, known: Mapping[str, bool]) -> None:
    """Input lines that the document does not know of are low to the device: tell it what is high."""
    host = machine.hosts[name]
    for line in [line for line in host.device.inputs if line not in known]:
        net = machine.wires.sinks.get(f"{name}.{line}")
        if net is not None and net.high:
            host.deliver(line, level=True)


# --- what can be wrong with a document -----------------------------------------------------


def _check_devices(machine: Machine, saved: MachineState) -> None:
    if saved.clock.virtual != machine.clock.virtual:
        raise RestoreError(f"clock.virtual: {saved.clock.virtual}, this session's is {machine.clock.virtual}")
    for name in saved.devices.keys() ^ machine.hosts.keys():
        where = "the machine" if name in machine.hosts else "the saved state"
        raise RestoreError(f"devices.{name}: only {where} has it")
    for name, host in machine.hosts.items():
        _same(f"devices.{name}.plugin", saved.devices[name].plugin, host.plugin)
        _check_backends(f"devices.{name}", saved.devices[name], _keepers(machine, name))


def _check_timers(saved: MachineState) -> None:
    armed: set[tuple[str, str]] = set()
    for index, timer in enumerate(saved.timers):
        if timer.device not in saved.devices:
            raise RestoreError(f"timers[{index}]: there is no device {timer.device}")
        if (timer.device, timer.timer) in armed:
            raise RestoreError(f"timers[{index}]: {timer.device}.{timer.timer} is armed twice")
        armed.add((timer.device, timer.timer))


def fit_device(machine: Machine, host: InlineHost, document: MachineState) -> Fitted:
    """A device's part as the class that is here takes it."""
    found, kind, place = document.devices[host.name], type(host.device), f"devices.{host.name}"
    timers = {timer.timer: timer.deadline_ns for timer in document.timers if timer.device == host.name}
    parts = (found.registers, untagged(found.state), found.lines, found.inputs, timers, found.requests)
    outer = machine.mark.enter(host.name)
    try:
        try:
            saved, unknown = fit(Saved(found.schema, *parts), kind, kind, drop=True)
        finally:
            machine.mark.leave(outer)
    except (Exception, HookDeadlineExceeded) as error:  # a plugin's `migrate` may raise anything
        machine.mark.leave(outer)
        reason = str(error) if isinstance(error, RestoreError) else f"migrate: {reason_of(error)}"
        raise RestoreError(f"{place}.schema: {found.schema}, here it is {kind.schema}: {reason}") from error
    for name in unknown:
        raise RestoreError(f"{place}.{name}: the device has none")
    for name, value in saved.registers.items():
        if not 0 <= value < 1 << 8 * kind.declared[name].size:
            size = kind.declared[name].size
            raise RestoreError(f"{place}.registers.{name}: {value:#x} does not fit {size} bytes")
    for service, number in saved.requests.items():
        if number < 0:
            raise RestoreError(f"{place}.requests.{service}: {number} is no number of a request")
    form = FORMS[document.schema](kind)
    state = structure(form, saved.state, kind.state_class, f"{place}.state")
    given = found.storages
    stored = None if given is None else storage.content(kind, given, f"{place}.storages")
    return Fitted(saved, state, stored)


def _check_backends(place: str, device: DeviceState, keepers: Mapping[str, ServicePort]) -> None:
    """What each backend keeps fits it; a service that the document does not know of has nothing."""
    known = {name: port for name, port in keepers.items() if name in device.requests}
    _same_names(f"{place}.backends", device.backends, known)
    for name, port in known.items():
        backend, keeping = device.backends[name], port.keeping
        if backend is not None and keeping is not None:
            _check_backend(f"{place}.backends.{name}", backend, keeping)


def _check_backend(place: str, found: BackendState, keeping: Keeping) -> None:
    _same(f"{place}.kind", found.kind, keeping.kind)
    _same(f"{place}.schema", found.schema, keeping.schema)
    _same_names(f"{place}.parts", found.parts, keeping.parts)
    for part, data in found.parts.items():
        if len(data) > keeping.parts[part]:
            raise RestoreError(f"{place}.parts.{part}: {len(data)} bytes, at most {keeping.parts[part]}")


def _same(place: str, found: object, expected: object) -> None:
    if found != expected:
        raise RestoreError(f"{place}: {found!r}, here it is {expected!r}")


def _same_names(place: str, found: Mapping[str, object], expected: Mapping[str, object]) -> None:
    for name in found.keys() ^ expected.keys():
        raise RestoreError(f"{place}.{name}: {'is missing' if name in expected else 'the device has none'}")
