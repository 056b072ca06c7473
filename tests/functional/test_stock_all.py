"""A stock QEMU with a stock Linux all of whose devices but the first serial port are Python files here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import trio
from attrs import define

from tests.functional.boots import dial
from tests.functional.echo_peer import Peer
from tests.functional.stock import PATIENCE_S, Asked, Qemu, disk, interrupts, kernel, running, serving

pytestmark = pytest.mark.needs("stock")

MIB = 1 << 20
IMAGE_MIB = 160
DISKS = {"blk": "vda", "nvme": "nvme0n1"}
MODULES = ("virtio-rng", "virtio_blk", "failover", "net_failover", "virtio_net")
MACHINE = ("-machine", "q35", "-accel", "tcg", "-cpu", "max", "-smp", "2")

SCRIPT = """\
exec 3<>/dev/ttyS1 4<>/dev/hvc0
stty -F /dev/ttyS1 raw -echo
stty -F /dev/hvc0 raw -echo
echo "hello from the guest" >&3
read -r line <&3
echo "guest heard: $line" >&4
read -r line <&4
echo "guest heard: $line" >&3

dd if=/dev/hwrng bs=64 count=16 2>/dev/null | hexdump -v -e '64/1 "%02x" "\\n"' | sed 's/^/random /'
# The kernel draws no more random numbers, which it else does at moments of its own.
echo none > /sys/class/misc/hw_random/rng_current

ip addr add 10.0.0.2/24 dev eth0
ip link set eth0 up
ping -c 3 10.0.0.1 | grep received

dd if=/dev/urandom of=/pattern bs=1M count=1 2>/dev/null
content() { for turn in $(seq 64); do cat /pattern; done; }
sum=$(content | md5sum)
files() {
    mke2fs -F /dev/$1 131072 >/dev/null
    mkdir /$1
    mount -t ext4 /dev/$1 /$1
    content > /$1/file
    sync /$1/file
    echo 1 > /proc/sys/vm/drop_caches
    [ "$sum" = "$(md5sum < /$1/file)" ] && echo "$1 same"
    umount /$1
    blkdiscard -o 150994944 -l 8388608 /dev/$1
    dd if=/dev/$1 bs=1M skip=144 count=8 2>/dev/null | cmp - /dev/zero 2>&1 | grep EOF && echo "$1 discarded"
}
files vda &
files nvme0n1 &
nc 10.0.0.1 7 < /pattern > /received
cmp /pattern /received && echo echoed
wait

dmesg -l err,crit,alert,emerg | sed "s/^/complaint /"
dmesg | grep -E "timed out|timeout|abort|hung task" | sed "s/^/complaint /"
cat /proc/interrupts
echo finished
"""


def machine(directory: Path) -> dict[str, Any]:
    """One of each."""
    images = {name: disk(directory, f"{name}.img", IMAGE_MIB) for name in DISKS}
    return {
        "uart": {"plugin": "pci/uart", "slot": "00:10.0", "streams": {"serial": "unix:serial"}},
        "rng": {"plugin": "virtio/rng", "slot": "00:11.0", "streams": {"source": "random:seed"}},
        "blk": {"plugin": "virtio/blk", "slot": "00:12.0", "streams": {"image": images["blk"]}},
        "console": {"plugin": "virtio/console", "slot": "00:13.0", "streams": {"terminal": "unix:terminal"}},
        "net": {"plugin": "virtio/net", "slot": "00:14.0", "streams": {"wire": "datagram:wire"}},
        "nvme": {"plugin": "pci/nvme", "slot": "00:15.0", "streams": {"disk": images["nvme"]}},
    }


@define(eq=False)
class Terminal:
    """The other end of a serial line."""

    stream: trio.SocketStream
    qemu: Qemu

    async def says(self, line: str) -> None:
        """Wait for a line of the guest's."""
        data = b""
        with trio.fail_after(PATIENCE_S):
            while not data.endswith(b"\n"):
                data += (more := await self.stream.receive_some(1))
                assert more, self.qemu.errors.read_text()
        assert line == data.decode().rstrip()

    async def hears(self, line: str) -> None:
        """Send one."""
        await self.stream.send_all(f"{line}\n".encode())


async def test_a_stock_linux_uses_all_devices_at_once(tmp_path: Path, asked: Asked) -> None:
    """Its own drivers bind to all six, and it has nothing to complain of.

    Text goes both ways through a serial port and a console; random bytes arrive; 64 MiB in file
    systems that it made on two disks at once come back as they were written, while pings and 1 MiB
    by TCP go through the network; /proc/interrupts says what was told.
    """
    console, peer = tmp_path / "console", Peer()
    booted = (*MACHINE, "-serial", f"file:{console}", *kernel(tmp_path, SCRIPT, MODULES))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer.serve, tmp_path / "wire")
        async with (
            serving(tmp_path, machine(tmp_path)) as server,
            running(tmp_path, *booted, *await server.arguments()) as qemu,
            await dial(tmp_path / "serial") as serial,
            await dial(tmp_path / "terminal") as terminal,
        ):
            uart, hvc = Terminal(serial, qemu), Terminal(terminal, qemu)
            await uart.says("hello from the guest")
            await uart.hears("one")
            await hvc.says("guest heard: one")
            await hvc.hears("two")
            await uart.says("guest heard: two")
            assert 0 == await qemu.ends()
            assert "" == qemu.errors.read_text()
        nursery.cancel_scope.cancel()
    seen = console.read_text()
    assert "finished" in seen
    assert "complaint" not in seen, seen
    assert {f"{name} {done}" for name in DISKS.values() for done in ("same", "discarded")} <= set(
        seen.splitlines()
    )
    for name in DISKS:
        for kind in ("read", "write", "flush", "discard"):
            assert 0 < asked.counts[f"block:{name}.img", kind], (name, kind)
    assert "3 packets received" in seen
    assert "echoed" in seen
    assert (3, MIB) == (peer.pings, peer.echoed)
    random = re.findall("^random ([0-9a-f]{128})$", seen, re.MULTILINE)
    assert (16, 16) == (len(random), len(set(random)))
    told = {name: function.interrupts.told for name, function in server.functions.items()}
    assert told["rng"] == interrupts(seen, "virtio0-input")
    assert 0 < interrupts(seen, "virtio1-req.0") <= told["blk"]  # two at once are one
    assert 0 < interrupts(seen, "nvme0q1") <= told["nvme"]
    assert 0 < interrupts(seen, "ttyS1") <= told["uart"]
    for event in (
        "message_refused",
        "queue_broken",
        "disk_failed",
        "disk_request_failed",
        "device_quarantined",
    ):
        assert [] == server.of(event)
