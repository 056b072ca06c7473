"""A stock QEMU with a stock Linux on virtio devices that are Python files here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio

from mmiod.core.backends.entropy import _Source
from tests.functional.boots import dial
from tests.functional.echo_peer import Peer
from tests.functional.stock import PATIENCE_S, Asked, disk, interrupts, kernel, running, serving

pytestmark = pytest.mark.needs("stock")

MIB = 1 << 20
IMAGE_MIB = 160
RELOADS = 20
MODULES = ("virtio-rng", "virtio_blk")
MACHINE = ("-machine", "q35", "-accel", "tcg", "-cpu", "max")

SCRIPT = """\
dd if=/dev/hwrng bs=64 count=16 2>/dev/null | hexdump -v -e '64/1 "%02x" "\\n"' | sed 's/^/random /'
# The kernel draws no more random numbers, which it else does at moments of its own.
echo none > /sys/class/misc/hw_random/rng_current
cat /sys/block/vda/serial
mke2fs -F /dev/vda 131072 >/dev/null
mount -t ext4 /dev/vda /mnt
dd if=/dev/urandom of=/pattern bs=1M count=1 2>/dev/null
for turn in $(seq 64); do cat /pattern; done > /mnt/file
sync
echo 3 > /proc/sys/vm/drop_caches
for turn in $(seq 64); do
    dd if=/mnt/file bs=1M skip=$((turn - 1)) count=1 2>/dev/null | cmp - /pattern || echo differs
done
umount /mnt
blkdiscard -o 150994944 -l 8388608 /dev/vda
dd if=/dev/zero bs=1M count=8 2>/dev/null > /zeroes
dd if=/dev/vda bs=1M skip=144 count=8 2>/dev/null | cmp - /zeroes && echo discarded
mount -t ext4 /dev/vda /mnt && ls -l /mnt/file && umount /mnt
dmesg | grep -E 'error|Error|timed out'
cat /proc/interrupts
echo finished
"""


def machine(directory: Path, **config: object) -> dict[str, Any]:
    """An entropy source and a disk."""
    common = {key: value for key, value in config.items() if key != "queues"}
    return {
        "rng": {
            "plugin": "virtio/rng",
            "slot": "00:10.0",
            "streams": {"source": "random:seed"},
            "config": common,
        },
        "blk": {
            "plugin": "virtio/blk",
            "slot": "00:11.0",
            "streams": {"image": disk(directory, "disk.img", IMAGE_MIB)},
            "config": {**config, "serial": "a serial"},
        },
    }


@pytest.mark.parametrize(
    ("config", "cpus"),
    [
        pytest.param({}, 1, id="split"),
        pytest.param({"packed": True}, 1, id="packed"),
        pytest.param({"queues": 2, "event_index": False}, 2, id="two queues"),
        pytest.param({"msix": False}, 1, id="intx"),
    ],
)
async def test_a_stock_linux_reads_and_writes(
    tmp_path: Path, asked: Asked, config: dict[str, object], cpus: int
) -> None:
    """Its own drivers bind.

    Random bytes arrive as they were drawn; 64 MiB in a file system that it made are read back
    as they were written; discards and flushes reach the image; /proc/interrupts says what was
    told.
    """
    console = tmp_path / "console"
    booted = (
        *(*MACHINE, "-smp", str(cpus), "-serial", f"file:{console}"),
        *kernel(tmp_path, SCRIPT, MODULES),
    )
    async with serving(tmp_path, machine(tmp_path, **config)) as server:
        async with running(tmp_path, *booted, *await server.arguments()) as qemu:
            assert 0 == await qemu.ends()
        seen = console.read_text()
        assert "finished" in seen
        assert "differs" not in seen
        assert "a serial" in seen
        assert "discarded" in seen
        assert "67108864" in seen
        assert not re.search("error|timed out", seen)
        random = [line.split()[1] for line in seen.splitlines() if line.startswith("random")]
        assert (16, 16) == (len(random), len(set(random)))
        assert not server.of("queue_broken")
        assert 0 < asked["discard"]
        assert 0 < asked["flush"]
        if config.get("msix", True):
            requests = sum(
                interrupts(seen, f"virtio1-req.{number}")
                for number in range(int(str(config.get("queues", 1))))
            )
            told = server.functions["rng"].interrupts.told
            assert told == interrupts(seen, "virtio0-input")
            told = server.functions["blk"].interrupts.told
            assert 0 < requests <= told  # two at once are one
        else:
            assert 0 < interrupts(seen, "virtio1")


SLOW = """\
dd if=/dev/hwrng bs=48 count=16 2>/dev/null | hexdump -v -e '48/1 "%02x" "\\n"' | sed 's/^/random /'
echo finished
"""


@pytest.mark.parametrize("piece", [48, 63])
async def test_a_slow_source_does_not_stall_linux(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, piece: int
) -> None:
    """Its driver does not go on where a device gives it 48 or 63 bytes at a time."""
    receive = _Source.receive_some

    async def little(source: _Source, max_bytes: int) -> bytes:
        return await receive(source, min(max_bytes, piece))

    monkeypatch.setattr(_Source, "receive_some", little)
    console = tmp_path / "console"
    booted = (*MACHINE, "-serial", f"file:{console}", *kernel(tmp_path, SLOW, MODULES))
    async with serving(tmp_path, {"rng": machine(tmp_path)["rng"]}) as server:
        async with running(tmp_path, *booted, *await server.arguments()) as qemu:
            assert 0 == await qemu.ends()
        random = [line for line in console.read_text().splitlines() if line.startswith("random")]
        assert (16, 16) == (len(random), len(set(random)))


BY_MESSAGE = """\
dd if=/dev/urandom of=/pattern bs=1M count=1 2>/dev/null
for kib in 64 128 256 512 1024; do
    dd if=/pattern of=/dev/vda bs=${kib}k oflag=direct 2>/dev/null
    dd if=/dev/vda bs=${kib}k count=$((1024 / kib)) iflag=direct 2>/dev/null | cmp - /pattern && echo same
    blkdiscard -l 1048576 /dev/vda
