"""Pages that a guest on KVM reads itself, and doorbells that it rings without an exit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
from attrs import define

from mmiod.attach.vm import VmAttachment
from mmiod.daemon import Daemon
from mmiod.machine.grantable import GrantKind
from mmiod.machine.machine import Machine
from mmiod.protocol.exit.client import Client
from mmiod.protocol.exit.table import NUMBERS
from mmiod.trace.record import REGISTER, VALUE, VCPU, Record
from mmiod.values import READ, WRITE
from mmiod.vmm.clock import DaemonClock
from mmiod.vmm.fixtures import Fixtures
from mmiod.vmm.guest import GuestMemory
from mmiod.vmm.link import Link
from mmiod.vmm.slot import OFFERED
from mmiod.vmm.vcpu import Vcpu
from mmiod.vmm.wire import connect_to
from tests.functional.boots import PATIENCE_S, Boot, pc, serving
from tests.functional.guests import RAM, image

pytestmark = [pytest.mark.needs("kvm", "gcc"), pytest.mark.skipif(not OFFERED, reason="x86-64 only")]

PANEL = 0xE200_0000
PLUGIN = """
from attrs import define, field
from mmiod.device import Buffer, Device, Region, Register
from mmiod.values import ones

@define
class State:
    blob: bytearray = field(factory=lambda: bytearray(range(64)))
    rung: int = 0

class Panel(Device):
    \"\"\"A page of registers, and a doorbell, which a guest may ring for ever: its state does not grow.\"\"\"

    page = Region(4096, hole=0xEE, mapped=True)
    bells = Region(16)
    state: State
    value = Register(0x10, size=4, published=True, posted=True, region=page)
    doubled = Register(0x20, size=4, access="r", published=True, region=page)
    blob = Buffer(0x100, 64, published=True, region=page)
    notify = Register(0, size=2, access="w", doorbell=True, rings=(5,), region=bells)
    count = Register(8, size=4, access="r", region=bells)

    @doubled.value
    def _doubled(self) -> int:
        return 2 * self.value & ones(4)

    @blob.on_read
    def _read(self, offset: int, size: int) -> int:
        return int.from_bytes(self.state.blob[offset : offset + size], "little")

    @blob.on_write
    def _write(self, offset: int, size: int, value: int) -> None:
        self.state.blob[offset : offset + size] = value.to_bytes(size, "little")

    @notify.on_write
    def _rung(self, value: int) -> None:
        if value == 7:
            raise RuntimeError("seven")
        self.state.rung += 1

    @count.value
    def _count(self) -> int:
        return self.state.rung
"""

_CAPABILITY = NUMBERS["capability"]
REQUIRED = sum(_CAPABILITY[name] for name in ("INTR", "SHARED_MEMORY", "PUBLISHED", "GRANTS"))
BEGIN = f"mov ebp, {PANEL:#x}\n"


@define
class Guest:
    """What it ran on, and what it left."""

    daemon: Daemon
    memory: GuestMemory
    vcpu: Vcpu

    @property
    def machine(self) -> Machine:
        """Its machine."""
        return self.daemon.machines["vm"]

    def words(self, count: int) -> list[int]:
        """What it left in RAM, 4 bytes each."""
        return [int.from_bytes(self.memory.read(RAM + 4 * number, 4), "little") for number in range(count)]

    def accesses(self, direction: int, serial: int = 0) -> list[Record]:
        """Those of the panel that came to the daemon, since `serial`."""
        records, _, _ = self.daemon.recorder.since(serial, 1 << 30)
        return [record for record in records if record[9] == "panel" and record[5] == direction]

    @property
    def rung(self) -> list[int]:
        """What the doorbell was rung with."""
        found = [int(record[VALUE]) for record in self.accesses(WRITE) if record[REGISTER] == "notify"]
        assert len(found) == self.machine.hosts["panel"].device.state.rung
        return found


async def until(holds: Callable[[], bool]) -> None:
    """Wait for it."""
    while not holds():  # noqa: ASYNC110  # a guest gives no sign
        await trio.sleep(0.01)


def by_eventfd(daemon: Daemon, serial: int) -> int:
    """Writes since `serial` that no vCPU's exit was."""
    return sum(record[VCPU] == -1 for record in daemon.recorder.since(serial, 1 << 30)[0])


async def rings(daemon: Daemon) -> None:
    """Wait until the guest rings a doorbell that was granted: pages, which were before it, stand, too."""
    attachment = daemon.attachments["vm"]
    assert isinstance(attachment, VmAttachment)
    await until(lambda: attachment.grants is not None and len(attachment.grants.given) == 2)
    serial = daemon.recorder.serial
    await until(lambda: by_eventfd(daemon, serial) > 3)


