"""A device's state by name: taken from one generation, fitted to the next, given to it.

What the next class adds gets its reset value or default.  What it lacks is not lost
silently: that needs another `schema` and `migrate`, but for a return to an older class
(`drop`), which never had it.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import Final

import attrs

from mmiod.device import Device
from mmiod.device.saved import Saved
from mmiod.errors import RestoreError
from mmiod.machine.plain import JSON, byte_form, structure

MAX_STEPS: Final = 64
"""Between two schemas: a saved document may say any number."""


def take(device: Device) -> Saved:
    """What a device is now."""
    deadlines = {name: alarm.deadline_ns for name, alarm in device.alarms.items()}
    return Saved(
        schema=device.schema,
        registers={name: int(value) for name, value in device.values.items()},  # perhaps of an IntFlag
        state=byte_form(type(device)).unstructure(device.state),
        lines={name: line.level for name, line in device.lines.items()},
        inputs=dict(device.inputs),
        timers={name: deadline for name, deadline in deadlines.items() if deadline is not None},
        requests={name: client.number for name, client in device.clients.items()},
    )


def fit(state: Saved, before: type[Device], after: type[Device], *, drop: bool) -> tuple[Saved, list[str]]:
    """A state as another class takes it, and the names that were dropped.

    Raises:
        RestoreError: the class lacks what the state has, or does not migrate.
    """
    state = Saved(state.schema, *(dict(getattr(state, part)) for part in PARTS))
    state = _migrate(state, before, after)
    dropped = []
    for part, known_to in PARTS.items():
        known = known_to(after)
        found = getattr(state, part)
        dropped += sorted(f"{part}.{name}" for name in found if name not in known)
        setattr(state, part, {name: value for name, value in found.items() if name in known})
    if dropped and not drop:
        raise RestoreError(f"{', '.join(dropped)}: the new class has none")
    return state, dropped


def give(device: Device, state: Saved) -> None:
    """Bring a new device, which was not reset, to a state that fits it.

    Raises:
        RestoreError: a field or register does not hold what is in the state.
    """
    kind = type(device)
    device.state = structure(byte_form(kind), state.state, kind.state_class, "state")
    for name, value in state.registers.items():
        if not 0 <= value < 1 << 8 * kind.declared[name].size:
            raise RestoreError(f"register {name}: {value:#x} does not fit {kind.declared[name].size} bytes")
    device.values.update(state.registers)
    device.inputs.update(state.inputs)
    for name, level in state.lines.items():
        device.lines[name].level = level
    for job in device.jobs.values():
        job.drop()
    for name, deadline in state.timers.items():
        device.alarms[name].deadline_ns = deadline
    for name, number in state.requests.items():
        device.clients[name].number, device.clients[name].restored = number, True


def _migrate(state: Saved, before: type[Device], after: type[Device]) -> Saved:
    """Step by step; the class with the higher schema knows the way, up and down."""
    if state.schema == after.schema:
        return state
    if abs(state.schema - after.schema) > MAX_STEPS:
        raise RestoreError(f"more than {MAX_STEPS} steps lead from schema {state.schema} to {after.schema}")
    newer = after if after.schema > before.schema else before
    while state.schema != after.schema:
        schema = state.schema + (1 if after.schema > state.schema else -1)
        newer.migrate(state, schema)
        state.schema = schema
    return structure(JSON, attrs.asdict(state, recurse=False), Saved, "")


PARTS: Mapping[str, Callable[[type[Device]], Container[str]]] = {
    "registers": lambda kind: kind.declared,
    "state": lambda kind: {member.name for member in attrs.fields(kind.state_class)},
    "lines": lambda kind: {name for output in kind.outputs.values() for name in output.names()},
    "inputs": lambda kind: kind.input_of,
    "timers": lambda kind: kind.timers,
    "requests": lambda kind: kind.services,
}
"""The parts of a state, and which names a class has there."""
