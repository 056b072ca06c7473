"""The document that a daemon leaves to the one that it becomes.

Descriptors in it are places in `descriptors`, which has their numbers.
"""

from __future__ import annotations

import json
from typing import Final

from attrs import define, field, frozen

from mmiod.attach.inheritance import FunctionEstate, StorageEstate
from mmiod.core.inheritance import TaskEstate
from mmiod.errors import RestoreError
from mmiod.machine.plain import JSON, structure

KIND: Final = "mmiod-inheritance"
SCHEMA: Final = 1


@frozen
class ListenerEstate:
    """A listening socket."""

    name: str
    path: str
    passed: bool
    """Whether the service manager opened it: it is not ours to remove."""
    descriptor: int


@frozen
class VmEstate:
    """One VM."""

    state: str | None
    """The devices' state, as `mmiod.machine.state` saves it; None while the machine is off."""
    functions: dict[str, FunctionEstate]
    """By device."""
    backends: dict[str, TaskEstate]
    """By device."""
    storages: dict[str, dict[str, StorageEstate]] = field(factory=dict)
    """By device and region."""


@define
class Estate:
    """All of it."""

    kind: str
    schema: int
    upgrades: int
    """How many there were, this one included."""
    stopped_ns: int
    """When the rest began, by the host's monotonic clock, which an execve does not touch."""
    descriptors: list[int]
    listeners: list[ListenerEstate]
    vms: dict[str, VmEstate]
    callers: list[int]
    """Control connections that wait for the upgrade's answer."""


def dump(estate: Estate) -> bytes:
    """The document."""
    return json.dumps(JSON.unstructure(estate)).encode()


def load(document: bytes) -> Estate:
    """Read the document.

    Raises:
        RestoreError: it is none, or another mmiod's; the message names the place.
    """
    try:
        data = json.loads(document)
    except ValueError as error:
        raise RestoreError(f"no JSON: {error}") from error
    if not isinstance(data, dict) or (data.get("kind"), data.get("schema")) != (KIND, SCHEMA):
        raise RestoreError(f"kind and schema: this mmiod reads {KIND!r}, {SCHEMA}")
    return structure(JSON, data, Estate, "")
