"""The reference hypervisor's link in shared memory, against the real daemon in another process."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from attrs import define

from mmiod.protocol.exit.client import Client
from mmiod.protocol.exit.table import NUMBERS
from mmiod.values import READ, WRITE, DecodedExit, HaltExit, Space, TickExit, Values
from mmiod.vmm.link import Link
from mmiod.vmm.slot import OFFERED
from mmiod.vmm.wire import connect_to

pytestmark = pytest.mark.skipif(not OFFERED, reason="x86-64 only")

UART = 0x3F8
DLL, IER, LCR, LSR, SCR = UART, UART + 1, UART + 3, UART + 5, UART + 7
NOBODY = 0x70
CF8, CFC = 0xCF8, 0xCFC
PM_TIMER = 0xB008
POWER_MANAGEMENT = 0x80000000 | 1 << 11 | 3 << 8
"""00:01.3, as CF8 selects it."""
_CAPABILITY = NUMBERS["capability"]


@define
class Cpu:
    """Accesses of a vCPU: without a message where that goes, or `asked` for by one."""

    link: Link

    def load(self, port: int, size: int = 1) -> int:
        """IN."""
        found = self.link.load(Space.PIO, port, size)
        return self.ask(Space.PIO, port, size) if found is None else int.from_bytes(found, "little")

    def store(self, port: int, value: int, size: int = 1) -> None:
        """OUT."""
        data = value.to_bytes(size, "little")
        if not self.link.store(Space.PIO, port, data):
            self.link.exchange(DecodedExit(0, 0, Space.PIO, WRITE, port, size, data=data), 0)

    def ask(self, space: Space, address: int, size: int, count: int = 1) -> int:
        """A read that goes to the device."""
        done = self.link.exchange(DecodedExit(0, 0, space, READ, address, size, count), 0)
        assert done is not None
        assert isinstance(done.completion, Values)
        return int.from_bytes(done.completion.data, "little")


@pytest.fixture
def cpu(exit_socket: Path) -> Iterator[Cpu]:
    """A new session."""
    required = sum(_CAPABILITY[name] for name in ("INTR", "SHARED_MEMORY", "PUBLISHED"))
    link = Link(connect_to(str(exit_socket)), Client("vm", vcpus=1, required=required), (), patience=20)
    link.open()
    while link.slot is None or not link.slot.usable:
        link.wait()
    link.exchange(TickExit(0, 0), 0)  # powers the machine on
    yield Cpu(link)
    link.close()


def test_published_registers_need_no_message(cpu: Cpu) -> None:
    """LSR and SCR are on the page; RBR is not, its read has an effect; words are split by the daemon."""
    tally = cpu.link.tally
    assert tally.slots == 1
    assert (cpu.load(LSR), cpu.load(SCR)) == (0x60, 0)
    assert (tally.slots, tally.loads) == (1, 2)
    cpu.load(UART)
    cpu.load(SCR, 2)
    assert (tally.slots, tally.loads, tally.messages) == (3, 2, 0)


def test_a_program_sees_its_posted_writes(cpu: Cpu) -> None:
    """A read waits for those that change it, also for the one that selects its bank."""
    wrong = 0
    for number in range(300):
        cpu.store(SCR, number & 0xFF)
        wrong += cpu.load(SCR) != number & 0xFF
        cpu.store(LCR, 0x80 | number & 0x3F)
        cpu.store(DLL, number >> 3 & 0xFF)
        wrong += cpu.load(DLL) != number >> 3 & 0xFF
        wrong += cpu.load(LCR) != 0x80 | number & 0x3F
        cpu.store(LCR, 3)
        cpu.store(IER, number & 1)
        wrong += cpu.load(IER) != number & 1
    assert wrong == 0
    assert cpu.link.tally.posts > 300


def test_posted_writes_are_never_more_than_the_ring_holds(cpu: Cpu) -> None:
    """A row of writes that nobody reads behind: each reaches its device, the last one last."""
    for number in range(500):
        cpu.store(SCR, number & 0xFF)
    assert cpu.ask(Space.PIO, SCR, 1) == 499 & 0xFF
    assert cpu.link.client.unanswered(0) == []


def test_config_space_is_read_by_the_latch(cpu: Cpu) -> None:
    """What CF8 selects is latched here; each value is what the function itself answers."""
    for device in range(4):
        for register in range(0, 0x40, 4):
            cpu.store(CF8, 0x80000000 | device << 11 | register, 4)
            function = device << 15 | register
            assert cpu.load(CFC, 4) == cpu.ask(Space.PCI_CONFIG, function, 4), (device, register)
            assert cpu.load(CFC + 2, 2) == cpu.ask(Space.PCI_CONFIG, function + 2, 2)
    cpu.store(CF8, 0, 4)
    assert cpu.load(CFC, 4) == 0xFFFFFFFF
    assert cpu.link.tally.loads > 100


def test_a_counter_is_counted_here(cpu: Cpu) -> None:
    """The PM timer between two reads of the device itself."""
    for register, value in ((0x40, 0xB001), (0x80, 1)):
        cpu.store(CF8, POWER_MANAGEMENT | register, 4)
        cpu.store(CFC, value, 4)
    slots = cpu.link.tally.slots
    times = [
        (cpu.ask(Space.PIO, PM_TIMER, 4), cpu.load(PM_TIMER, 4), cpu.ask(Space.PIO, PM_TIMER, 4))
        for _ in range(50)
    ]
    assert all((after - before) % (1 << 24) >= (here - before) % (1 << 24) for before, here, after in times)
    assert cpu.link.tally.slots == slots + 100


def test_a_completion_that_does_not_fit_comes_by_message(cpu: Cpu) -> None:
    """2048 bytes of INSB: the slot has room for 1024; the exit is not executed twice."""
    assert cpu.ask(Space.PIO, NOBODY + 0x100, 1, count=2048) == (1 << 8 * 2048) - 1
    assert (cpu.ask(Space.PIO, LSR, 1), cpu.link.tally.messages) == (0x60, 0)


def test_a_reset_ends_what_is_in_the_slot(cpu: Cpu) -> None:
    """A halt that nothing ends; the slot is free for the next exit."""
    link = cpu.link
    assert link.slot is not None
    link.slot.put(link.client.exit(HaltExit(0, 0)))
    link.reset()
    assert not link.slot.busy
    assert cpu.ask(Space.PIO, LSR, 1) == 0x60


def test_a_broken_connection_gets_a_new_slot(cpu: Cpu) -> None:
    """Posted writes that nobody acknowledged go again, once; the page comes back with the ACK."""
    link = cpu.link
    for number in range(1, 40):
        cpu.store(SCR, number)
    old = link.slot
    assert link.wire is not None
    link.wire.socket.shutdown(socket.SHUT_RDWR)
    assert cpu.ask(Space.PIO, SCR, 1) == 39
    assert link.slot is not old
    while link.slot is None or not link.slot.usable:
        link.wait()
    loads = link.tally.loads
    cpu.store(SCR, 0x55)
    assert (cpu.load(SCR), link.tally.loads) == (0x55, loads + 1)
