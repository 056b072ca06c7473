"""Files as a whole become settings, a machine's description, and a device's configuration."""

from __future__ import annotations

from pathlib import Path

from mmiod.config.examined import Examined, examine
from mmiod.config.machines import read, read_machine
from mmiod.config.settings import Config
from mmiod.config.structuring import converter_for
from mmiod.device import Device
from mmiod.machine.description import DeviceDescription, MachineDescription


def load(path: Path) -> Config:
    """Read mmiod.toml; relative paths in it are relative to it.

    Raises:
        ConfigError: with every problem.
    """
    return examine_config(path).sound()


def examine_config(path: Path) -> Examined[Config]:
    """What mmiod.toml says, and what is wrong with it.

    Raises:
        ConfigError: it cannot be read at all.
    """
    return examine(path, read(path), Config, converter_for(path.parent))


def load_machine(path: Path, directory: Path | None = None) -> MachineDescription:
    """Read a machine file, and the one that it `extends`.

    Args:
        path: the file.
        directory: what relative paths in it are relative to; its own folder if left out.

    Raises:
        ConfigError: with every problem.
    """
    return examine_machine(path, directory).sound()


def examine_machine(path: Path, directory: Path | None = None) -> Examined[MachineDescription]:
    """What a machine file says, with the one that it `extends`, and what is wrong with it.

    Raises:
        ConfigError: it cannot be read at all.
    """
    return examine(path, read_machine(path), MachineDescription, converter_for(directory or path.parent))


def configure(plugin: type[Device], described: DeviceDescription, directory: Path) -> object:
    """A device's configuration, for its plugin's class; relative paths are in `directory`.

    Raises:
        ConfigError: with every problem.
    """
    return examine_device(plugin, described, directory).sound()


def examine_device(plugin: type[Device], described: DeviceDescription, directory: Path) -> Examined[object]:
    """What a device's `config` says to its plugin, and what is wrong with it."""
    own = converter_for(directory).copy()  # what it compiles for the class must go with the class
    return examine(Path("config"), described.config, plugin.config_class, own)
