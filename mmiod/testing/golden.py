"""States that a device has once saved, kept as files: what it must still be able to load.

    test_states = keeps_states("countdown.py", "states")

`python -m mmiod.testing countdown.py states` writes `states/SCHEMA.NUMBER.json` with the state
of now, and its shape: names and types.  Each shape that was ever in use has its file; none is
written twice, and none is changed.  A shape that lacks what an older one of the same `schema`
has, or has it otherwise, needs another `schema`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from enum import IntEnum, IntFlag
from pathlib import Path
from typing import Any, Final, get_args, get_origin, get_type_hints

import attrs
from attrs import frozen

from mmiod.device import Device
from mmiod.machine.document import SCHEMA
from mmiod.machine.plain import TAG
from mmiod.machine.state import save
from mmiod.testing.subject import NAME, Answer
from mmiod.testing.suite import Terms, load

SEEDS: Final = range(8)
"""Of hostile lives: the one that leaves the most is kept."""
PARTS: Final = ("registers", "state", "lines", "inputs")
_BYTES: Final = (bytes, bytearray)
_NUMBERS: Final = (IntEnum, IntFlag)

Shape = dict[str, Any]


@frozen
class Golden:
    """A file: the shape that a class had, and a state of it as SAVE gave it."""

    path: Path
    shape: Shape
    document: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> Golden:
        """Read a file."""
        content = json.loads(path.read_text())
        return cls(path, content["shape"], content["document"])

    @property
    def schema(self) -> int:
        """The class's when it was written."""
        return int(self.document["devices"][NAME]["schema"])


def shape(plugin: type[Device]) -> Shape:
    """The names and types of all that a class saves."""
    return {
        "document": SCHEMA,
        "registers": {name: register.size for name, register in plugin.declared.items()},
        "state": _type(plugin.state_class),
        "lines": dict.fromkeys(_lines(plugin), "bool"),
        "inputs": dict.fromkeys(plugin.input_of, "bool"),
        "timers": dict.fromkeys(plugin.timers, "int"),
        "requests": dict.fromkeys(plugin.services, "int"),
    }


def _lines(plugin: type[Device]) -> Iterator[str]:
    for output in plugin.outputs.values():
        yield from output.names()


def _type(kind: Any) -> object:  # noqa: ANN401
    """A type as JSON has it: what is stored alike is named alike."""
    if attrs.has(kind):
        hints = get_type_hints(kind)
        return {member.name: _type(hints[member.name]) for member in attrs.fields(kind)}
    arguments = [_type(argument) for argument in get_args(kind)]
    if arguments:
        return [getattr(get_origin(kind), "__name__", "|"), *arguments]
    if kind in _BYTES:
        return "bytes"
    return (
        "int" if isinstance(kind, type) and issubclass(kind, _NUMBERS) else getattr(kind, "__name__", "...")
    )


def stored(folder: Path) -> list[Golden]:
    """The files of one device, oldest first."""
    paths = sorted(folder.glob("*.json"), key=lambda path: [int(part) for part in path.stem.split(".")])
    return [Golden.of(path) for path in paths]


def add(terms: Terms, folder: Path) -> Path | None:
    """Write the state of now; None if its shape has a file.

    Raises:
        ValueError: the shape contradicts a file of the same `schema`.
    """
    found = [golden for golden in stored(folder) if golden.schema == terms.plugin.schema]
    for golden in found:
        problem = _contradiction(golden.shape, shape(terms.plugin))
        if problem:
            raise ValueError(f"{golden.path}: {problem}")
    if any(golden.shape == shape(terms.plugin) for golden in found):
        return None
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{terms.plugin.schema}.{len(found) + 1}.json"
    document = max((terms.worn(seed).saved() for seed in SEEDS), key=len)
    content = {"shape": shape(terms.plugin), "document": json.loads(document)}
    with path.open("x") as file:
        file.write(json.dumps(content, indent=1) + "\n")
    return path


def check(terms: Terms, folder: Path) -> None:
    """See that the shape of now has its file, and that every file loads."""
    found = stored(folder)
    assert found, f"{folder} holds no state: write one with `python -m mmiod.testing`"
    for golden in found:
        if golden.schema == terms.plugin.schema:
            problem = _contradiction(golden.shape, shape(terms.plugin))
            assert not problem, f"{golden.path}: {problem}"
        _check_loads(terms, golden)
    assert shape(terms.plugin) in [golden.shape for golden in found], (
        f"{folder} holds no state of this shape: write one with `python -m mmiod.testing`"
    )


def _contradiction(before: Shape, now: Shape) -> str:
    """How a shape cannot take what an older one of the same schema holds; "" if it can."""
    for part in before.keys() - {"document"}:
        name = _lost(before[part], now[part])
        if name:
            return f"{part}.{name} is not as it was; raise `schema` and override `migrate`"
    return ""


def _lost(before: object, now: object) -> str:
    """The first name that is missing or of another type."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name, kind in before.items():
            lost = _lost(kind, now[name]) if name in now else "?"
            if lost:
                return name if lost == "?" else f"{name}.{lost}"
        return ""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return next((lost for pair in zip(before, now, strict=True) if (lost := _lost(*pair))), "")
    return "" if before == now else "?"


def _check_loads(terms: Terms, golden: Golden) -> None:
    """A file loads; with the schema of now all of it is there again, and in any case it stays."""
    first, second = terms.subject(), terms.subject()
    first.restore(json.dumps(golden.document).encode())
    document = save(first.machine)  # before anything that it asks anew is answered
    now = json.loads(document)["devices"][NAME]
    second.restore(document)
    if not first.around.asked:
        assert document == save(second.machine), golden.path
    if golden.schema == terms.plugin.schema:
        before = golden.document["devices"][NAME]
        for part in ("registers", "lines", "inputs") if first.around.asked else PARTS:
            assert _holds(now[part], before[part]), (
                f"{golden.path}: {part}: {before[part]} became {now[part]}"
            )


def _holds(now: object, before: object) -> bool:
    """Whether all that was is there; there may be more names, and bytes are tagged since schema 3."""
    if isinstance(now, dict) and isinstance(before, str):
        return now == {TAG: before}
    if isinstance(now, dict) and isinstance(before, dict):
        return all(name in now and _holds(now[name], value) for name, value in before.items())
    if isinstance(now, list) and isinstance(before, list):
        return len(now) == len(before) and all(map(_holds, now, before))
    return now == before


def keeps_states(
    plugin: type[Device] | Path | str,
    folder: Path | str,
    *,
    config: object | None = None,
    services: Mapping[str, Answer] | None = None,
) -> Callable[[], None]:
    """A test: every state in the folder loads, and the shape of now is among them."""
    kind = plugin if isinstance(plugin, type) else load(Path(plugin))

    def test_states() -> None:
        check(Terms(kind, config, services or {}), Path(folder))

    return test_states