done
mke2fs -F /dev/vda 131072 >/dev/null && mount -t ext4 /dev/vda /mnt && cp /pattern /mnt && sync
echo 3 > /proc/sys/vm/drop_caches
cmp /pattern /mnt/pattern && echo same
dmesg | grep -E 'error|Error|timed out'
echo finished
"""


async def test_a_disk_without_shared_memory(tmp_path: Path) -> None:
    """Requests of 64 KiB to 1 MiB go by messages, none of which QEMU cuts off."""
    console = tmp_path / "console"
    booted = (*MACHINE, "-serial", f"file:{console}", *kernel(tmp_path, BY_MESSAGE, MODULES))
    async with serving(tmp_path, {"blk": machine(tmp_path)["blk"]}) as server:
        *_, option, device = await server.arguments()
        async with running(tmp_path, *booted, "-m", "256M", option, device) as qemu:
            assert 0 == await qemu.ends()
        seen = console.read_text()
        assert 6 == seen.count("same")
        assert "finished" in seen
        assert not re.search("error|timed out", seen)
        assert not server.of("message_refused")


RELOADED = """\
dd if=/dev/urandom of=/pattern bs=1M count=1 2>/dev/null
for turn in $(seq 48); do cat /pattern; done |
    dd of=/dev/vda bs=128k iflag=fullblock oflag=direct 2>/dev/null
for turn in $(seq 48); do
    dd if=/dev/vda bs=128k skip=$((8 * turn - 8)) count=8 iflag=direct 2>/dev/null |
        cmp - /pattern || echo differs
