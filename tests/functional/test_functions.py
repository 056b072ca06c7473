"""The daemon's vfio-user sockets, from configuration to `mmioctl`, without QEMU."""

from __future__ import annotations

import gc
import json
import os
import sys
import weakref
from pathlib import Path

import pytest
import trio

from mmiod import config, daemon
from mmiod.errors import ConfigError
from tests.attach.functions import Client, Reply
from tests.attach.peers import sealed
from tests.functional.boots import ROOT
from tests.functional.stock import serving

UART = {"plugin": "pci/uart", "slot": "00:10.0"}


async def mmioctl(directory: Path, *arguments: str) -> str:
    """What it prints."""
    command = [sys.executable, "-m", "mmiod.ctl", "--socket", str(directory / "control"), *arguments]
    done = await trio.run_process(command, capture_stdout=True, cwd=ROOT)
    return done.stdout.decode()


async def test_who_is_attached_can_be_asked(tmp_path: Path) -> None:
    """`mmioctl functions` shows sockets, places, clients and memory; sockets go with the daemon."""
    devices = {"uart": UART, "express": {"plugin": "pci/testdev_express"}}
    async with serving(tmp_path, devices) as server:
        sockets = {name: tmp_path / "functions" / name for name in devices}
        with trio.socket.socket(trio.socket.AF_UNIX) as sock:
            await sock.connect(str(sockets["uart"]))
            client = Client(sock)
            answer: Reply = await client.hello()
            assert not answer.failed
            with sealed(1 << 20) as memory:
                await client.map(0, 1 << 20, memory)
            found = json.loads(await mmioctl(tmp_path, "--json", "functions"))["functions"]
            assert [
                ("uart", str(sockets["uart"]), "00:10.0", False, 1 << 20),
                ("express", str(sockets["express"]), None, True, 0),
            ] == [tuple(one[key] for key in ("device", "socket", "slot", "msix", "memory")) for one in found]
            assert [os.getpid(), None] == [one["client"] for one in found]
            assert "1 attached" in server.daemon.status()
    assert not [path for path in sockets.values() if path.exists()]


async def test_nothing_of_a_daemon_outlives_it(tmp_path: Path) -> None:
    """In a process that goes on: the next collection takes its machine, and with that its descriptors."""
    async with serving(tmp_path, {"shared": {"plugin": "pci/ivshmem"}}) as server:
        machine = weakref.ref(server.daemon.machines["guest"])
    del server
    gc.collect()
    assert machine() is None


@pytest.mark.parametrize(
    ("devices", "problem"),
    [
        (
            '[devices.com1]\nplugin = "legacy/uart16550"\nat = { ports = "pio:0x3f8" }\n',
            "guest.toml: devices.com1: legacy/uart16550 is no PCI function",
        ),
    ],
)
def test_what_vfio_user_does_not_reach_is_refused(tmp_path: Path, devices: str, problem: str) -> None:
    """Before anything starts, with the file and the device."""
    (tmp_path / "guest.toml").write_text(devices)
    path = tmp_path / "mmiod.toml"
    path.write_text(
        '[daemon]\ncontrol = "control"\n[[vm]]\nname = "guest"\nmachine = "guest.toml"\n'
        'protocol = "vfio-user"\nsocket = "functions"\n'
    )
    with pytest.raises(ConfigError) as raised:
        daemon.build(config.load(path))
    [told] = raised.value.problems
    assert told.startswith(f"{tmp_path}/{problem}")


def test_only_vfio_user_maps_storage(tmp_path: Path) -> None:
    """On the exit protocol's PCI bus `mmap = true` is a mistake."""
    (tmp_path / "guest.toml").write_text(
        '[devices.shared]\nplugin = "pci/ivshmem"\nslot = "00:05.0"\nmmap = true\n'
    )
    path = tmp_path / "mmiod.toml"
    path.write_text(
        '[daemon]\ncontrol = "control"\n[[vm]]\nname = "guest"\nmachine = "guest.toml"\nsocket = "vm"\n'
    )
    with pytest.raises(ConfigError, match=r"guest.toml: devices.shared.mmap: only by vfio-user") as raised:
        daemon.build(config.load(path))
    assert 1 == len(raised.value.problems)


def test_the_bundled_machine_is_in_order() -> None:
    """config/machines/qemu-serial.toml is what docs/qemu.md says."""
    described = config.load_machine(ROOT / "config" / "machines" / "qemu-serial.toml")
    assert {"uart": "pci/uart", "pvpanic": "pci/pvpanic"} == {
        name: device.plugin for name, device in described.devices.items()
    }
