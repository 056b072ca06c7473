"""Machine files: where they are, and what they say together with those that they extend."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from attrs import frozen

from mmiod.config.shipped import shipped
from mmiod.errors import ConfigError

BARE: Final = re.compile(r"[A-Za-z0-9_-]+")
"""A name that is no path: that of a machine file that comes with mmiod."""
MAX_BASES: Final = 16
"""Files above the one that all of them extend."""
TOO_DEEP: Final = "its arrays or tables are nested too deep"


@frozen
class MachineFile:
    """A machine file, and the folder that relative paths in it are relative to."""

    path: Path
    directory: Path


def machine_called(name: str, directory: Path) -> MachineFile:
    """The file of a path, relative to `directory`, or of a bare name: one that comes with mmiod.

    Raises:
        ValueError: none that comes with mmiod has this name.
    """
    if BARE.fullmatch(name):
        return MachineFile(_shipped(name), directory)
    path = directory / name
    return MachineFile(path, path.parent)


def _shipped(name: str) -> Path:
    folder = shipped("config") / "machines"
    known = {path.stem: path for path in sorted(folder.glob("*.toml"))}
    if name not in known:
        raise ValueError(
            f"{name!r} is no machine that comes with mmiod; there are {', '.join(known)}; "
            f"a file of your own is named with its .toml"
        )
    return known[name]


def read_machine(path: Path, above: tuple[Path, ...] = ()) -> Mapping[str, object]:
    """The tables of a machine file, laid over those of the file that it `extends`, and so on.

    Args:
        path: the file.
        above: those that extend it.

    Raises:
        ConfigError: one of them cannot be read, or `extends` is wrong.
    """
    tables = dict(read(path))
    base = tables.pop("extends", None)
    if base is None:
        return tables
    extended = _base(path, base)
    if extended in (*above, path):
        raise ConfigError([f"{path}: extends: {base} is extended by itself"])
    if len(above) >= MAX_BASES:
        raise ConfigError([f"{path}: extends: {MAX_BASES} files extend one another already"])
    below = read_machine(extended, (*above, path))
    try:
        return _merge(below, tables)
    except RecursionError as error:
        raise ConfigError([f"{path}: {TOO_DEEP}"]) from error


def _base(path: Path, name: object) -> Path:
    if not isinstance(name, str) or "/" in name:
        raise ConfigError([f"{path}: extends: {name!r} is no file beside this one"])
    try:
        return machine_called(name, path.parent).path
    except ValueError as error:
        raise ConfigError([f"{path}: extends: {error}"]) from error


def _merge(base: Mapping[str, object], over: Mapping[str, object]) -> dict[str, object]:
    """Tables key by key, arrays one behind the other; of anything else `over` wins.

    `false` takes a table, an array or a text of the base out.
    """
    merged = dict(base)
    for key, value in over.items():
        known = merged.get(key)
        if value is False and isinstance(known, Mapping | str | list):
            del merged[key]
        elif isinstance(known, Mapping) and isinstance(value, Mapping):
            merged[key] = _merge(known, value)
        elif isinstance(known, list) and isinstance(value, list):
            merged[key] = known + value
        else:
            merged[key] = value
    return merged


def read(path: Path) -> Mapping[str, object]:
    """The tables of a TOML file.

    Raises:
        ConfigError: it cannot be read.
    """
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except ValueError as error:  # of TOML, of UTF-8, and of a number with thousands of digits
        raise ConfigError([f"{path}: {error}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: {TOO_DEEP}"]) from error
