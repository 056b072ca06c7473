"""A stock QEMU with a stock Linux on an NVMe controller that is a Python file here."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest
import trio
from attrs import define, field

from mmiod.core.ports import RequestQueue, Signal
from tests.functional.stock import PATIENCE_S, interrupts, kernel, running, serving

pytestmark = pytest.mark.needs("stock")

MIB = 1 << 20
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


@define(eq=False)
class Asked:
    """How often images are asked for what."""

    kinds: Counter[str] = field(factory=Counter)
    changed: Signal = field(factory=Signal)

    async def transfers(self, count: int) -> None:
        """Wait until there were so many reads and writes."""
        with trio.fail_after(PATIENCE_S):
            while self.kinds["read"] + self.kinds["write"] < count:
                await self.changed.wait()


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What images are asked for."""
    found, ask = Asked(), RequestQueue.ask

    def noted(queue: RequestQueue, number: int, kind: str, data: bytes) -> None:
        found.kinds[kind] += 1
        found.changed.set()
        ask(queue, number, kind, data)

    monkeypatch.setattr(RequestQueue, "ask", noted)
    return found


def machine(directory: Path) -> dict[str, object]:
    """One controller and its image."""
    with (directory / "disk.img").open("wb") as image:
        image.truncate(IMAGE_MIB * MIB)
    return {
        "nvme": {
            "plugin": "pci/nvme",
            "slot": "00:10.0",
            "streams": {"disk": "block:disk.img"},
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
        assert (True, True) == (asked.kinds["discard"] > 0, asked.kinds["flush"] > 0)
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


async def test_a_disk_is_reloaded_while_a_guest_writes(tmp_path: Path, asked: Asked) -> None:
    """The plugin is loaded anew again and again under direct transfers; the guest does not notice."""
    async with serving(tmp_path, machine(tmp_path)) as server:
        nvme = server.functions["nvme"].host
        async with running(tmp_path, *boot(tmp_path, RELOADED), *await server.arguments()) as qemu:
            under_way = 0
            for turn in range(RELOADS):
                await asked.transfers(1 + 30 * turn)
                under_way += bool(nvme.device.state.session.flight)
                await server.daemon.reloader.reload("nvme")
            assert 0 == await qemu.ends()
        seen = (tmp_path / "console").read_text()
        assert "finished" in seen
        assert "same" in seen
        assert not re.search(BAD, seen)
        assert (1 + RELOADS, True) == (nvme.generation, under_way > 0)
        assert not server.of("device_failed")
