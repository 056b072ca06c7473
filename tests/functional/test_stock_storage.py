"""Stock QEMU and storage in a BAR: mapped where the machine file says so, by messages elsewhere."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mmiod.machine.storage import Backing
from mmiod.trace.record import REGISTER
from tests.functional.stock import Qemu, Server, controlling, kernel, running, serving
from tests.functional.test_stock_qemu import QTEST, config_read, config_write

SHARED = {"plugin": "pci/ivshmem", "slot": "00:10.0"}
REGISTERS, MEMORY, FIRMWARE = 0xE000_0000, 0xE800_0000, 0xFF00_0000
LENGTH = 0x2000

pytestmark = pytest.mark.needs("stock")


async def placed(qemu: Qemu, memory: int = MEMORY) -> None:
    """Let both BARs decode."""
    await config_write(qemu, 0x10, 0x10, REGISTERS)
    await config_write(qemu, 0x10, 0x18, memory)
    await config_write(qemu, 0x10, 0x1C, 0)
    await config_write(qemu, 0x10, 0x04, 6)


def accesses(server: Server) -> int:
    """That came as messages."""
    statistics = server.daemon.machines["guest"].hosts["shared"].statistics
    return statistics.reads + statistics.writes


def backing(server: Server) -> Backing:
    """The memory."""
    return server.daemon.machines["guest"].storages["shared"]["memory_bar"]


@pytest.mark.parametrize("isolation", ["inline", "process"])
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "by message"])
async def test_the_guest_reads_and_writes_a_bar(tmp_path: Path, mapped: bool, isolation: str) -> None:
    """The bytes are the device's, and with `mmap = true` no access of the guest is a message."""
    device = {**SHARED, "mmap": mapped, "isolation": isolation}
    async with (
        serving(tmp_path, {"shared": device}) as server,
        running(tmp_path, *QTEST, *await server.arguments()) as qemu,
    ):
        await placed(qemu)
        content, before = os.urandom(LENGTH), accesses(server)
        await qemu.qtest(f"write {MEMORY + 0x1000:#x} {LENGTH:#x} 0x{content.hex()}")
        assert f"0x{content.hex()}" == (await qemu.qtest(f"read {MEMORY + 0x1000:#x} {LENGTH:#x}")).strip()
        messages = accesses(server) - before
        assert (0 if mapped else 2 * LENGTH // 8) == messages
        assert content == backing(server).read(0x1000, LENGTH)
        backing(server).write(0x3FFFFC, b"end.")
        assert int.from_bytes(b"end.", "little") == int(await qemu.qtest(f"readl {MEMORY + 0x3FFFFC:#x}"), 16)
        before = accesses(server)
        await qemu.qtest(f"writel {REGISTERS:#x} 0x5a")
        assert 0x5A == int(await qemu.qtest(f"readl {REGISTERS:#x}"), 16)
        assert 2 == accesses(server) - before
        assert not server.of("message_refused")


async def test_it_follows_its_bar_and_outlives_a_reset(tmp_path: Path) -> None:
    """Switched off, moved and on again it is mapped anew, with its bytes; QEMU announces each time."""
    qmp = ("-qmp", f"unix:{tmp_path}/qmp,server=on,wait=off", "-action", "reboot=reset")
    async with (
        serving(tmp_path, {"shared": {**SHARED, "mmap": True}}) as server,
        running(tmp_path, *QTEST, *qmp, *await server.arguments()) as qemu,
    ):
        assert 0x1110_1AF4 == await config_read(qemu, 0x10, 0)
        await placed(qemu)
        await qemu.qtest(f"writeq {MEMORY:#x} 0x1122334455667788")
        async with controlling(tmp_path / "qmp") as control:
            await control.ask("system_reset")
            await control.sees("RESET")
        assert 0x1122_3344_5566_7788 != int(await qemu.qtest(f"readq {MEMORY:#x}"), 16)
        moved = MEMORY + (16 << 20)
        await placed(qemu, moved)
        before = accesses(server)
        assert 0x1122_3344_5566_7788 == int(await qemu.qtest(f"readq {moved:#x}"), 16)
        assert 0 == accesses(server) - before
        slots = server.functions["shared"].maps.memory.slots.values()
        announced = [(slot.gpa, slot.length) for slot in slots if REGISTERS <= slot.gpa < FIRMWARE]
        assert [(moved, 4 << 20)] == announced
        assert not server.of("message_refused")


SCRIPT = """\
device=/sys/bus/pci/devices/0000:00:10.0
cat $device/vendor $device/device $device/class
echo 1 > $device/enable
set -- $(sed -n 3p $device/resource)
base=$1
devmem $base 32
devmem $((base + 0x3ffffc)) 32
devmem $((base + 0x1000)) 64 0x1122334455667788
devmem $((base + 0x1004)) 16
for turn in $(seq 200); do devmem $((base + 0x2000 + 4 * turn)) 32 $turn; done
"""


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "by message"])
async def test_a_stock_linux_reads_and_writes_it(tmp_path: Path, mapped: bool) -> None:
    """Through the BAR where its kernel put it, with no message or with one for each access."""
    console = tmp_path / "console"
    booted = (
        *("-machine", "q35", "-accel", "tcg", "-cpu", "max", "-serial", f"file:{console}"),
        *kernel(tmp_path, SCRIPT),
    )
    async with serving(tmp_path, {"shared": {**SHARED, "mmap": mapped}}) as server:
        backing(server).write(0, b"from")
        backing(server).write(0x3FFFFC, b"mmio")
        async with running(tmp_path, *booted, *await server.arguments()) as qemu:
            assert 0 == await qemu.ends()
            assert "" == qemu.errors.read_text()
        await server.wait_for("function_detached", 1)  # behind the guest's last writes, which are posted
        lines = console.read_text().replace("\r", "").splitlines()
        begin = lines.index("0x1af4")
        assert ["0x1af4", "0x1110", "0x050000"] == lines[begin : begin + 3]
        assert ["0x6D6F7266", "0x6F696D6D", "0x3344"] == lines[begin + 3 : begin + 6]
        assert (0x1122_3344_5566_7788).to_bytes(8, "little") == backing(server).read(0x1000, 8)
        assert b"".join(turn.to_bytes(4, "little") for turn in range(1, 201)) == backing(server).read(
            0x2004, 800
        )
        records, _, _ = server.daemon.recorder.since(0, 1 << 20)
        assert (0 if mapped else 204) == [record[REGISTER] for record in records].count("shared")
