"""The configuration: mmiod.toml and machine files, checked as a whole.

Everything that is wrong is reported at once, as "file: path: reason", before anything
starts.  docs: config/mmiod.toml is the commented reference.
"""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final, TypeVar, get_origin

import attrs
import cattrs
from attrs import field, frozen
from cattrs.cols import homogenous_tuple_structure_factory
from cattrs.gen import make_dict_structure_fn

from mmiod.device import Device
from mmiod.errors import ConfigError
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

T = TypeVar("T")

SLOT: Final = re.compile(r"([0-9a-fA-F]{2}):([0-1][0-9a-fA-F])\.([0-7])")
VM_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,30}")


MAX_REP_BOUND: Final = 1024
"""So that what the iterations write to unmapped memory fits the completion."""


def _between(low: int, high: int) -> Callable[[object, object, int], None]:
    def validate(_instance: object, _attribute: object, value: int, /) -> None:
        if not low <= value <= high:
            raise ValueError(f"{value} is not within {low}..{high}")

    return validate


def _one_of(*choices: str) -> Callable[[object, object, str], None]:
    def validate(_instance: object, _attribute: object, value: str, /) -> None:
        if value not in choices:
            raise ValueError(f"{value!r}: there are {', '.join(choices)}")

    return validate


@frozen
class DaemonConfig:
    """What holds for the whole daemon."""

    control: Path = Path("/run/mmiod/control")
    """The control socket."""
    plugins: tuple[Path, ...] = ()
    """Directories of device plugins, searched before the bundled ones."""
    hook_deadline_ms: int = field(default=100, validator=_between(1, 60_000))
    """A device's hook that takes more CPU time is interrupted and its device quarantined."""
    access_deadline_ms: int = field(default=1000, validator=_between(1, 4000))
    """An access by vfio-user that a device answers later reads all ones: QEMU waits for 5 s."""
    reconnect_grace_s: int = field(default=30, validator=_between(0, 86_400))
    """How long a VM's devices wait for a hypervisor that lost its connection."""
    recorder_capacity: int = field(default=65536, validator=_between(1, 1 << 24))
    """Accesses that the traffic recorder keeps."""
    rep_bound: int = field(default=1024, validator=_between(1, MAX_REP_BOUND))
    """Iterations of a REP instruction in one exit."""
    spin_us: int = field(default=200, validator=_between(0, 1000))
    """How long the daemon looks for exits before it sleeps; 0 where CPUs are shared."""
    max_vcpus: int = field(default=64, validator=_between(1, 1024))
    max_slots: int = field(default=64, validator=_between(1, 4096))
    """Of guest memory, per VM."""
    log_level: str = field(default="info", validator=_one_of("debug", "info", "warning", "error"))
    """Of the events that are told."""


@frozen
class VmConfig:
    """One VM: its name, its machine file and where its hypervisor connects.

    `socket` is a socket of the exit protocol; with protocol "vfio-user" it is a directory
    that holds one for each PCI function, named like the device.
    """

    name: str = field()
    machine: Path
    socket: Path
    protocol: str = field(default="exit", validator=_one_of("exit", "vfio-user"))

    @name.validator
    def _check_name(self, _: object, value: str) -> None:
        if not VM_NAME.fullmatch(value):
            raise ValueError(f"{value!r}: a VM's name is 1 to 31 letters, digits, _ . -")


@frozen
class Config:
    """The contents of mmiod.toml."""

    vm: tuple[VmConfig, ...] = field()
    daemon: DaemonConfig = DaemonConfig()

    @vm.validator
    def _check_vms(self, _: object, vms: tuple[VmConfig, ...]) -> None:
        if not vms:
            raise ValueError("no VM")
        names = _twice(vm.name for vm in vms)
        sockets = _twice([self.daemon.control, *(vm.socket for vm in vms)])
        problems = [f"two VMs are called {name}" for name in names]
        problems += [f"{socket} is the socket of two" for socket in sockets]
        if problems:
            raise ValueError("; ".join(problems))


