"""Virtio drivers on KVM whose notifications make no exit: each comes as the signal of an ioeventfd."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
import trio

from mmiod.trace.record import DEVICE, DIRECTION, REGISTER, VCPU, Record
from mmiod.values import WRITE
from mmiod.vmm.accelerator import Accelerator
from mmiod.vmm.fixtures import Fixtures
from mmiod.vmm.slot import OFFERED
from mmiod.vmm.vcpu import Vcpu
from tests.functional.boots import PATIENCE_S, Boot, booting, pc, serving
from tests.functional.guests import execute
from tests.functional.test_disk import TEXT, image, serial
from tests.functional.test_kvm_example import KvmBoot, build, rom
from tests.functional.test_virtio_mmio import DRIVES, RANDOM, SECTOR, mmio_devices

pytestmark = [pytest.mark.needs("kvm", "gcc"), pytest.mark.skipif(not OFFERED, reason="x86-64 only")]

BY_EVENTFD = -1
"""In a record: the write is no exit of a vCPU."""
CAPABILITIES = ("INTR", "SHARED_MEMORY", "PUBLISHED", "GRANTS")


def notified(trace: list[Record], device: str) -> list[int]:
    """Who rang its doorbells, each time."""
    return [
        int(record[VCPU])
        for record in trace
        if record[DEVICE] == device
        and record[DIRECTION] == WRITE
        and record[REGISTER] in {"doorbells", "queue_notify"}
    ]


@pytest.mark.needs("seabios")
@pytest.mark.parametrize("hypervisor", ["kvm-vmm", "mmiod-vmm"])
async def test_stock_driver_rings_without_an_exit(tmp_path: Path, hypervisor: str) -> None:
    """SeaBIOS's driver of a PCI disk: three requests, three signals; the image is what INT 13h made it."""
    path = image(tmp_path)
    tables = pc()
    tables["devices"]["blk"] = {
        "plugin": "virtio/blk",
        "slot": "00:05.0",
        "streams": {"image": f"block:{path}"},
    }
    build(tmp_path)
    boot = KvmBoot(tables) if hypervisor == "kvm-vmm" else Boot(tables, options=("--accel", "kvm"))
    async with booting(tmp_path, boot) as under_way:
        shown = await serial(under_way, "written")
        trace = under_way.trace()
    assert "boot sector runs; sector 1 speaks; written" == shown
    assert TEXT.ljust(512, b"\0") == path.read_bytes()[1024:1536]
    assert [BY_EVENTFD] * 3 == notified(trace, "blk")


def kvm(vcpu: Vcpu) -> Accelerator:
    """As `mmiod-vmm --accel kvm` makes it."""
    from mmiod.vmm.kvm import Kvm, KvmCpu, SignalAlarm  # noqa: PLC0415 - the mark `needs` comes first

    vcpu.link.alarm = SignalAlarm()
    cpu = KvmCpu(Kvm.open(), vcpu.memory, vcpu.perform)
    vcpu.link.fixtures = Fixtures(cpu.fixtures)
    return cpu


async def test_driver_sees_its_rings_fill_on_mmiod_vmm(tmp_path: Path) -> None:
    """It waits for the used rings in RAM; random bytes and a sector are there, and nobody's exit notified."""
    content = Random(1).randbytes(2048)  # the same each time, on purpose
    tables, disk = mmio_devices(tmp_path, content)
    ended = await execute(tmp_path, DRIVES, kvm, machine=tables, required=CAPABILITIES)
    assert Random("seed").randbytes(64)[:40] == ended.memory.read(RANDOM, 40)  # alike
    assert content[512:1024] == ended.memory.read(SECTOR, 512)
    assert content[:1024] + content[512:1024] + content[1536:] == disk.read_bytes()
    assert {BY_EVENTFD} == {*notified(ended.trace, "entropy"), *notified(ended.trace, "image")}


async def test_driver_sees_its_rings_fill_on_the_example(tmp_path: Path) -> None:
    """The same guest: it goes on to its end, so that sector 1 is sector 2, too."""
    content = Random(2).randbytes(2048)
    tables, disk = mmio_devices(tmp_path, content)
    command = [build(tmp_path), tmp_path / "vm.exit", "vm", rom(tmp_path, DRIVES), "16"]
    async with serving(tmp_path, Boot(tables)) as daemon:
        with trio.fail_after(PATIENCE_S):
            await trio.run_process([str(word) for word in command])
        trace, _, _ = daemon.recorder.since(0, 1 << 30)
    assert content[:1024] + content[512:1024] + content[1536:] == disk.read_bytes()
    assert {BY_EVENTFD} == {*notified(trace, "entropy"), *notified(trace, "image")}
