"""A stock QEMU with a stock Linux on an NVMe controller that is a Python file here."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import structlog

from tests.functional.stock import Asked, disk, interrupts, kernel, running, serving

pytestmark = pytest.mark.needs("stock")

IMAGE_MIB = 160
RELOADS = 20
MACHINE = ("-machine", "q35", "-accel", "tcg", "-cpu", "max")
BAD = "error|Error|timeout|timed out|aborting"

SCRIPT = """\
cat /sys/block/nvme0n1/device/serial
mke2fs -F /dev/nvme0n1 131072 >/dev/null
mount -t ext4 /dev/nvme0n1 /mnt
dd if=/dev/urandom of=/pattern bs=1M count=1 2>/dev/null
content() { for turn in $(seq 64); do cat /pattern; done; }
content > /mnt/file
sync
echo 3 > /proc/sys/vm/drop_caches
[ "$(content | md5sum)" = "$(md5sum < /mnt/file)" ] && echo same
umount /mnt
blkdiscard -o 150994944 -l 8388608 /dev/nvme0n1
dd if=/dev/nvme0n1 bs=1M skip=144 count=8 2>/dev/null | cmp - /dev/zero 2>&1 | grep EOF && echo discarded
mount -t ext4 /dev/nvme0n1 /mnt && ls -l /mnt/file && umount /mnt
dmesg | grep nvme
grep nvme /proc/interrupts
echo finished
"""


def machine(directory: Path) -> dict[str, object]:
    """One controller and its image."""
    return {
        "nvme": {
            "plugin": "pci/nvme",
            "slot": "00:10.0",
            "streams": {"disk": disk(directory, "disk.img", IMAGE_MIB)},
            "config": {"serial": "a-serial"},
        }
    }


def boot(directory: Path, script: str, *options: str, line: str = "") -> list[str]:
    """Arguments for a guest; `line` goes to its kernel."""
    *arguments, default = kernel(directory, script)
    return [*MACHINE, *options, "-serial", f"file:{directory / 'console'}", *arguments, f"{default} {line}"]


@pytest.mark.parametrize(
    ("cpus", "line"), [pytest.param(2, "", id="msi-x"), pytest.param(1, "pci=nomsi", id="intx")]
)
async def test_a_stock_linux_reads_and_writes(tmp_path: Path, asked: Asked, cpus: int, line: str) -> None:
    """Its own driver binds.

    64 MiB in a file system that it made are read back as they were written; discards and flushes
    reach the image; /proc/interrupts says what was told; it is shut down in order.
    """
    arguments = boot(tmp_path, SCRIPT, "-smp", str(cpus), line=line)
    async with serving(tmp_path, machine(tmp_path)) as server:
        nvme = server.functions["nvme"]
        async with running(tmp_path, *arguments, *await server.arguments()) as qemu:
            assert 0 == await qemu.ends()
        seen = (tmp_path / "console").read_text()
        assert "finished" in seen
        assert "same" in seen
        assert "a-serial" in seen
        assert "discarded" in seen
        assert "67108864" in seen
        assert not re.search(BAD, seen)
        assert (True, True) == (asked["discard"] > 0, asked["flush"] > 0)
        if line:
            assert 0 < interrupts(seen, "nvme0q1")
        else:
            assert f"nvme nvme0: {cpus}/0/0 default/read/poll queues" in seen
            assert 0 < interrupts(seen, "nvme0q1") <= nvme.interrupts.told
        await server.wait_for("function_detached", 1)
        assert not server.of("disk_failed")


RELOADED = """\
dd if=/dev/urandom of=/pattern bs=1M count=1 2>/dev/null
content() { for turn in $(seq 48); do cat /pattern; done; }
content | dd of=/dev/nvme0n1 bs=128k iflag=fullblock oflag=direct 2>/dev/null
back() { dd if=/dev/nvme0n1 bs=128k count=384 iflag=direct 2>/dev/null; }
[ "$(content | md5sum)" = "$(back | md5sum)" ] && echo same
dmesg | grep nvme
echo finished
"""


@pytest.mark.usefixtures("slow_images")
async def test_a_disk_is_reloaded_while_a_guest_writes(tmp_path: Path, asked: Asked) -> None:
    """The plugin is loaded anew again and again under direct transfers; the guest does not notice."""
    async with serving(tmp_path, machine(tmp_path)) as server:
        nvme = server.functions["nvme"].host
        async with running(tmp_path, *boot(tmp_path, RELOADED), *await server.arguments()) as qemu:
            under_way, pauses = 0, []
            for turn in range(RELOADS):
                await asked.reaches(1 + 30 * turn, "read", "write")
                under_way += bool(nvme.device.state.session.flight)
                pauses.append((await server.daemon.reloader.reload("nvme")).pause_us / 1000)
            assert 0 == await qemu.ends()
        structlog.get_logger().info("reloaded", disk="nvme", pauses_ms=pauses)
        seen = (tmp_path / "console").read_text()
        assert "finished" in seen
        assert "same" in seen
        assert not re.search(BAD, seen)
        assert (1 + RELOADS, True) == (nvme.generation, under_way > 0)
        assert not server.of("device_quarantined")
