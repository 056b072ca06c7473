"""Disks of a stock QEMU are out of service for a while, in the midst of transfers."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmiod.machine.mark import HookDeadlineExceeded
from tests.functional.stock import Asked, disk, kernel, running, serving

pytestmark = pytest.mark.needs("stock")

TIMES = 4
"""A fifth failure within a minute would not be the last one that is forgiven."""
SCRIPT = """\
dd if=/dev/urandom of=/pattern bs=1M count=1 2>/dev/null
content() {{ for turn in $(seq 32); do cat /pattern; done; }}
content | dd of=/dev/{name} bs=128k iflag=fullblock oflag=direct 2>/dev/null
back() {{ dd if=/dev/{name} bs=128k count=256 iflag=direct 2>/dev/null; }}
[ "$(content | md5sum)" = "$(back | md5sum)" ] && echo same
dmesg | grep -E ' error|timed out|timeout|resetting' | sed 's/^/bad /'
echo finished
"""


@pytest.mark.parametrize("isolation", ["inline", "process"])
@pytest.mark.parametrize(
    ("plugin", "stream", "name", "modules"),
    [
        ("virtio/blk", "image", "vda", ("virtio_blk",)),
        ("pci/nvme", "disk", "nvme0n1", ()),
    ],
    ids=["virtio", "nvme"],
)
async def test_a_guest_goes_on_behind_a_quarantine(
    tmp_path: Path,
    asked: Asked,
    plugin: str,
    stream: str,
    name: str,
    modules: tuple[str, ...],
    isolation: str,
) -> None:
    """Doorbells that came meanwhile and the run that was under way are not lost: what it wrote is there."""
    devices = {
        "disk": {
            "plugin": plugin,
            "slot": "00:11.0",
            "streams": {stream: disk(tmp_path, "disk.img", 64)},
            "isolation": isolation,
        }
    }
    console = tmp_path / "console"
    booted = kernel(tmp_path, SCRIPT.format(name=name), modules)
    machine = ("-machine", "q35", "-accel", "tcg", "-cpu", "max", "-serial", f"file:{console}")
    async with serving(tmp_path, devices) as server:
        host = server.functions["disk"].host
        async with running(tmp_path, *machine, *booted, *await server.arguments()) as qemu:
            for turn in range(TIMES):
                await asked.reaches(10 + 60 * turn, "read", "write")
                host.quarantine(HookDeadlineExceeded())
                await server.wait_for("device_restarted", turn + 1)
            assert 0 == await qemu.ends()
    seen = console.read_text()
    assert "same" in seen
    assert "finished" in seen
    assert "bad " not in seen
    assert TIMES == len(server.of("device_restarted"))
