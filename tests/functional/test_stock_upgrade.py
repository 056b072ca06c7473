"""Stock QEMU with a stock Linux, whose devices' daemon executes itself anew meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest
import structlog
import trio

from tests.functional.boots import dial
from tests.functional.stock import MEMORY, PATIENCE_S, Qemu, kernel, running
from tests.functional.upgrades import MMIOD, Served, serving

pytestmark = pytest.mark.needs("stock")

UPGRADES = 5
SERIAL = {"plugin": "pci/uart", "slot": "00:10.0", "streams": {"serial": "unix:serial"}}
SCRIPT = """\
exec 3<>/dev/ttyS1
stty -F /dev/ttyS1 raw -echo
echo "hello from the guest" >&3
while read -r line <&3; do
    [ "$line" = end ] && break
    echo "guest heard: $line" >&3
done
seq 1 3000 >&3
dmesg -l err,warn,crit,alert,emerg | grep -i "tty\\|serial\\|00:10.0\\|vfio" && echo "kernel complains"
grep ttyS1 /proc/interrupts
"""


async def test_a_stock_linux_keeps_its_uart(tmp_path: Path) -> None:
    """Text goes both ways before, between and after; what the guest sends meanwhile is complete."""
    console = tmp_path / "console"
    booted = (
        *("-machine", "q35", "-accel", "tcg", "-cpu", "max", "-serial", f"file:{console}"),
        *kernel(tmp_path, SCRIPT),
    )
    async with serving(tmp_path, {"uart": SERIAL}, MMIOD) as served:
        arguments = await served.qemu_arguments(MEMORY)
        async with (
            running(tmp_path, *booted, *arguments) as qemu,
            await dial(tmp_path / "serial") as terminal,
        ):
            lines = Lines(terminal, qemu)
            assert "hello from the guest" == await lines.next()
            for text in ("one", "x" * 200, *(f"turn {turn}" for turn in range(UPGRADES - 2))):
                await served.upgrade()
                await terminal.send_all(f"{text}\n".encode())
                assert f"guest heard: {text}" == await lines.next()
            await terminal.send_all(b"end\n")
            for number in range(1, 3001):
                if number == 1000:
                    await served.upgrade()
                assert str(number) == await lines.next()
            assert 0 == await qemu.ends()
            assert "" == qemu.errors.read_text()
        assert UPGRADES + 1 == len(served.events("daemon_upgraded"))
        assert 1 == len(served.events("function_attached"))
        assert not served.events("message_refused")
        assert "kernel complains" not in console.read_text()


class Lines:
    """What the guest sends, line by line."""

    def __init__(self, terminal: trio.SocketStream, qemu: Qemu) -> None:
        self.terminal, self.qemu, self.rest = terminal, qemu, b""

    async def next(self) -> str:
        """The next one."""
        with trio.fail_after(PATIENCE_S):
            while b"\n" not in self.rest:
                more = await self.terminal.receive_some()
                assert more, self.qemu.errors.read_text()
                self.rest += more
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode()


MIB = 1 << 20
WRITTEN_MIB = 32
DISK = """\
dd if=/dev/urandom of=/pattern bs=1M count=1 2>/dev/null
until [ "$line" = stop ]; do
    for turn in $(seq 32); do
        at="bs=1M seek=$((turn - 1)) count=1"
        dd if=/pattern of=$disk $at oflag=direct 2>/dev/null || echo "write fails"
    done
    sync
    echo "written"
    for turn in $(seq 32); do
        at="bs=1M skip=$((turn - 1)) count=1"
        dd if=$disk $at iflag=direct 2>/dev/null | cmp - /pattern || echo differs
    done
    read -t 1 line
done
$behind
dd if=$disk bs=1M count=1 iflag=direct 2>/dev/null | cmp - /pattern || echo differs
dmesg -l err,crit,alert,emerg | sed "s/^/complaint /"
dmesg | grep -E "(vda|nvme).*rror|timed out|timeout|hung task" | sed "s/^/complaint /"
echo finished
"""
DISKS = {
    "blk": ("virtio/blk", "image", "/dev/vda", "true"),
    "nvme": ("pci/nvme", "disk", "/dev/nvme0n1", "echo 1 > /sys/class/nvme/nvme0/reset_controller"),
}
"""Plugin, service, the guest's name, and what it does in the end."""


@pytest.mark.parametrize("name", DISKS)
async def test_a_stock_linux_keeps_its_disk(tmp_path: Path, name: str) -> None:
    """Under dd: every block is what was written, and the guest's log has no error.

    The disk then knows its image: a controller that is reset becomes ready again.
    """
    plugin, service, device, behind = DISKS[name]
    with (tmp_path / "disk.img").open("wb") as image:
        image.truncate(WRITTEN_MIB * MIB)
    disk = {"plugin": plugin, "slot": "00:11.0", "streams": {service: "block:disk.img"}}
    script = f"disk={device}\n{DISK}".replace("$behind", behind)
    console = ("-machine", "q35", "-accel", "tcg", "-cpu", "max", "-serial", "stdio")
    booted = (*console, *kernel(tmp_path, script, ("virtio_blk",)))
    async with serving(tmp_path, {name: disk}, MMIOD) as served:
        arguments = await served.qemu_arguments(MEMORY)
        async with running(tmp_path, *booted, *arguments) as qemu, trio.open_nursery() as nursery:
            while "written" not in await qemu.line():
                pass
            nursery.start_soon(upgrade_often, served, qemu)
            while "finished" not in await qemu.line():
                pass
            assert 0 == await qemu.ends()
            assert "" == qemu.errors.read_text()
        assert [] == [line for line in qemu.lines if line.startswith(("write fails", "differs", "complaint"))]
        image_now = (tmp_path / "disk.img").read_bytes()
        assert len(set(image_now[:MIB])) == 256
        assert image_now[:MIB] * WRITTEN_MIB == image_now
        pauses = [event["pause_us"] / 1000 for event in served.events("daemon_upgraded")]
        structlog.get_logger().info("upgraded", disk=name, pauses_ms=pauses)
        assert UPGRADES == len(pauses)
        assert not served.events("message_refused")
        assert not served.events("device_quarantined")


async def upgrade_often(served: Served, qemu: Qemu) -> None:
    """One after another, and then the guest may end."""
    for _ in range(UPGRADES):
        await served.upgrade()
    assert qemu.process.stdin is not None
    await qemu.process.stdin.send_all(b"stop\n")