done
dmesg | grep -E 'error|Error|timed out'
echo finished
"""


@pytest.mark.usefixtures("slow_images")
async def test_a_disk_is_reloaded_while_a_guest_writes(tmp_path: Path, asked: Asked) -> None:
    """The plugin is loaded anew again and again under direct transfers; the guest does not notice."""
    console = tmp_path / "console"
    booted = (*MACHINE, "-serial", f"file:{console}", *kernel(tmp_path, RELOADED, MODULES))
    async with serving(tmp_path, machine(tmp_path)) as server:
        disk = server.functions["blk"].host
        async with running(tmp_path, *booted, *await server.arguments()) as qemu:
            await asked.reaches(1, "write")
            under_way, pauses = 0, []
            for turn in range(RELOADS):
                await asked.reaches(1 + 30 * turn, "read", "write")
                under_way += bool(disk.device.state.transfers)
                pauses.append((await server.daemon.reloader.reload("blk")).pause_us / 1000)
            assert 0 == await qemu.ends()
        structlog.get_logger().info("reloaded", disk="blk", pauses_ms=pauses)
        seen = console.read_text()
        assert "finished" in seen
        assert "differs" not in seen
        assert not re.search("error|timed out", seen)
        assert (1 + RELOADS, True) == (disk.generation, under_way > 0)
        assert not server.of("device_quarantined")


WIRED = """\
exec 3<>/dev/hvc0
# The guest's driver sets the size in a work item that opening the terminal schedules.
for try in 1 2 3 4 5 6 7 8 9; do
    [ "$(stty size <&3)" = "50 132" ] && echo sized && break
    sleep 1
done
stty -F /dev/hvc0 raw -echo
echo "hello from the guest" >&3
while read -r line <&3; do
    [ "$line" = end ] && break
    echo "guest heard: $line" >&3
done
cat /sys/class/net/eth0/address
ip addr add 10.0.0.2/24 dev eth0
ip link set eth0 up
ping -c 3 -s 1000 10.0.0.1
dd if=/dev/urandom of=/sent bs=64k count=16 2>/dev/null
nc 10.0.0.1 7 < /sent > /received
cmp /sent /received && echo echoed
grep virtio /proc/interrupts
echo finished
"""


@pytest.mark.parametrize("packed", [False, True])
async def test_a_stock_linux_has_our_console_and_our_network(tmp_path: Path, packed: bool) -> None:
    """Text goes both ways through hvc0; pings, and 1 MiB by TCP, come back through eth0."""
    console = tmp_path / "console"
    booted = (
        *(*MACHINE, "-serial", f"file:{console}"),
        *kernel(tmp_path, WIRED, ("failover", "net_failover", "virtio_net")),
    )
    devices = {
        "console": {
            "plugin": "virtio/console",
            "slot": "00:10.0",
            "streams": {"terminal": "unix:terminal"},
            "config": {"packed": packed, "columns": 132, "rows": 50},
        },
        "net": {
            "plugin": "virtio/net",
            "slot": "00:11.0",
            "streams": {"wire": "datagram:wire"},
            "config": {"packed": packed, "mac": "52:54:00:12:34:57"},
        },
    }
    peer = Peer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.serve, tmp_path / "wire")
        async with (
            serving(tmp_path, devices) as server,
            running(tmp_path, *booted, *await server.arguments()) as qemu,
        ):
            terminal = await dial(tmp_path / "terminal")
            assert "hello from the guest" == await line(terminal)
            for text in ("one", "x" * 3000, "three"):
                await terminal.send_all(f"{text}\n".encode())
                assert f"guest heard: {text}" == await line(terminal)
            await terminal.send_all(b"end\n")
            assert 0 == await qemu.ends()
            await terminal.aclose()
        nursery.cancel_scope.cancel()
    seen = console.read_text()
    for words in ("sized", "52:54:00:12:34:57", "3 packets received", "echoed", "finished"):
        assert words in seen
    assert (3, MIB) == (peer.pings, peer.echoed)
    assert not server.of("queue_broken")


async def line(terminal: trio.SocketStream) -> str:
    """The next line that the guest sends."""
    data = b""
    with trio.fail_after(PATIENCE_S):
        while not data.endswith(b"\n"):
            more = await terminal.receive_some(1)
            assert more
            data += more
    return data.decode().rstrip("\n")
