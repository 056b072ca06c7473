"""A VM's device state as one versioned document, and back.

    {"kind": "mmiod-state", "schema": 1,
     "clock": {"now_ns": ..., "wall_start_s": ..., "virtual": ...},
     "devices": {NAME: {"plugin": ..., "schema": ..., "registers": {...}, "state": {...},
                        "lines": {...}, "inputs": {...}, "timers": [[NAME, deadline_ns], ...]}}}

JSON; bytes are base85 text.  A document is checked as a whole before anything is touched:
what does not fit is refused with its path.  What is not in it: accesses under way (a
save needs a pause), guest memory and vCPUs (the hypervisor's), backends.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import cattrs
from attrs import Factory, define, frozen
from cattrs.cols import is_sequence, list_structure_factory
from cattrs.preconf.json import make_converter

from mmiod.errors import RestoreError
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine

KIND: Final = "mmiod-state"
SCHEMA: Final = 1

T = TypeVar("T")


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


@define
class DeviceState:
    """One device."""

    plugin: str
    schema: int
    registers: dict[str, int]
    state: dict[str, Any]
    lines: dict[str, bool]
    inputs: dict[str, bool]
    failure: str | None = None


@define
class MachineState:
    """All devices of a VM."""

    kind: str
    schema: int
    clock: ClockState
    devices: dict[str, DeviceState]
    timers: list[TimerState] = Factory(list)


def save(machine: Machine) -> bytes:
    """The document of a machine; no access may be under way."""
    clock = machine.clock
    timers = sorted(clock.armed.items(), key=lambda item: item[1][:2])
    document = MachineState(
        kind=KIND,
        schema=SCHEMA,
        clock=ClockState(clock.now_ns, clock.wall_start_s, clock.virtual),
        devices={name: _device(host) for name, host in machine.hosts.items()},
        timers=[TimerState(device, timer, deadline) for (device, timer), (deadline, _, _) in timers],
    )
    return json.dumps(_CONVERTER.unstructure(document)).encode()


def restore(machine: Machine, document: bytes) -> None:
    """Bring a machine to a saved state.

    Raises:
        RestoreError: the document does not fit; the message names the place, and the
            machine is as it was.
    """
    saved = _parse(document)
    _check_devices(machine, saved)
    states = {name: _state_of(name, host, saved.devices[name]) for name, host in machine.hosts.items()}
    machine.clock.restore(saved.clock.now_ns, saved.clock.wall_start_s)
    machine.settled.clear()
    for name, host in machine.hosts.items():
        _apply(host, saved.devices[name], states[name])
    machine.restore_levels()
    for timer in saved.timers:
        machine.hosts[timer.device].device.alarms[timer.timer].set(timer.deadline_ns)


def _device(host: InlineHost) -> DeviceState:
    device = host.device
    return DeviceState(
        plugin=host.plugin,
        schema=device.schema,
        registers=dict(device.values),
        state=_CONVERTER.unstructure(device.state),
        lines={name: line.level for name, line in device.lines.items()},
        inputs=dict(device.inputs),
        failure=host.failure,
    )


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
    return _structure(data, MachineState, "")


def _structure(data: object, kind: type[T], place: str) -> T:
    try:
        return _CONVERTER.structure(data, kind)
    except (cattrs.BaseValidationError, ValueError, TypeError, KeyError) as error:
        reasons = "; ".join(cattrs.transform_error(error)).replace("@ $", f"at {place or '$'}")
        raise RestoreError(reasons) from error


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
        for register, value in found.registers.items():
            size = device.declared[register].size
            if not 0 <= value < 1 << 8 * size:
                raise RestoreError(
                    f"devices.{name}.registers.{register}: {value:#x} does not fit {size} bytes"
                )
    _check_timers(machine, saved)


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
    state: object = _structure(saved.state, host.device.state_class, f"devices.{name}.state")
    return state


def _apply(host: InlineHost, saved: DeviceState, state: object) -> None:
    device = host.device
    host.owes = None
    host.failure = saved.failure
    device.values.update(saved.registers)
    device.inputs.update(saved.inputs)
    device.state = state
    for name, level in saved.lines.items():
        device.lines[name].level = level
    for alarm in device.alarms.values():
        alarm.cancel()
    host.guarded(device.on_restore, None)


def _converter() -> cattrs.Converter:
    converter = make_converter(forbid_extra_keys=True)
    converter.register_unstructure_hook(bytearray, lambda value: converter.unstructure(bytes(value)))
    converter.register_structure_hook(
        bytearray, lambda value, _: bytearray(converter.structure(value, bytes))
    )
    converter.register_structure_hook_factory(is_sequence, _lists_only)
    converter.register_structure_hook(int, _integer)
    converter.register_structure_hook(bool, _boolean)
    converter.register_structure_hook(str, _text)
    return converter


def _lists_only(kind: Any, converter: cattrs.Converter) -> Callable[[object, object], Any]:  # noqa: ANN401
    """An empty text or table is no empty list, though it has as many elements."""
    structure = list_structure_factory(kind, converter)

    def checked(value: object, kind: object) -> object:
        if not isinstance(value, list):
            raise TypeError(f"{value!r} is no list")
        return structure(value, kind)

    return checked


def _integer(value: object, _: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no integer")
    return value


def _boolean(value: object, _: object) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{value!r} is neither true nor false")
    return value


def _text(value: object, _: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is no text")
    return value


_CONVERTER: Final = _converter()
