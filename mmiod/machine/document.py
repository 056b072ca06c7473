"""The document that a VM's device state is saved as.

    {"kind": "mmiod-state", "schema": 3,
     "clock": {"now_ns": ..., "wall_start_s": ..., "virtual": ...},
     "devices": {NAME: {"plugin": ..., "schema": ..., "registers": {...}, "state": {...},
                        "lines": {...}, "inputs": {...}, "requests": {SERVICE: number},
                        "backends": {SERVICE: {"kind": ..., "schema": ..., "parts": {...}}},
                        "storages": {STORAGE: [{"offset": ..., "length": ..., "data": ...}, ...]}}},
     "timers": [{"device": ..., "timer": ..., "deadline_ns": ...}, ...]}

JSON; bytes are base85 text, and in `state`, whose types only a plugin knows, `{"base85": text}`,
and tables by other names than texts `{"base85": {"table": [[name, element], ...]}}`.
(Schema 2 had text there too: it loads, but a plugin's `migrate` sees such text.)  `backends`
has what services keep outside of their devices, as a TPM does; null is what was lost before
the save.  `storages` has what was stored, compressed, without what is zeros; it is null where
the bytes themselves are handed on.  `requests` are the numbers of the last ones; all have their answers.
"""

from __future__ import annotations

import json
from typing import Any, Final

from attrs import Factory, define, frozen

from mmiod.errors import RestoreError
from mmiod.machine.plain import JSON, byte_form, structure, text_form
from mmiod.machine.storage import Extent

KIND: Final = "mmiod-state"
SCHEMA: Final = 3
FORMS: Final = {2: text_form, 3: byte_form}
"""By the document's schema: what structures a device's `state`."""


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
    storages: dict[str, list[Extent]] | None = Factory(dict)


@define
class MachineState:
    """All devices of a VM."""

    kind: str
    schema: int
    clock: ClockState
    devices: dict[str, DeviceState]
    timers: list[TimerState] = Factory(list)

    def unstructure(self) -> bytes:
        """As it is written."""
        return json.dumps(JSON.unstructure(self)).encode()


def parse(document: bytes) -> MachineState:
    """Read a document.

    Raises:
        RestoreError: it is none; the message names the place.
    """
    try:
        data = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise RestoreError(f"no JSON: {error}") from error
    if not isinstance(data, dict) or data.get("kind") != KIND:
        found = data.get("kind") if isinstance(data, dict) else data
        raise RestoreError(f"kind: {found!r} is not {KIND!r}")
    schema = data.get("schema")
    if not isinstance(schema, int) or schema not in FORMS:
        raise RestoreError(f"schema: {schema!r}, this mmiod reads {', '.join(map(str, FORMS))}")
    return structure(JSON, data, MachineState, "")
