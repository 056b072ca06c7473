"""Which plugin a name means: its own, or that of a device of it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from mmiod.errors import PluginError
from mmiod.machine.machine import Machine


class UnknownPlugin(PluginError):
    """No plugin, and no device, is called so."""

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__(f"{name} is neither a plugin nor a device; plugins: {', '.join(known)}")
        self.known = known


class AmbiguousDevice(PluginError):
    """Devices of several VMs, with several plugins, are called so."""

    def __init__(self, name: str, candidates: list[str]) -> None:
        super().__init__(f"{name} is the name of several devices: {', '.join(candidates)}")
        self.candidates = candidates


def plugin_meant(name: str, plugins: Collection[str], machines: Iterable[Machine]) -> str:
    """The plugin that is called `name`, or has the device DEVICE or VM/DEVICE of that name.

    Raises:
        UnknownPlugin: none does.
        AmbiguousDevice: several do.
    """
    if name in plugins:
        return name
    vm, _, device = name.rpartition("/")
    owners = [owner for owner in machines if vm in {"", owner.name} and device in owner.hosts]
    found = {owner.hosts[device].plugin for owner in owners}
    if not found:
        raise UnknownPlugin(name, sorted(plugins))
    if len(found) > 1:
        raise AmbiguousDevice(name, [f"{owner.name}/{device}" for owner in owners])
    return found.pop()
