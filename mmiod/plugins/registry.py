"""The plugins that serve: of each one its generation at work, and the one before."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from attrs import define, field, frozen

from mmiod.device import Device
from mmiod.plugins.loader import Source, make, read


@frozen
class Generation:
    """A plugin as it was loaded; `number` counts its reloads, from 1."""

    number: int
    source: Source
    plugin: type[Device]


@define
class Registry:
    """Each plugin is loaded once for all its instances."""

    directories: Sequence[Path]
    current: dict[str, Generation] = field(factory=dict)
    previous: dict[str, Generation] = field(factory=dict)
    seen: dict[str, Mapping[str, bytes]] = field(factory=dict)
    """Of each plugin the files that were tried last."""

    def get(self, name: str) -> type[Device]:
        """The class of a plugin, loaded now if it was not.

        Raises:
            PluginError: with file, line and reason.
        """
        if name not in self.current:
            source = read(name, self.directories)
            self.current[name] = Generation(1, source, make(source))
            self.seen[name] = source.files
        return self.current[name].plugin

    def read(self, name: str) -> Source:
        """A plugin's files as they are now.

        Raises:
            PluginError: they cannot be read.
        """
        source = read(name, self.directories)
        self.seen[name] = source.files
        return source

    def advance(self, name: str, generation: Generation) -> Generation | None:
        """Put a generation to work, and keep the one before; the one before that is to be forgotten."""
        oldest = self.previous.get(name)
        self.previous[name], self.current[name] = self.current[name], generation
        return oldest if oldest is not None and oldest.plugin is not generation.plugin else None
