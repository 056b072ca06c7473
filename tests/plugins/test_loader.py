"""Plugins: found by name, loaded anew, and refused with file and line."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmiod.errors import PluginError
from mmiod.plugins.loader import bundled_directories, find, load

GOOD = """\
from mmiod.device import Device


class Cell(Device):
    length = {length}
"""


def written(directory: Path, name: str, text: str) -> Path:
    """A plugin's file."""
    path = directory / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture(autouse=True)
def _modules() -> Iterator[None]:
    """What a test loads does not stay."""
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("mmiod_plugin_"):
            del sys.modules[name]


def loaded() -> set[str]:
    """The modules of plugins."""
    return {name for name in sys.modules if name.startswith("mmiod_plugin_")}


def refusal(name: str, *directories: Path) -> str:
    """Why a plugin is not loaded; nothing of it stays behind."""
    before = loaded()
    with pytest.raises(PluginError) as raised:
        load(name, directories)
    assert before == loaded()
    return str(raised.value)


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("x = 1\nclass Cell(\n", 2, "SyntaxError: '(' was never closed"),
        ("\n\nimport no_such_module\n", 3, "ModuleNotFoundError: No module named 'no_such_module'"),
        ("x = 1\ny = x / 0\n", 2, "ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)\n", 2, "SystemExit: 3"),
        ("import json\n\njson.loads('x')\n", 3, "JSONDecodeError: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_error_is_told_with_file_and_line(tmp_path: Path, text: str, line: int, reason: str) -> None:
    """Syntax, import, exception: the place in the plugin's own file, not in a library."""
    path = written(tmp_path, "cell.py", text)
    assert f"plugin cell: {path}:{line}: {reason}" == refusal("cell", tmp_path)


def test_syntax_error_of_a_file_that_is_not_the_plugins_keeps_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line is that of the import; where the mistake is, only the error says."""
    written(tmp_path, "lib/no_plugin_of_ours.py", "\n(\n")
    monkeypatch.syspath_prepend(tmp_path / "lib")
    path = written(tmp_path, "cell.py", "import no_plugin_of_ours\n")
    reason = "SyntaxError: '(' was never closed (no_plugin_of_ours.py, line 2)"
    assert f"plugin cell: {path}:1: {reason}" == refusal("cell", tmp_path)


def test_folder_is_not_proposed_for_a_plugin_that_is_not_there(tmp_path: Path) -> None:
    """Whatever it is called."""
    (tmp_path / "cell.py").mkdir()
    assert f"plugin cell: not found in {tmp_path}" == refusal("cell", tmp_path)


def test_wrong_declaration_is_told(tmp_path: Path) -> None:
    """A class that the SDK refuses: its own reason, at the class."""
    text = GOOD.format(length=1) + "    a = Register(0)\n    b = Register(0)\n"
    path = written(tmp_path, "cell.py", text.replace("import Device", "import Device, Register"))
    assert refusal("cell", tmp_path).startswith(
        f"plugin cell: {path}:4: DeclarationError: b and a both claim reads at offset 0x0"
    )


def test_other_api_is_refused(tmp_path: Path) -> None:
    """`API` says for which contract a plugin is written."""
    path = written(tmp_path, "cell.py", "API = 2\n" + GOOD.format(length=1))
    assert f"plugin cell: {path}: it is written for API 2; this mmiod has API 1" == refusal("cell", tmp_path)
    written(tmp_path, "cell.py", "API = 1\n" + GOOD.format(length=1))
    assert "Cell" == load("cell", [tmp_path]).__name__


def test_other_api_is_the_reason_where_a_name_is_missing(tmp_path: Path) -> None:
    """It is checked before the file runs: what another version has is not called unknown."""
    text = "from typing import Final\nfrom mmiod.device import Newer\nAPI: Final = 2\n"
    path = written(tmp_path, "cell.py", text)
    assert f"plugin cell: {path}: it is written for API 2; this mmiod has API 1" == refusal("cell", tmp_path)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from mmiod.device import Device\n", "none"),
        (GOOD.format(length=1) + "class Other(Device):\n    length = 1\n", "Cell, Other"),
    ],
)
def test_one_device_class_is_wanted(tmp_path: Path, text: str, found: str) -> None:
    """What is imported does not count."""
    path = written(tmp_path, "cell.py", text)
    reason = f"it must define one device class; it defines {found}"
    assert f"plugin cell: {path}: {reason}" == refusal("cell", tmp_path)


def test_package_is_a_plugin(tmp_path: Path) -> None:
    """A folder with __init__.py may import its own modules."""
    written(tmp_path, "net/nic/registers.py", "LENGTH = 12\n")
    text = "from .registers import LENGTH\n" + GOOD.format(length="LENGTH")
    written(tmp_path, "net/nic/__init__.py", text)
    assert 12 == load("net/nic", [tmp_path]).length


def test_package_that_fails_leaves_no_module(tmp_path: Path) -> None:
    """Not its own modules either; the line is that of the import, and of a broken module itself."""
    written(tmp_path, "nic/good.py", "")
    path = written(tmp_path, "nic/__init__.py", "from . import good\n\n1 / 0\n")
    assert refusal("nic", tmp_path).startswith(f"plugin nic: {path}:3: ZeroDivisionError")
    bad = written(tmp_path, "nic/bad.py", "\n(\n")
    written(tmp_path, "nic/__init__.py", "from . import bad\n")
    assert f"plugin nic: {bad}:2: SyntaxError: '(' was never closed" == refusal("nic", tmp_path)


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        "../cell",
        "a/../cell",
        "/cell",
        "cell/",
        "a//cell",
        "cell.py",
        "ce ll",
        "cell\n",
        "a\\cell",
        "~",
    ],
)
def test_name_that_leaves_the_directory_is_refused(tmp_path: Path, name: str) -> None:
    """Names are words; nothing is looked for."""
    written(tmp_path, "cell.py", GOOD.format(length=1))
    written(tmp_path, "plugins/x.py", GOOD.format(length=1))
    assert f"plugin {name!r}: a name is words of letters, digits and _ with / between them" == refusal(
        name, tmp_path / "plugins"
    )


def test_first_directory_wins(tmp_path: Path) -> None:
    """A plugin of one's own hides a bundled one of that name; a file hides a package beside it."""
    one, two = tmp_path / "one", tmp_path / "two"
    written(two, "cell.py", GOOD.format(length=2))
    assert two / "cell.py" == find("cell", [one, two])
    written(one, "cell/__init__.py", GOOD.format(length=1))
    assert 1 == load("cell", [one, two]).length
    written(one, "cell.py", GOOD.format(length=3))
    assert 3 == load("cell", [one, two]).length


def test_missing_plugin_says_where_it_was_looked_for(tmp_path: Path) -> None:
    """All directories, in order."""
    two = tmp_path / "two"
    assert f"plugin a/b: not found in {tmp_path}, {two}" == refusal("a/b", tmp_path, two)
    assert "plugin a: not found in no directory" == refusal("a")


def test_each_load_is_a_module_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit of the same length within the same second is seen; what was loaded stays as it is."""
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    path = written(tmp_path, "cell.py", GOOD.format(length=1))
    first = load("cell", [tmp_path])
    path.write_text(GOOD.format(length=2))
    second = load("cell", [tmp_path])
    assert (1, 2) == (first.length, second.length)
    assert first.__module__ != second.__module__
    assert first is getattr(sys.modules[first.__module__], "Cell")  # noqa: B009
    assert [] == list(tmp_path.rglob("*.pyc"))


def test_bundled_plugins_are_found() -> None:
    """The ones that come with mmiod."""
    assert "Uart16550" == load("legacy/uart16550", bundled_directories()).__name__


HOOKS = """\
from mmiod.device import Device, IrqInputs, Register, Stream, Timer


class Cell(Device):
    length = 4
    ir = IrqInputs(2)
    tick = Timer()
    serial = Stream()
    a = Register(0)

    @{hook}
    def _hook({parameters}):
        pass
"""


@pytest.mark.parametrize(
    ("hook", "parameters", "count"),
    [
        ("a.value", "self, value", 0),
        ("a.on_read", "self, offset, size", 0),
        ("a.on_write", "self", 1),
        ("a.on_write_batch", "self", 1),
        ("ir.on_change", "self, level", 2),
        ("tick.on_fire", "self, now", 0),
        ("serial.on_receive", "self, *, data", 1),
        ("serial.room", "self, count", 0),
    ],
)
def test_hook_with_wrong_parameters_is_told(tmp_path: Path, hook: str, parameters: str, count: int) -> None:
    """At load, with the line of the hook."""
    path = written(tmp_path, "cell.py", HOOKS.format(hook=hook, parameters=parameters))
    told = refusal("cell", tmp_path)
    assert told.startswith(f"plugin cell: {path}:11: {hook.partition('.')[0]}.")
    assert told.endswith(f": _hook({parameters}) is called with {count} arguments")


def test_overridden_method_with_wrong_parameters_is_told(tmp_path: Path) -> None:
    """Methods of the SDK, too; parameters with defaults are fine."""
    method = "\n    def on_reset(self, cold: bool) -> None:\n        pass\n"
    path = written(tmp_path, "cell.py", GOOD.format(length=1) + method)
    assert refusal("cell", tmp_path) == (
        f"plugin cell: {path}:7: on_reset: on_reset(self, cold: 'bool') -> 'None' is called with 0 arguments"
    ).replace("'", "")
    written(tmp_path, "cell.py", GOOD.format(length=1) + method.replace("cold: bool", "cold: bool = True"))
    assert "Cell" == load("cell", [tmp_path]).__name__
