"""Every bundled device loads what it has ever saved, and its shape of today is on record."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from attrs import define, field

from mmiod.device import Device, IrqOutput, Register, Timer
from mmiod.errors import RestoreError
from mmiod.testing.__main__ import main
from mmiod.testing.golden import Golden, add, check, keeps_states, stored
from mmiod.testing.subject import Subject
from mmiod.testing.suite import Terms
from tests.devices.states import STATES, folder
from tests.devices.subjects import PLUGINS, ROOT, terms

FILES = sorted(STATES.glob("**/*.json"))


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.stem)
def test_a_bundled_device_loads_all_that_it_has_saved(plugin: Path) -> None:
    """`make states` writes the file that is missing; it does not mend a shape that contradicts one."""
    check(terms(plugin), folder(plugin))


def test_no_file_is_without_a_device() -> None:
    """A plugin that moves takes its states along."""
    assert {folder(plugin) for plugin in PLUGINS} == {path.parent for path in FILES}


def test_both_schemas_of_the_document_are_there() -> None:
    """What mmiod wrote before bytes were tagged, too."""
    schemas = {path.stem: Golden.of(path).document["schema"] for path in (STATES / "tpm" / "crb").iterdir()}
    assert {"1.1": 2, "1.2": 3} == schemas


OLD = [path for path in PLUGINS if any(golden.document["schema"] == 2 for golden in stored(folder(path)))]


@pytest.mark.parametrize("plugin", OLD, ids=lambda path: path.stem)
def test_both_documents_of_a_life_are_the_same_state(plugin: Path) -> None:
    """The same life was saved without tags on bytes and with them: the same device comes of it."""
    saved = []
    for golden in stored(folder(plugin))[:2]:
        subject = terms(plugin).subject()
        subject.restore(json.dumps(golden.document).encode())
        saved.append(subject.document()["state"])
    assert saved[0] == saved[1]


# --- what is refused --------------------------------------------------------------------------


@define
class Ticks:
    """How often, and the last few."""

    ticks: int = 0
    last: bytes = b""
    levels: list[int] = field(factory=list)


class Meter(Device):
    """Counts writes."""

    length = 4
    state: Ticks
    irq = IrqOutput()
    late = Timer()
    control = Register(0)
    shown = Register(1, access="r")

    @control.on_write
    def _written(self, value: int) -> None:
        self.state.ticks += 1
        self.state.last = bytes((value,)) * 3
        self.state.levels = [*self.state.levels[-2:], value]
        self.late.set(self.clock.now_ns + 1 + value)
        self.irq.set_level(bool(value & 1))


@define
class More(Ticks):
    """With another field."""

    most: int = 7


class Wider(Meter):
    """The same schema, and one more of each."""

    state: More
    other = Register(2, reset=5)
    alarm = IrqOutput()


@define
class Other:
    """A field became another type."""

    ticks: int = 0
    last: list[int] = field(factory=list)
    levels: list[int] = field(factory=list)


class Retyped(Meter):
    """The same schema, but bytes are numbers."""

    state: Other  # type: ignore[assignment]


class Wide(Meter):
    """The same schema, but a register is larger."""

    length = 8
    shown = Register(4, size=4, access="r")


def renamed(kind: type[Device]) -> type[Device]:
    """The next version of the same plugin has the same name."""
    kind.__name__ = "Meter"
    return kind


for version in (Wider, Retyped, Wide):
    renamed(version)


def test_a_state_of_now_is_written_once(tmp_path: Path) -> None:
    """A shape that has its file gets no other, and a file is never written over."""
    written = add(Terms(Meter), tmp_path)
    assert written == tmp_path / "1.1.json"
    before = written.read_bytes()
    assert add(Terms(Meter), tmp_path) is None
    assert before == written.read_bytes()
    check(Terms(Meter), tmp_path)


def test_a_new_field_with_a_default_needs_a_file_and_no_schema(tmp_path: Path) -> None:
    """Without it the test fails; the old file loads in either case."""
    add(Terms(Meter), tmp_path)
    with pytest.raises(AssertionError, match="no state of this shape"):
        check(Terms(Wider), tmp_path)
    assert tmp_path / "1.2.json" == add(Terms(Wider), tmp_path)
    check(Terms(Wider), tmp_path)


@pytest.mark.parametrize(
    ("plugin", "name"),
    [(Retyped, "state.last"), (Wide, "registers.shown")],
    ids=lambda found: str(found)[-20:],
)
def test_a_changed_shape_needs_a_schema(tmp_path: Path, plugin: type[Device], name: str) -> None:
    """Neither the test nor the command takes it, and both name what is not as it was."""
    add(Terms(Meter), tmp_path)
    with pytest.raises(AssertionError, match=f"{name} is not as it was; raise `schema`"):
        check(Terms(plugin), tmp_path)
    with pytest.raises(ValueError, match=f"{name} is not as it was; raise `schema`"):
        add(Terms(plugin), tmp_path)


def test_what_a_class_lost_needs_a_schema(tmp_path: Path) -> None:
    """The newer class's file does not load in the older one: the name is told."""
    add(Terms(Wider), tmp_path)
    with pytest.raises(
        AssertionError, match=r"other is not as it was|most is not as it was|alarm is not as it was"
    ):
        check(Terms(Meter), tmp_path)
    golden = stored(tmp_path)[0]
    with pytest.raises(
        RestoreError,
        match=r"^devices\.device\.(registers\.other|state\.most|lines\.alarm): the device has none$",
    ):
        Subject(Meter).restore(json.dumps(golden.document).encode())


def test_a_folder_without_files_fails(tmp_path: Path) -> None:
    """A new device needs its first one."""
    with pytest.raises(AssertionError, match="holds no state"):
        check(Terms(Meter), tmp_path)


def test_the_command_writes_what_an_author_checks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for pytest, one command; a second run says that there is nothing to do."""
    plugin = tmp_path / "port92.py"
    shutil.copy(ROOT / "legacy" / "port92.py", plugin)
    states = tmp_path / "states"
    assert 0 == main([str(plugin), str(states)])
    assert f"{states / '1.1.json'}\n" == capsys.readouterr().out
    assert 0 == main([str(plugin), str(states)])
    assert "there is one of this shape\n" == capsys.readouterr().out
    keeps_states(plugin, states)()
    assert 2 == main([])
    plugin.write_text(plugin.read_text().replace("0x92", "0x93").replace("length = 1", "length = 2"))
    path = states / "1.1.json"
    content = json.loads(path.read_text())
    content["shape"]["registers"]["gone"] = 1
    path.write_text(json.dumps(content))
    assert 1 == main([str(plugin), str(states)])
    assert "registers.gone is not as it was" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("none.py", None, "No such file or directory"),
        ("plugin.toml", "x", "plugin.toml is no Python file"),
        ("plugin.py", "", "plugin.py must define one device class; it defines none"),
        ("plugin.py", "class (", "invalid syntax (plugin.py, line 1)"),
        (".", None, "is no Python file"),
    ],
)
def test_the_command_says_what_is_no_plugin(
    tmp_path: Path, name: str, text: str | None, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A sentence and status 1; no state is written."""
    if text is not None:
        (tmp_path / name).write_text(text)
    assert 1 == main([str(tmp_path / name), str(tmp_path / "states")])
    assert words in capsys.readouterr().err
    assert not (tmp_path / "states").exists()
