"""What changes the daemon: a plugin's next generation, another program."""

from __future__ import annotations

from attrs import frozen


@frozen
class PluginRequest:
    """A plugin's name, or that of a device of it as DEVICE or VM/DEVICE.

    DEVICE will do where all devices of that name have one plugin.
    """

    name: str


@frozen
class Reloaded:
    """The plugin's new generation serves all `devices`; `pause_us` were without service.

    `accesses` of late were repeated by both generations: the first `differences` of all that are
    `differing`.  `dropped` is state that an older class does not know.
    """

    plugin: str
    generation: int
    devices: list[str]
    pause_us: int
    load_us: int
    accesses: int
    differing: int
    differences: list[str]
    dropped: list[str]


@frozen
class Upgraded:
    """The daemon has executed itself anew, `upgrades` times by now, and is this version.

    `pause_us` is for how long no client was served.
    """

    upgrades: int
    pause_us: int
    version: str
