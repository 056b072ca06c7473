from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmiod import compiled
from tests.parts import need

BOTH_WAYS = ["tests/attach/test_flat.py", "tests/attach/test_shared.py", "tests/trace/test_recorder.py"]
"""What compares the hot path with the general way, or drives it by hand."""
LOADED = """
from mmiod import compiled
from mmiod.core import lane
print(compiled.made() is not None, lane.__file__.endswith(".py"))
"""


def shown(where: Path, **env: str) -> str:
    """Whether the hot path is compiled in a copy of the package, and whether it runs as Python."""
    command = [sys.executable, "-c", LOADED]
    return subprocess.run(
        command, cwd=where, env={**os.environ, "PYTHONPATH": str(where), **env}, text=True,
        capture_output=True, check=True,
    ).stdout.strip()  # fmt: skip


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package, somewhere else."""
    need("headers")
    assert compiled.made() is not None, "`make compiled` has not been run, or not for these sources"
    shutil.copytree(compiled.ROOT / "mmiod", tmp_path / "mmiod", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path


def test_what_was_made_runs_until_a_source_is_edited(copy: Path) -> None:
    """An edit is never ignored, be it of a module, of its types or of the table; nor is a wish for Python."""
    assert "True False" == shown(copy)
    assert "False True" == shown(copy, MMIOD_PURE="1")
    for name in ("core/lane.py", "core/lane.pxd", "compiled.py"):
        path = copy / "mmiod" / name
        before = path.read_text()
        path.write_text(before + "\n# edited\n")
        assert "False True" == shown(copy), name
        path.write_text(before)
    assert "True False" == shown(copy)


def test_all_of_it_is_used_or_none(copy: Path) -> None:
    """A library that is missing leaves Python to all of them: they know each other's layout."""
    folder = copy / "mmiod" / "made" / compiled.digest()
    compiled.library(folder, compiled.MODULES[-1]).unlink()

    assert "False True" == shown(copy)


def test_installation_without_types_runs_as_python(copy: Path) -> None:
    """A packager may leave them out."""
    (copy / "mmiod" / "core" / "lane.pxd").unlink()

    assert "False True" == shown(copy)


def test_two_set_ups_at_once_make_it_once(copy: Path) -> None:
    """The one waits for the other; what another interpreter has there stays, what other sources made goes."""
    shutil.copy(compiled.ROOT / "hatch_build.py", copy)
    table = copy / "mmiod" / "compiled.py"
    only = f'MODULES: Final = ("{compiled.MODULES[0]}",)\n_OTHERS = ('
    table.write_text(table.read_text().replace("MODULES: Final = (", only))
    made = copy / "mmiod" / "made"
    [folder] = made.iterdir()
    command = [sys.executable, "-c", "from mmiod import compiled; print(compiled.digest())"]
    digest = subprocess.run(command, cwd=copy, text=True, capture_output=True, check=True).stdout.strip()
    (made / digest).mkdir()
    (made / digest / "another").touch()

    runs = [subprocess.Popen([sys.executable, "hatch_build.py"], cwd=copy) for _ in range(2)]

    assert [0, 0] == [run.wait() for run in runs]
    assert [made / digest] == list(made.iterdir())
    assert folder.name != digest
    assert {"another", "mmiod"} == {path.name for path in (made / digest).iterdir()}


def test_modules_with_types_are_those_of_the_table() -> None:
    """None is forgotten."""
    typed = (
        path.relative_to(compiled.ROOT).with_suffix("") for path in (compiled.ROOT / "mmiod").rglob("*.pxd")
    )

    assert sorted(compiled.MODULES) == sorted(".".join(path.parts) for path in typed)


def test_hot_path_does_the_same_as_python() -> None:
    """What this run proves of the one, a run beside it proves of the other."""
    other = "0" if compiled.made() is None else "1"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *BOTH_WAYS],
        cwd=compiled.ROOT,
        env={**os.environ, "MMIOD_PURE": other},
        text=True,
        capture_output=True,
        check=False,
    )

    assert 0 == run.returncode, run.stdout[-4000:]
