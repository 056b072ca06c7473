"""Why something was refused."""

from __future__ import annotations

from attrs import frozen


@frozen
class UnknownVm:
    """There is no such VM."""

    vm: str
    known: list[str]


@frozen
class UnknownDevice:
    """There is no such device; those that there are are `known`, as VM/DEVICE."""

    device: str
    known: list[str]


@frozen
class AmbiguousDevice:
    """Several VMs have a device of this name; each of `candidates`, as VM/DEVICE, says which is meant."""

    device: str
    candidates: list[str]


@frozen
class UnknownRegister:
    """The device has no register of such a name; `known` are those that it has, of several the near ones."""

    device: str
    register: str
    known: list[str]


@frozen
class NotStopped:
    """Nothing stands there."""

    device: str


@frozen
class InvalidFilter:
    """The filter cannot be read."""

    reason: str


@frozen
class UnknownPlugin:
    """There is no such plugin, and no device of that name; `known` are plugins."""

    name: str
    known: list[str]


@frozen
class ReloadRejected:
    """The old generation serves on; `file` and `line` (0) may be unknown."""

    plugin: str
    file: str
    line: int
    reason: str
    remedy: str


@frozen
class UpgradeRejected:
    """The daemon serves on as it was."""

    reason: str


@frozen
class TooManyClients:
    """The control socket serves `limit` clients already."""

    limit: int
