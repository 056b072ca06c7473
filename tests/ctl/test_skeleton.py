"""`mmioctl plugin new`: what it writes is right as written."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmiod.ctl.__main__ import main

ROOT = Path(__file__).parents[2]
TOOLS = {
    "pytest": ["pytest", "-q", "-p", "no:cacheprovider", "--rootdir", "."],
    "mypy": ["mypy", "--strict", "."],
    # Its folder is no package; all other rules of ours hold.
    "ruff": ["ruff", "check", "--no-cache", "--ignore", "INP001", "."],
    "format": ["ruff", "format", "--no-cache", "--check", "."],
}


@pytest.fixture(scope="module", params=["countdown", "pci_countdown"])
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a new plugin."""
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "pyproject.toml").write_text(f'[tool.ruff]\nextend = "{ROOT}/pyproject.toml"\n')
    options = ["--pci"] if "pci" in request.param else []
    assert main(["plugin", "new", request.param, *options, "--directory", str(folder)]) == 0
    return folder


@pytest.mark.parametrize("tool", TOOLS)
def test_new_plugin_passes(written: Path, tool: str) -> None:
    """Its tests, with the whole contract; types; lint; format."""
    ran = subprocess.run(
        [sys.executable, "-m", *TOOLS[tool]], cwd=written, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_new_plugin_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two files, in a folder that is made."""
    folder = tmp_path / "plugins"
    assert main(["plugin", "new", "my_card", "--directory", str(folder)]) == 0
    assert f"{folder}/my_card.py\n{folder}/test_my_card.py\n" == capsys.readouterr().out
    assert "class MyCard(Device):" in (folder / "my_card.py").read_text()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Card", "'Card': a plugin's name begins with a-z and has a-z, 0-9 and _, 31 at most"),
        ("a-b", "'a-b': a plugin's name"),
        ("../up", "'../up': a plugin's name"),
        ("2nd", "'2nd': a plugin's name"),
        ("x" * 32, "31 at most"),
        ("class", "'class' is taken by Python or by mmiod; choose another name"),
        ("time", "'time' is taken"),
        ("device", "'device' is taken"),
    ],
)
def test_bad_name_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    """With the reason, and nothing is written."""
    assert main(["plugin", "new", name, "--directory", str(tmp_path)]) == 2
    assert reason in capsys.readouterr().err
    assert [] == list(tmp_path.iterdir())


@pytest.mark.parametrize("there", ["card.py", "test_card.py"])
def test_nothing_is_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str], there: str) -> None:
    """One of the files is there: neither is written."""
    (tmp_path / there).write_text("mine")
    assert main(["plugin", "new", "card", "--directory", str(tmp_path)]) == 2
    assert f"{tmp_path / there} exists already" in capsys.readouterr().err
    assert [(there, "mine")] == [(path.name, path.read_text()) for path in tmp_path.iterdir()]


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file stands in its way."""
    (tmp_path / "plugins").write_text("")
    assert main(["plugin", "new", "card", "--directory", str(tmp_path / "plugins")]) == 2
    assert f"{tmp_path / 'plugins'}: File exists" in capsys.readouterr().err
