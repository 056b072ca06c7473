"""Plugins of installed distributions: found by name, without a line of them being executed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mmiod.errors import PluginError
from mmiod.plugins.loader import find, load

PLUGIN = """\
from mmiod.device import Device


class Nic(Device):
    length = 1
"""


def install(site: Path, distribution: str, points: str, **files: str) -> None:
    """Put a distribution where Python finds it."""
    info = site / f"{distribution}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[mmiod.devices]\n{points}\n")
    for name, text in files.items():
        path = site / f"{name.replace('__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture(name="site")
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    return site


def test_entry_point_names_a_module(site: Path) -> None:
    """In a package whose own code would fail: it is found and loaded, the package is not imported."""
    install(site, "acme", "acme/nic = acme_devices.nic", acme_devices__nic=PLUGIN)
    (site / "acme_devices" / "__init__.py").write_text("1 / 0\n")
    assert site / "acme_devices" / "nic.py" == find("acme/nic", [])
    assert "Nic" == load("acme/nic", []).__name__
    assert "acme_devices" not in sys.modules


@pytest.mark.parametrize("module", ["nic_of_one_file", "nic_package", "folder.nic_package"])
def test_module_may_be_a_file_or_a_package(site: Path, module: str) -> None:
    """At the top or below."""
    path = site / module.replace(".", "/")
    if "package" in module:
        path.mkdir(parents=True)
        path = path / "__init__"
    path.with_suffix(".py").write_text(PLUGIN)
    install(site, "acme", f"nic = {module}")
    assert path.with_suffix(".py") == find("nic", [])


def test_own_directory_wins(site: Path, tmp_path: Path) -> None:
    """A file in a plugin directory hides what is installed."""
    install(site, "acme", "nic = nic_of_acme", nic_of_acme=PLUGIN)
    (tmp_path / "nic.py").write_text(PLUGIN)
    assert tmp_path / "nic.py" == find("nic", [tmp_path])


def test_two_distributions_of_one_plugin_are_refused(site: Path) -> None:
    """Both are named, with what helps."""
    for name in ("acme", "zenith"):
        install(site, name, f"nic = nic_of_{name}", **{f"nic_of_{name}": PLUGIN})
    with pytest.raises(PluginError, match="plugin nic: acme and zenith both have one; uninstall one, or put"):
        find("nic", [])


@pytest.mark.parametrize("value", ["no_such_module", "acme_devices.none", "acme_devices.nic:Nic"])
def test_entry_point_that_leads_nowhere_is_refused(site: Path, value: str) -> None:
    """It says whose it is."""
    install(site, "acme", f"nic = {value}", acme_devices__nic=PLUGIN)
    with pytest.raises(PluginError) as raised:
        find("nic", [])
    assert f"plugin nic: acme says {value}, which is no module there" == str(raised.value)
