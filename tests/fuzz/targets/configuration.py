"""Any text as mmiod.toml or machine file: a ConfigError whose problems name the file, or a configuration.

A machine file that is in order assembles, or says in a MachineError why it cannot.
"""

from __future__ import annotations

import tempfile
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from mmiod import config
from mmiod.config.examined import examine
from mmiod.config.structuring import converter_for
from mmiod.errors import ConfigError, MachineError, PluginError
from mmiod.machine.assembly import Part, assemble
from mmiod.machine.clock import MachineClock
from mmiod.machine.description import MachineDescription
from tests.fuzz.edits import edited
from tests.fuzz.machines import FOLDER, plugin
from tests.fuzz.reader import Reader, written

_KEPT: Final = tempfile.TemporaryDirectory(prefix="mmiod-fuzz-")
PLACE: Final = Path(_KEPT.name)
FILE: Final = PLACE / "file.toml"
MACHINES: Final = sorted(FOLDER.glob("*.toml"))
for _file in MACHINES:  # so that `extends` finds them
    (PLACE / _file.name).write_text(_file.read_text())
CONVERTER: Final = converter_for(PLACE)
WHOLE: Final = [tomllib.loads(file.read_text()) for file in MACHINES]


def seeds() -> list[bytes]:
    """The files that come with mmiod, a small one, and edits of the large ones."""
    machines = [written(1, file.read_bytes()) for file in MACHINES]
    small = b'extends = "pc.toml"\n[devices.x]\nplugin = "pseudo/debugcon"\nat = { main = "pio:0x403" }\n'
    edits = [written(2, n, 0, step, at, 0, kind, 3) for n in (0, 1) for step in (0, 1, 2) for at in range(4)
             for kind in range(6)]  # fmt: skip
    return [written(0, (FOLDER.parent / "mmiod.toml").read_bytes()), *machines, written(1, small), *edits]


def run(data: bytes) -> None:
    """The first byte says what the rest is."""
    reader = Reader(data)
    reader.pick((_daemon, _machine, _edited))(reader)


def _daemon(reader: Reader) -> None:
    FILE.write_bytes(reader.rest())
    _tried(lambda: config.load(FILE))


def _machine(reader: Reader) -> None:
    FILE.write_bytes(reader.rest())
    description = _tried(lambda: config.load_machine(FILE))
    if isinstance(description, MachineDescription):
        _assemble(description)


def _edited(reader: Reader) -> None:
    """A machine file, changed where text would hardly be hit."""
    tables: Mapping[str, object] = edited(reader.pick(WHOLE), reader)
    if not isinstance(tables, dict):
        return
    tables.pop("extends", None)
    description = _tried(lambda: examine(FILE, tables, MachineDescription, CONVERTER).sound())
    if isinstance(description, MachineDescription):
        _assemble(description)


def _tried(action: Callable[[], object], place: str = str(PLACE)) -> object:
    try:
        return action()
    except ConfigError as error:
        assert error.problems
        assert all(problem.startswith(place) for problem in error.problems), error.problems
    return None


def _assemble(description: MachineDescription) -> None:
    parts: dict[str, Part] = {}
    for name, device in description.devices.items():
        try:
            found = plugin(device.plugin)
        except PluginError:
            return
        settings = _tried(lambda: config.configure(found, device, PLACE), "config")  # noqa: B023
        if settings is None:
            return
        parts[name] = (found, settings)
    clock = MachineClock(lambda: 0, lambda: 0.0)
    try:
        assemble("vm", description, parts, clock, lambda *_, **__: None, lambda _: None)
    except MachineError as error:
        assert error.problems
        assert all(error.problems)
