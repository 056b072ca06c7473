"""How TOML values become ours."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, get_origin

import attrs
import cattrs
from cattrs.cols import homogenous_tuple_structure_factory, is_mapping, mapping_structure_factory
from cattrs.gen import make_dict_structure_fn

from mmiod.config.machines import MachineFile, machine_called
from mmiod.config.settings import DaemonConfig, VmConfig
from mmiod.machine.address_map import LENGTHS, Policy
from mmiod.machine.description import (
    BackendDescription,
    DeviceDescription,
    ImageDescription,
    MachineDescription,
    Placement,
    Sinks,
    UnclaimedDescription,
)
from mmiod.values import Space

SLOT: Final = re.compile(r"([0-9a-fA-F]{2}):([0-1][0-9a-fA-F])\.([0-7])")


@lru_cache(maxsize=8)  # cattrs compiles code for it: 5 ms, once for all devices of a file
def converter_for(directory: Path) -> cattrs.Converter:
    """Makes classes of tables; relative paths are in `directory`."""
    converter = cattrs.Converter(forbid_extra_keys=True)
    hooks: dict[type, Callable[[Any, Any], object]] = {
        int: _integer,
        bool: _exact(bool, "true or false"),
        str: lambda value, _: _text(value, "a text"),
        Path: lambda value, _: directory / _text(value, "a path"),
        MachineFile: lambda value, _: machine_called(_text(value, "a path"), directory),
        Space: lambda value, _: _space(value),
        Policy: lambda value, _: _policy(value),
        Placement: lambda value, _: _placement(value),
    }
    for kind, hook in hooks.items():
        converter.register_structure_hook(kind, hook)
    converter.register_structure_hook_factory(_is_tuple, _array)
    converter.register_structure_hook_factory(is_mapping, _mapping)
    converter.register_structure_hook(BackendDescription, partial(_backend, converter))
    converter.register_structure_hook(Sinks, partial(_sinks, converter))
    for table in (UnclaimedDescription, ImageDescription, VmConfig, DaemonConfig, MachineDescription):
        converter.register_structure_hook(table, _table(converter, table))
    device = _table(
        converter,
        DeviceDescription,
        slot=cattrs.override(struct_hook=lambda value, _: _slot(value)),
        config=cattrs.override(struct_hook=_exact(dict, "a table")),
    )
    converter.register_structure_hook(DeviceDescription, device)
    return converter


def _is_tuple(kind: object) -> bool:
    return get_origin(kind) is tuple


def _array(kind: type[Any], converter: cattrs.BaseConverter) -> Callable[[Any, Any], Any]:
    return _only(list, "an array", homogenous_tuple_structure_factory(kind, converter))


def _mapping(kind: type[Any], converter: cattrs.BaseConverter) -> Callable[[Any, Any], Any]:
    return _only(dict, "a table", mapping_structure_factory(kind, converter))


def _table(
    converter: cattrs.Converter,
    kind: type[Any],
    **overrides: Any,  # noqa: ANN401  # beside them cattrs takes options of other types
) -> Callable[[Any, Any], Any]:
    """Structures a table; a field's validator runs at once, so that all of them have their say."""
    for attribute in attrs.fields(attrs.resolve_types(kind)):
        if attribute.validator is not None:
            overrides[attribute.name] = cattrs.override(struct_hook=_validated(converter, attribute))
    structure = make_dict_structure_fn(kind, converter, _cattrs_forbid_extra_keys=True, **overrides)
    return _only(dict, "a table", structure)


def _validated(converter: cattrs.Converter, attribute: attrs.Attribute[Any]) -> Callable[[object, Any], Any]:
    def structure(value: object, kind: Any) -> object:  # noqa: ANN401
        structured = converter.structure(value, kind)
        assert attribute.validator is not None
        attribute.validator(None, attribute, structured)
        return structured

    return structure


def _only(kind: type, name: str, structure: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """Structures values of one TOML type only."""
    check = _exact(kind, name)
    return lambda value, target: structure(check(value, target), target)


def _integer(value: object, _: object) -> int:
    if isinstance(value, str):
        return _number(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is no integer")
    return value


def _number(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"{text!r} is no number") from None


def _exact(kind: type, name: str) -> Callable[[object, object], Any]:
    def structure(value: object, _: object) -> object:
        if not isinstance(value, kind):
            raise TypeError(f"{value!r} is not {name}")
        return value

    return structure


def _text(value: object, name: str) -> str:
    """A text that a system call takes."""
    text = str(_exact(str, name)(value, str))
    if "\0" in text:
        raise ValueError(f"{text!r} holds a NUL")
    return text


def _space(value: object) -> Space:
    names = {space.name.lower(): space for space in Space}
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{value!r} is no address space; there are {', '.join(names)}")
    return names[value]


def _policy(value: object) -> Policy:
    names = {policy.name.lower(): policy for policy in Policy}
    if not isinstance(value, str) or value not in names:
        raise ValueError(f"{value!r} is no policy; there are {', '.join(names)}")
    return names[value]


def _placement(value: object) -> Placement:
    space, colon, base = str(value).partition(":")
    if not colon:
        raise ValueError(f'{value!r}: a place is "pio:0x3f8" or "mmio:0xfed40000"')
    place = Placement(_space(space), _number(base))
    if not 0 <= place.base < LENGTHS[place.space]:
        raise ValueError(f"{base} is outside {space}, which ends at {LENGTHS[place.space] - 1:#x}")
    return place


def _backend(converter: cattrs.Converter, value: object, _: object) -> BackendDescription:
    if isinstance(value, str):
        return _text(value, "a text")
    if not isinstance(value, dict):
        raise TypeError(f'{value!r}: a backend is a text ("pty") or a table ({{ kind = "block", ... }})')
    return converter.structure(value, ImageDescription)


def _sinks(converter: cattrs.Converter, value: object, _: object) -> Sinks:
    if isinstance(value, list):
        return converter.structure(value, tuple[str, ...])
    return converter.structure(value, str)


def _slot(value: object) -> int:
    found = SLOT.fullmatch(str(value))
    if found is None:
        raise ValueError(f'{value!r}: a slot is "00:01.0", bus:device.function')
    bus, device, function = int(found[1], 16), int(found[2], 16), int(found[3])
    return bus << 20 | device << 15 | function << 12
