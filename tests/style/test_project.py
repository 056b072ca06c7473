"""The files that hold the house together agree with each other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PYPROJECT = (ROOT / "pyproject.toml").read_text()
SETTINGS = tomllib.loads(PYPROJECT)
LOCK = (ROOT / "requirements.lock").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
BUNDLED = SETTINGS["tool"]["hatch"]["build"]["targets"]["wheel"]["sources"]


def test_every_ignored_rule_has_its_reason() -> None:
    """Each rule that ruff ignores stands on its own line, beside the reason."""
    lint = SETTINGS["tool"]["ruff"]["lint"]
    ignored = sorted([*lint["ignore"], *chain(*lint["per-file-ignores"].values())])

    explained = re.findall(r'^    "([A-Z]+\d*)", +# \w.{8,}$', PYPROJECT, re.MULTILINE)

    assert ignored == sorted(explained)


def test_lock_satisfies_the_project() -> None:
    """Each dependency, of each extra, is locked at a version that pyproject.toml allows."""
    project = SETTINGS["project"]
    wanted = [Requirement(text) for text in chain(project["dependencies"], *extras())]
    locked = dict(re.findall(r"^([a-z\d-]+)==([^ ]+)", LOCK, re.MULTILINE))

    unmet = [str(one) for one in wanted if locked.get(one.name, "") not in one.specifier]

    assert unmet == []


def extras() -> list[list[str]]:
    """The requirements of each extra, but for the extras that it includes."""
    groups = SETTINGS["project"]["optional-dependencies"].values()
    return [[text for text in group if not text.startswith("mmiod[")] for group in groups]


def test_lock_names_no_index() -> None:
    """A lock holds for every mirror: it has names, versions and hashes, and no address."""
    assert "://" not in LOCK


def test_make_help_lists_what_people_type() -> None:
    """`make` alone prints each target that has a line of its own to explain it."""
    shown = subprocess.run(
        ["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert re.findall(r"^([a-z]+):.*##", MAKEFILE, re.MULTILINE) == re.findall(
        r"^([a-z]+) ", shown.stdout, re.MULTILINE
    )


def test_documents_name_targets_that_exist() -> None:
    """Each `make target` in README and docs is in the Makefile."""
    text = "\n".join(page.read_text() for page in [ROOT / "README.md", *ROOT.glob("docs/*.md")])
    named = set(re.findall(r"(?:`|^ *\$? ?)make ([a-z]+)", text, re.MULTILINE))

    missing = named - set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))

    assert {"test", "demo"} <= named
    assert set() == missing


def test_wheel_holds_what_an_installed_copy_needs(tmp_path: Path) -> None:
    """Plugins, configuration, units and the C header travel in the wheel, each at its place."""
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", tmp_path],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    files = [(folder, file) for folder in BUNDLED for file in tracked(folder)]
    expected = {f"{BUNDLED[folder]}/{file.relative_to(ROOT / folder)}" for folder, file in files}

    (wheel,) = tmp_path.glob("*.whl")

    assert set() == expected - set(zipfile.ZipFile(wheel).namelist())
    assert set(BUNDLED) == {folder for folder, _ in files}
    assert "1 VMs, 0 attached" in installed(wheel, tmp_path / "site").stdout


def installed(wheel: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """What `mmiod check-config` of an installed copy says of a VM that is the bundled PC."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    config = site / "mmiod.toml"
    config.write_text('[[vm]]\nname = "vm"\nmachine = "pc"\nsocket = "exit"\n')
    command = [sys.executable, "-m", "mmiod", "check-config", "--config", str(config)]
    return subprocess.run(
        command,
        cwd=site,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )


def tracked(folder: str) -> list[Path]:
    """A folder's files, without what running them left behind."""
    return [file for file in (ROOT / folder).rglob("*") if file.is_file() and "__pycache__" not in file.parts]
