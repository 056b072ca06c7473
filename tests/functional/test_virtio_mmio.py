"""Virtio by memory-mapped registers, on the exit protocol: a guest that drives them by itself."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest

from mmiod.vmm.accelerator import Accelerator
from mmiod.vmm.vcpu import Vcpu
from tests.functional.boots import Tables, pc
from tests.functional.guests import execute

ENTROPY, DISK = 0xFEB0_0000, 0xFEB0_0200
BUFFERS, RANDOM, SECTOR = 0x9000, 0x9100, 0x9200
DRIVES = f"""
.macro set register, value
    mov dword ptr [rsi + \\register], \\value
.endm
.macro descriptor number, address, length, flags
    mov dword ptr [rbx + 16 * \\number], \\address; mov dword ptr [rbx + 16 * \\number + 4], 0
    mov dword ptr [rbx + 16 * \\number + 8], \\length
    mov dword ptr [rbx + 16 * \\number + 12], \\flags + ((\\number + 1) << 16)
.endm
.macro begin device, area
    mov esi, \\device; mov ebx, \\area
    set 0x70, 0; set 0x70, 1; set 0x70, 3
    set 0x24, 0; set 0x20, 0; set 0x24, 1; set 0x20, 1  # VIRTIO_F_VERSION_1
    set 0x70, 11
    set 0x30, 0; set 0x38, 4
    set 0x80, \\area; set 0x84, 0
    set 0x90, \\area + 0x100; set 0x94, 0
    set 0xa0, \\area + 0x200; set 0xa4, 0
    set 0x44, 1; set 0x70, 15
.endm
.macro transfer number
    mov word ptr [rbx + 0x104 + 2 * (\\number - 1)], 0
    mov word ptr [rbx + 0x102], \\number; set 0x50, 0
1:  cmp word ptr [rbx + 0x202], \\number; jne 1b
    mov eax, [rsi + 0x60]; mov [rsi + 0x64], eax
.endm
    begin {ENTROPY:#x}, 0x8000
    descriptor 0, {RANDOM:#x}, 40, 2
    transfer 1
    begin {DISK:#x}, 0x8800
    mov dword ptr [{BUFFERS}], 0; mov dword ptr [{BUFFERS} + 8], 1; mov dword ptr [{BUFFERS} + 12], 0
    descriptor 0, {BUFFERS:#x}, 16, 1
    descriptor 1, {SECTOR:#x}, 512, 3
    descriptor 2, {BUFFERS + 0x80:#x}, 1, 2
    transfer 1                                          # read sector 1
    mov dword ptr [{BUFFERS}], 1; mov dword ptr [{BUFFERS} + 8], 2
    descriptor 1, {SECTOR:#x}, 512, 1
    transfer 2                                          # write it as sector 2
"""


def unicorn(vcpu: Vcpu) -> Accelerator:
    """As `mmiod-vmm` makes it."""
    from mmiod.vmm.unicorn import UnicornCpu  # noqa: PLC0415  # the mark `needs` comes first

    return UnicornCpu(vcpu.memory, vcpu.perform)


def mmio_devices(directory: Path, content: bytes) -> tuple[Tables, Path]:
    """A PC with both, and the disk's image."""
    disk = directory / "virtio.img"
    disk.write_bytes(content)
    tables = pc()
    tables["devices"]["entropy"] = {
        "plugin": "virtio/rng_mmio",
        "at": {"registers": f"mmio:{ENTROPY:#x}"},
        "streams": {"source": "random:seed"},
    }
    tables["devices"]["image"] = {
        "plugin": "virtio/blk_mmio",
        "at": {"registers": f"mmio:{DISK:#x}"},
        "streams": {"image": f"block:{disk}"},
    }
    return tables, disk


@pytest.mark.needs("gcc", "unicorn")
async def test_a_guest_drives_both(tmp_path: Path) -> None:
    """Random bytes are those that were drawn; a sector that it read and wrote elsewhere is the same."""
    content = Random(1).randbytes(2048)  # the same each time, on purpose
    tables, disk = mmio_devices(tmp_path, content)
    ended = await execute(tmp_path, DRIVES, unicorn, machine=tables)
    assert Random("seed").randbytes(64)[:40] == ended.memory.read(RANDOM, 40)  # alike
    assert content[512:1024] == ended.memory.read(SECTOR, 512)
    assert content[:1024] + content[512:1024] + content[1536:] == disk.read_bytes()
