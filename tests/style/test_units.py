"""The files that systemd reads."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
INSTANCES = ["mmiod.service", "mmiod.socket", "mmiod-control.socket", "mmiod@vm1.socket"]

pytestmark = pytest.mark.needs("systemd")


@pytest.fixture(name="units")
def _units(tmp_path: Path) -> Path:
    """The units as installed, but for the program: the one of this environment."""
    program = str(Path(sys.executable).with_name("mmiod"))
    for unit in [*UNITS.glob("*.service"), *UNITS.glob("*.socket")]:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/bin/mmiod", program))
    return tmp_path


def run(*command: str | Path, cwd: Path) -> str:
    """What a command prints; it must succeed."""
    done = subprocess.run(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_units_are_valid(units: Path) -> None:
    """`systemd-analyze verify` has nothing to say about any unit."""
    assert run("systemd-analyze", "verify", "--man=no", *INSTANCES, cwd=units) == ""


def test_service_is_confined(units: Path) -> None:
    """The exposure level is 0.5 of 10 at most: no capability, network, device or writable system."""
    run("systemd-analyze", "security", "--offline=true", "--threshold=5", "mmiod.service", cwd=units)


def test_account_is_the_one_that_the_units_name(tmp_path: Path) -> None:
    """The account and group that sysusers makes are those of the service and its sockets."""
    (tmp_path / "etc").mkdir()

    run("systemd-sysusers", f"--root={tmp_path}", UNITS / "mmiod.sysusers", cwd=tmp_path)

    users, groups = (names(tmp_path / "etc" / file) for file in ("passwd", "group"))
    text = "\n".join(unit.read_text() for unit in UNITS.iterdir())
    assert set(re.findall(r"^User=(.+)", text, re.MULTILINE)) == users
    assert set(re.findall(r"^(?:Socket)?Group=(.+)", text, re.MULTILINE)) == groups


def names(database: Path) -> set[str]:
    """The names in a passwd or group file."""
    return {line.partition(":")[0] for line in database.read_text().splitlines()}


def test_folder_of_the_sockets_is_the_groups(tmp_path: Path) -> None:
    """The sockets' folder is there from boot on, open to the group and closed to others."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/passwd").write_text(f"mmiod:x:{os.getuid()}:{os.getgid()}::/:/bin/false\n")
    (tmp_path / "etc/group").write_text(f"mmiod:x:{os.getgid()}:\n")

    run("systemd-tmpfiles", "--create", f"--root={tmp_path}", UNITS / "mmiod.tmpfiles", cwd=tmp_path)

    assert (tmp_path / "run/mmiod").stat().st_mode & 0o7777 == 0o750
