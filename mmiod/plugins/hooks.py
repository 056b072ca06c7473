"""Hooks whose parameters do not fit: found when a plugin is loaded, not at the guest's first access."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from itertools import chain
from typing import Final

from mmiod.device import Device

Hook = tuple[str, int, str]
"""A method's name, how many arguments it is given, and for what."""

METHODS: Final = {
    "reset": 0,
    "on_reset": 0,
    "on_restore": 0,
    "on_reload": 0,
    "on_restart": 0,
    "announced": 0,
    "inspect": 0,
}
TIER_1: Final = {"read": 2, "write": 3}
DECLARED: Final = {
    "declared": {"getter": 0, "reader": 0, "writer": 1, "batch_reader": 1, "batch_writer": 1},
    "regions": {"reader": 2, "writer": 3, "batch_reader": 4, "batch_writer": 4, "queue": 2},
    "timers": {"fire": 0},
    "works": {"hook": 0},
    "streams": {"receive": 1, "capacity": 0},
    "services": {"reply": 2, "failure": 2},
    "outputs": {"acknowledge": 0},
    "input_lines": {"change": 1},
}
"""By attribute of a device class: which of a declaration's attributes name a hook."""


def misfits(plugin: type[Device]) -> Iterator[tuple[str, object]]:
    """What is wrong with the hooks of a class, in words, each with its function."""
    plain = [(name, count, name) for name, count in (METHODS | TIER_1).items()]
    for name, count, purpose in chain(plain, _declared(plugin)):
        function = getattr(plugin, name, None)
        if not callable(function):
            yield f"{purpose}: {plugin.__name__} has no method {name}", plugin
        elif not _takes(function, count):
            yield f"{purpose}: {name}{inspect.signature(function)} is called with {count} arguments", function


def _declared(plugin: type[Device]) -> Iterator[Hook]:
    for collection, attributes in DECLARED.items():
        for declared in getattr(plugin, collection).values():
            more = len(getattr(declared, "index", ())) + (
                hasattr(declared, "count") and "change" in attributes
            )
            for attribute, count in attributes.items():
                name = getattr(declared, attribute, None)
                if name is not None:
                    yield name, count + more, f"{declared.name}.{attribute}"


def _takes(function: object, count: int) -> bool:
    """Whether a function takes a device and so many arguments by position."""
    try:
        signature = inspect.signature(function)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return True  # of C code: it will say so itself
    try:
        signature.bind(*[None] * (count + 1))
    except TypeError:
        return False
    return True