@asynccontextmanager
async def running(directory: Path, text: str) -> AsyncIterator[tuple[Guest, trio.Event]]:
    """A guest that runs in a thread; the event is set when it has ended."""
    from mmiod.vmm.kvm import Kvm, KvmCpu, SignalAlarm  # noqa: PLC0415 - the mark `needs` comes first

    (directory / "panel.py").write_text(PLUGIN)
    machine = pc(
        panel={"plugin": "panel", "at": {"page": f"mmio:{PANEL:#x}", "bells": f"mmio:{PANEL + 4096:#x}"}}
    )
    memory = GuestMemory.create(2, image(BEGIN + text))
    client = Client("vm", vcpus=1, required=REQUIRED, optional=_CAPABILITY["REQUESTS"])
    link = Link(connect_to(str(directory / "vm.exit")), client, memory.slots)

    def build(vcpu: Vcpu) -> KvmCpu:
        link.alarm = SignalAlarm()
        cpu = KvmCpu(Kvm.open(), vcpu.memory, vcpu.perform)
        link.fixtures = Fixtures(cpu.fixtures)
        return cpu

    def run() -> None:
        guest.vcpu = Vcpu(link, memory, DaemonClock(), build)
        link.open()
        try:
            assert guest.vcpu.run() == 0
        finally:
            link.close()

    async def ends(ended: trio.Event) -> None:
        await trio.to_thread.run_sync(run, abandon_on_cancel=True)
        ended.set()

    async with serving(directory, Boot(machine, plugins=directory)) as daemon, trio.open_nursery() as nursery:
        guest = Guest(daemon, memory, None)  # type: ignore[arg-type]  # the thread makes it
        ended = trio.Event()
        with trio.fail_after(PATIENCE_S):
            nursery.start_soon(partial(ends, ended))
            yield guest, ended
            await ended.wait()


async def test_reads_of_a_page_take_no_exit(tmp_path: Path) -> None:
    """5000 reads, of which the daemon sees none; what was written is seen by the next read."""
    text = """
        mov ecx, 1
    turn:
        mov [rbp + 0x10], ecx
        mov edx, [rbp + 0x20]
        lea eax, [rcx + rcx]
        cmp edx, eax; jne wrong
        inc ecx; cmp ecx, 200; jne turn
        xor ebx, ebx; mov ecx, 5000
    poll:
        mov eax, [rbp + 0x20]; add ebx, eax
        dec ecx; jnz poll
        mov [0x6000], ebx
        mov eax, [rbp + 0x80]; mov [0x6004], eax
        mov word ptr [rbp + 0x102], 0x1234
        mov eax, [rbp + 0x100]; mov [0x6008], eax
        jmp done
    wrong:
        mov dword ptr [0x6000], 0xbad
    done:
    """
    async with running(tmp_path, text) as (guest, ended):
        await ended.wait()
        assert guest.words(3) == [5000 * 2 * 199, 0xEEEEEEEE, 0x12340100]
        assert guest.accesses(READ) == []
        assert len(guest.accesses(WRITE)) == 200


async def test_a_doorbell_takes_no_exit(tmp_path: Path) -> None:
    """Its value does; another one is an exit.  Each comes behind what the vCPU did before."""
    text = """
        mov dword ptr [rbp + 0x10], 1
        mov ecx, 100
    ring:
        mov word ptr [rbp + 0x1000], 5
        dec ecx; jnz ring
        mov word ptr [rbp + 0x1000], 6
    wait:
        mov eax, [rbp + 0x1008]
        cmp eax, 2; jb wait
    """
    async with running(tmp_path, text) as (guest, ended):
        await ended.wait()
        assert guest.rung.count(6) == 1
        assert 1 <= guest.rung.count(5) <= 100
        by_eventfd = [record[2] for record in guest.accesses(WRITE) if record[8] == 5]
        assert set(by_eventfd) == {-1}
        assert guest.accesses(WRITE)[0][8] == 1


async def test_what_is_watched_is_taken_out_of_the_guest(tmp_path: Path) -> None:
    """Once the withdrawal is acknowledged every access comes to the daemon; afterwards none again."""
    text = """
        mov dword ptr [rbp + 0x10], 21
    poll:
        mov eax, [rbp + 0x20]
        mov word ptr [rbp + 0x1000], 5
        cmp byte ptr [rbp + 0x100], 0x55; jne poll
    """
    async with running(tmp_path, text) as (guest, ended):
        attachment = guest.daemon.attachments["vm"]
        assert isinstance(attachment, VmAttachment)
        await until(lambda: attachment.grants is not None and bool(attachment.grants.given))
        assert attachment.grants is not None
        assert {GrantKind.PAGE, GrantKind.DOORBELL} == {known.kind for known in attachment.grants.given}
        serial = guest.daemon.recorder.serial
        guest.machine.withhold("panel", "watch")
        await attachment.withdrawn()
        assert not attachment.grants.ending
        await until(lambda: len(guest.accesses(READ, serial)) >= 20)
        assert {0, 42} == {record[8] for record in guest.accesses(READ, serial)}
        guest.daemon.work(partial(guest.machine.release, "panel"))
        panel = guest.machine.hosts["panel"]
        await rings(guest.daemon)
        reads = panel.statistics.reads
        await rings(guest.daemon)
        assert panel.statistics.reads == reads
        guest.daemon.work(lambda: panel.feed(None, "write", "page", 0x100, 1, 0x55))
        await ended.wait()


async def test_quarantine_shows_ones(tmp_path: Path) -> None:
    """The page of a device that fails reads ones before the access that it failed at is completed."""
    text = """
        mov dword ptr [rbp + 0x10], 1
        mov eax, [rbp + 0x20]; mov [0x6000], eax
        mov word ptr [rbp + 0x1000], 7
        mov eax, [rbp + 0x20]; mov [0x6004], eax
    """
    async with running(tmp_path, text) as (guest, ended):
        await ended.wait()
        assert guest.words(2) == [2, 0xFFFFFFFF]