def _twice(things: Iterable[T]) -> list[T]:
    return [thing for thing, count in Counter(things).items() if count > 1]


def load(path: Path) -> Config:
    """Read mmiod.toml; relative paths in it are relative to it.

    Raises:
        ConfigError: with every problem.
    """
    return _structure(path, _read(path), Config, _converter(path.parent))


def load_machine(path: Path) -> MachineDescription:
    """Read a machine file, and the one that it `extends`.

    Raises:
        ConfigError: with every problem.
    """
    return _structure(path, read_machine(path), MachineDescription, _converter(path.parent))


def read_machine(path: Path) -> Mapping[str, object]:
    """The tables of a machine file, laid over those of the file that it `extends`.

    Raises:
        ConfigError: one of them cannot be read, or `extends` is wrong.
    """
    tables = dict(_read(path))
    base = tables.pop("extends", None)
    if base is None:
        return tables
    if not isinstance(base, str) or "/" in base:
        raise ConfigError([f"{path}: extends: {base!r} is no file beside this one"])
    extended = _read(path.parent / base)
    if "extends" in extended:
        raise ConfigError([f"{path}: extends: {base} itself extends another file"])
    return _merge(extended, tables)


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


def configure(plugin: type[Device], described: DeviceDescription, directory: Path) -> object:
    """A device's configuration, for its plugin's class; relative paths are in `directory`.

    Raises:
        ConfigError: with every problem.
    """
    own = _converter(directory).copy()  # what it compiles for the class must go with the class
    return _structure(Path("config"), described.config, plugin.config_class, own)


def _read(path: Path) -> Mapping[str, object]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError([f"{path}: {error.strerror}"]) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError([f"{path}: {error}"]) from error


def _structure(path: Path, data: Mapping[str, object], kind: type[T], converter: cattrs.Converter) -> T:
    try:
        return converter.structure(data, kind)
    except (cattrs.BaseValidationError, ValueError, TypeError) as error:
        problems = cattrs.transform_error(error, format_exception=_explain)
        raise ConfigError([f"{path}: {_place(problem)}" for problem in problems]) from error


def _explain(error: BaseException, kind: type | None) -> str:
    if isinstance(error, cattrs.ForbiddenExtraKeysError):
        unknown = ", ".join(sorted(error.extra_fields))
        known = ", ".join(field.name for field in attrs.fields(error.cl))
        return f"unknown {unknown}; known are {known or 'none'}"
    if isinstance(error, KeyError):
        return "is missing"
    if isinstance(error, ValueError | TypeError):
        return str(error)
    return cattrs.v.format_exception(error, kind)


def _place(problem: str) -> str:
    """Turn "reason @ $.vm[0].name" into "vm[0].name: reason"."""
    reason, _, place = problem.rpartition(" @ ")
    place = place.removeprefix("$").removeprefix(".")
    return f"{place}: {reason}" if place else reason


# --- how TOML values become ours --------------------------------------------------------


@lru_cache(maxsize=8)  # cattrs compiles code for it: 5 ms, once for all devices of a file
def _converter(directory: Path) -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True)
    hooks: dict[type, Callable[[Any, Any], object]] = {
        int: _integer,
        bool: _exact(bool, "true or false"),
        str: _exact(str, "a text"),
        Path: lambda value, _: directory / _exact(str, "a path")(value, str),
        Space: lambda value, _: _space(value),
        Policy: lambda value, _: _policy(value),
        Placement: lambda value, _: _placement(value),
    }
    for kind, hook in hooks.items():
        converter.register_structure_hook(kind, hook)
    converter.register_structure_hook_factory(_is_tuple, _array)
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


def _space(value: object) -> Space:
    names = {space.name.lower(): space for space in Space}
    if value not in names:
        raise ValueError(f"{value!r} is no address space; there are {', '.join(names)}")
    return names[str(value)]


def _policy(value: object) -> Policy:
    names = {policy.name.lower(): policy for policy in Policy}
    if value not in names:
        raise ValueError(f"{value!r} is no policy; there are {', '.join(names)}")
    return names[str(value)]


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
        return value
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
