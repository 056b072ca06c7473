"""examples/kvm-vmm.c: pages that its guest reads by itself, doorbells that KVM signals, and their end."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path

import pytest
import trio
from attrs import define

from mmiod.attach.grants import Grants
from mmiod.attach.vm import VmAttachment
from mmiod.trace.record import DEVICE, DIRECTION, REGISTER, STATUS, VALUE, VCPU, Record
from mmiod.values import READ, WRITE
from mmiod.vmm.slot import OFFERED
from tests.functional.between import between
from tests.functional.boots import PATIENCE_S, Boot, Tables, booting, pc, serving, until_end
from tests.functional.test_c_ends import WATCHED, left_open
from tests.functional.test_kvm_example import KvmBoot, build, rom
from tests.functional.test_kvm_grants import BEGIN, PANEL, PLUGIN, rings, until
from tests.functional.test_measured_boot import with_tpm

pytestmark = [pytest.mark.needs("kvm", "gcc"), pytest.mark.skipif(not OFFERED, reason="x86-64 only")]

FIRST, SECOND = 0xE800_0000, 0xE900_0000
BELL = 0x3000
"""In the BAR of 00:05.0."""
MOVES = f"""
.macro place address
    pci 0x80002810, \\address
    pci 0x80002804, 2
.endm
.macro ring address
    mov ebx, \\address + {BELL:#x}; mov ecx, 500
1:  mov word ptr [rbx], 0
    mov edx, 0x71; in al, dx    # an exit: what has arrived is taken before the guest goes on
    dec ecx; jnz 1b
.endm
    cmp dword ptr [0x5000], 0x12345678; je again
    mov dword ptr [0x5000], 0x12345678
    place {FIRST:#x}
    ring {FIRST:#x}
    mov al, 0xfe; out 0x64, al  # the i8042 asks for a reset
    hlt
again:
    ring {FIRST:#x}             # nobody is there
    place {SECOND:#x}
    ring {SECOND:#x}
"""
READS = f"""
{BEGIN}
    mov dword ptr [rbp + 0x10], 21
    mov ecx, 5000
poll:
    add ebx, [rbp + 0x20]
    dec ecx; jnz poll
    mov ecx, 100
ring:
    mov word ptr [rbp + 0x1000], 5
    dec ecx; jnz ring
    mov word ptr [rbp + 0x1000], 6  # another value: an exit
wait:
    cmp dword ptr [rbp + 0x1008], 2; jb wait
    mov [rbp + 0x10], ebx
"""
LASTS = f"""
{BEGIN}
    mov dword ptr [rbp + 0x10], 21
poll:
    mov word ptr [rbp + 0x1000], 5
    cmp dword ptr [rbp + 0x20], 42; jne wrong
    cmp byte ptr [rbp + 0x100], 0x55; jne poll
    jmp done
wrong:
    mov dword ptr [rbp + 0x10], 0xbad
done:
"""


def panel(directory: Path) -> Tables:
    """A PC with one."""
    (directory / "panel.py").write_text(PLUGIN)
    return pc(
        panel={"plugin": "panel", "at": {"page": f"mmio:{PANEL:#x}", "bells": f"mmio:{PANEL + 4096:#x}"}}
    )


def of(trace: list[Record], device: str, direction: int) -> list[Record]:
    """Accesses of a device."""
    return [record for record in trace if record[DEVICE] == device and record[DIRECTION] == direction]


@define
class Relayed(KvmBoot):
    """A boot by the example, through the relay at `exit`."""

    def command(self, directory: Path) -> list[str]:
        """The hypervisor's."""
        program, _, *rest = KvmBoot.command(self, directory)
        return [program, str(directory / "exit"), *rest]


async def boot_with_a_tpm(directory: Path, *without: str) -> tuple[str, list[Record]]:
    """The firmware's log, and what came to the daemon."""
    build(directory)
    path, upstream = directory / "exit", directory / "vm.exit"
    async with (
        between(path, upstream, takes_over=False, without=without),
        booting(directory, Relayed(with_tpm("swtpm"))) as under_way,
    ):
        log = await under_way.reaches_its_end()
        return log, until_end(under_way.trace())


@pytest.mark.needs("seabios", "swtpm")
async def test_reads_of_the_tpm_cost_no_exit(tmp_path: Path) -> None:
    """Stock firmware measures by the same commands: its reads come to the daemon, with grants none does."""
    here, there = tmp_path / "with", tmp_path / "without"
    here.mkdir()
    there.mkdir()
    log, with_grants = await boot_with_a_tpm(here)
    same, without = await boot_with_a_tpm(there, "GRANTS")
    assert log == same
    assert [] == of(with_grants, "tpm", READ)
    assert len(of(without, "tpm", READ)) > 100
    written = [
        Counter(record[REGISTER] for record in of(trace, "tpm", WRITE)) for trace in (with_grants, without)
    ]
    assert written[0] == written[1]
    assert written[0]["ctrl_start"] > 10


@pytest.mark.needs("valgrind")
async def test_a_guest_reads_and_rings(tmp_path: Path) -> None:
    """5000 right values without an exit, a ring that no vCPU made, an exit; nothing is left in the end."""
    command = [*WATCHED, build(tmp_path), tmp_path / "vm.exit", "vm", rom(tmp_path, READS), "16"]
    async with serving(tmp_path, Boot(panel(tmp_path), plugins=tmp_path)) as daemon:
        with trio.fail_after(PATIENCE_S):
            done = await trio.run_process([str(word) for word in command], capture_stderr=True, check=False)
        trace, _, _ = daemon.recorder.since(0, 1 << 30)
    assert (0, []) == (done.returncode, left_open(done.stderr.decode()))
    assert {"count"} == {record[REGISTER] for record in of(trace, "panel", READ)}
    first, *bells, last = of(trace, "panel", WRITE)
    assert (21, 5000 * 42) == (first[VALUE], last[VALUE])
    rung = Counter((bell[VCPU], bell[REGISTER], bell[VALUE]) for bell in bells)
    assert {(-1, "notify", 5), (0, "notify", 6)} == set(rung)
    assert 1 == rung[0, "notify", 6]


async def test_a_reset_leaves_no_doorbell(tmp_path: Path) -> None:
    """Where it was a write is an exit to nobody; where its region is then it is rung again."""
    tables = pc(entropy={"plugin": "virtio/rng", "slot": "00:05.0"})
    command = [build(tmp_path), tmp_path / "vm.exit", "vm", rom(tmp_path, MOVES), "16"]
    async with serving(tmp_path, Boot(tables)) as daemon:
        with trio.fail_after(PATIENCE_S):
            await trio.run_process([str(word) for word in command])
        trace, _, _ = daemon.recorder.since(0, 1 << 30)
    by_address = {
        base: [(record[VCPU], record[STATUS]) for record in trace if record[6] == base + BELL]
        for base in (FIRST, SECOND)
    }
    unclaimed = [seen for seen in by_address[FIRST] if seen[0] == 0 and seen[1] == "unclaimed"]
    assert 500 == len(unclaimed)
    assert by_address[FIRST][-500:] == unclaimed
    assert (-1, "ok") in by_address[FIRST]
    assert (-1, "ok") in by_address[SECOND]


async def test_a_guest_lives_through_take_overs(tmp_path: Path) -> None:
    """Ten of them: what stood is taken down before, and granted anew; in the end reads make no exit again.

    Whoever started it may have blocked the signal by which a message ends KVM_RUN.
    """
    hypervisor = ["env", "--block-signal=SIGIO", str(build(tmp_path))]
    command = [*hypervisor, str(tmp_path / "exit"), "vm", str(rom(tmp_path, LASTS)), "16"]
    async with (
        serving(tmp_path, Boot(panel(tmp_path), plugins=tmp_path)) as daemon,
        between(tmp_path / "exit", tmp_path / "vm.exit", takes_over=False) as relay,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(trio.run_process, command)
        attachment, host = daemon.attachments["vm"], daemon.machines["vm"].hosts["panel"]
        assert isinstance(attachment, VmAttachment)

        with trio.fail_after(PATIENCE_S):
            for _ in range(10):
                await rings(daemon)
                before = attachment.grants  # the hypervisor may be done with all of it while RESUMED is sent
                await relay.take_over()
                await until(partial(others, attachment, before))
            await rings(daemon)
            reads = host.statistics.reads
            await rings(daemon)
            assert reads == host.statistics.reads
            daemon.work(lambda: host.feed(None, "write", "page", 0x100, 1, 0x55))
        assert host.device.values["value"] == 21


def others(attachment: VmAttachment, grants: Grants | None) -> bool:
    """Whether what was granted is not these any more."""
    return attachment.grants is not grants
