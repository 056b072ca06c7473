"""Backends of all VMs together: what two of them cannot share is found before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmiod import config, daemon
from mmiod.errors import ConfigError

UART = """\
[devices.uart{number}]
plugin = "legacy/uart16550"
at = {{ ports = "pio:{port:#x}" }}
streams = {{ serial = "{spec}" }}
"""


def configured(directory: Path, first: str, second: str) -> Path:
    """Two VMs of one machine file with two UARTs."""
    machine = UART.format(number=0, port=0x3F8, spec=first) + UART.format(number=1, port=0x2F8, spec=second)
    (directory / "pc.toml").write_text(machine)
    path = directory / "mmiod.toml"
    path.write_text(
        '[daemon]\ncontrol = "control"\n'
        '[[vm]]\nname = "one"\nmachine = "pc.toml"\nsocket = "one.exit"\n'
        '[[vm]]\nname = "two"\nmachine = "pc.toml"\nsocket = "two.exit"\n'
    )
    return path


@pytest.mark.parametrize(
    ("first", "second", "contended"),
    [
        ("stdio", "null", ["two/uart0.serial: stdio is one/uart0.serial's already"]),
        (
            "unix:a-{vm}",
            "unix:a-{vm}",
            [
                "one/uart1.serial: unix:{here}/a-one is one/uart0.serial's already",
                "two/uart1.serial: unix:{here}/a-two is two/uart0.serial's already",
            ],
        ),
        ("pty:console", "pty", ["two/uart0.serial: pty:{here}/console is one/uart0.serial's already"]),
    ],
)
def test_what_two_backends_cannot_share_is_refused(
    tmp_path: Path, first: str, second: str, contended: list[str]
) -> None:
    """Both owners are named."""
    with pytest.raises(ConfigError) as refused:
        daemon.build(config.load(configured(tmp_path, first, second)))
    assert [text.format(here=tmp_path) for text in contended] == refused.value.problems


@pytest.mark.parametrize("spec", ["pty", "log", "file:x", "unix:{vm}-{device}", "pty:{vm}-{device}"])
def test_what_can_be_shared_is_not(tmp_path: Path, spec: str) -> None:
    """Names of VM and device part the paths; logs and files take everybody's."""
    built = daemon.build(config.load(configured(tmp_path, spec, spec)))
    assert 4 == len([lane for task in built.device_tasks.values() for lane in task.streams])


def test_every_wrong_backend_is_reported(tmp_path: Path) -> None:
    """The machine file, the device and what there is."""
    with pytest.raises(ConfigError) as refused:
        daemon.build(config.load(configured(tmp_path, "tcp:1", "file:")))
    first, second = refused.value.problems
    assert first.startswith(
        f"{tmp_path}/pc.toml: devices.uart0: stream serial = 'tcp:1': a backend is null, log"
    )
    assert second.startswith(f"{tmp_path}/pc.toml: devices.uart1: stream serial = 'file:': a backend is null")
