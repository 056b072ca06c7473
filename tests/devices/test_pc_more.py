"""config/machines/pc-more.toml: what it has beyond pc.toml, driven as an operating system does."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest

from mmiod.device import Request
from mmiod.values import READ, WRITE, Space
from tests.device.firmware import Firmware
from tests.devices.pcs import BAR0, COMMAND, Pc, described
from tests.devices.test_pc_ecam import files

HPET, IOAPIC = 0xFED0_0000, 0xFEC0_0000
IOREGSEL, IOWIN, EOI = 0x00, 0x10, 0x40
EDU = 0x2800
"""Slot 5, as bits 15:8 of CONFADD."""
PIRQRCA = 0x60
PIIX3 = 0x0800


@pytest.fixture(name="pc")
def _pc() -> Iterator[Pc]:
    """A PC after power-on; nothing in it failed when the test is over."""
    pc = Pc(described("pc-more.toml"))
    yield pc
    assert {} == {name: host.failure for name, host in pc.machine.hosts.items() if host.failure}


def load(pc: Pc, address: int, size: int = 4) -> int:
    """A read of memory."""
    return pc.access(Space.MMIO, address, size, READ)


def store(pc: Pc, address: int, value: int, size: int = 4) -> None:
    """A write of memory."""
    pc.access(Space.MMIO, address, size, WRITE, value)


def redirect(pc: Pc, line: int, low: int) -> None:
    """An entry of the I/O APIC, to the CPU with ID 0."""
    store(pc, IOAPIC + IOREGSEL, 0x10 + 2 * line)
    store(pc, IOAPIC + IOWIN, low)


def wait(pc: Pc, ns: int) -> None:
    """Let time pass."""
    pc.now_ns += ns
    pc.machine.clock.fire_due()


def prepare_pics(pc: Pc, *, mask: int) -> None:
    """ICW1-4 of the master, base 08h."""
    for port, value in ((0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, mask)):
        pc.out(port, value)


def test_the_hpet_table_says_what_the_hpet_says(pc: Pc) -> None:
    """HPET 1.0a, 3.2.4: the block ID is the low half of GCAP_ID, the address is where that is read."""
    table = Firmware(files(pc)).run().tables()["HPET"]
    block, space, width, address = struct.unpack("<IBBxxQ", table[36:52])
    assert (0, 64, HPET) == (space, width, address)
    assert block == load(pc, address)


def test_the_madt_names_the_io_apic(pc: Pc) -> None:
    """ACPI 6.5, 5.2.12.3 and 5.2.12.5: its address; ISA IRQ 0 is input 2."""
    table = Firmware(files(pc)).run().tables()["APIC"]
    assert struct.pack("<BBBxII", 1, 12, 0, IOAPIC, 0) in table
    assert struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0) in table


def test_the_pit_ticks_through_the_hpet(pc: Pc) -> None:
    """At IR0 of the 8259, and at input 2 of the I/O APIC."""
    prepare_pics(pc, mask=0xFE)
    redirect(pc, 2, 0x30)
    for port, value in ((0x43, 0x34), (0x40, 0x00), (0x40, 0x10)):
        pc.out(port, value)
    wait(pc, 4_000_000)
    assert pc.interrupted()
    assert 8 == pc.machine.acknowledge(0)
    assert [(0xFEE0_0000, 0x30)] == pc.messages


def test_the_hpet_takes_the_place_of_the_pit(pc: Pc) -> None:
    """HPET 1.0a, 2.3.5, LEG_RT_CNF: timer 0 at IR0 each ms; an EOI, then the next."""
    prepare_pics(pc, mask=0xFE)
    store(pc, HPET + 0x100, 0x4C)
    store(pc, HPET + 0x108, 100_000, 8)
    store(pc, HPET + 0x10, 3)
    vectors = []
    for _ in range(3):
        wait(pc, 1_000_000)
        assert pc.interrupted()
        vectors.append(pc.machine.acknowledge(0))
        pc.out(0x20, 0x20)
        assert not pc.interrupted()
    assert [8, 8, 8] == vectors


def test_a_timer_of_the_hpet_reaches_the_io_apic_until_its_end(pc: Pc) -> None:
    """Level-triggered at input 20; the hypervisor writes its CPU's EOI to the I/O APIC."""
    redirect(pc, 20, 0x8051)
    store(pc, HPET + 0x100, 20 << 9 | 0x06)
    store(pc, HPET + 0x108, 1000, 8)
    store(pc, HPET + 0x10, 1)
    wait(pc, 10_000)
    counts = [len(pc.messages)]
    store(pc, IOAPIC + EOI, 0x51)
    counts.append(len(pc.messages))
    store(pc, HPET + 0x20, 1)
    store(pc, IOAPIC + EOI, 0x51)
    counts.append(len(pc.messages))
    assert [1, 2, 2] == counts


def test_an_interrupt_of_the_function_is_routed_to_both_controllers(pc: Pc) -> None:
    """INTA of slot 5 is PIRQA, here IRQ 10: input 10, and IR2 of the slave."""
    pc.configure(PIIX3, PIRQRCA, 10, 1)
    pc.configure(EDU, BAR0, 0xFEA0_0000)
    pc.configure(EDU, COMMAND, 6, 2)
    redirect(pc, 10, 0x8052)
    store(pc, 0xFEA0_0060, 1)
    pc.out(0xA0, 0x0A)
    assert ([(0xFEE0_0000, 0xC052)], 4) == (pc.messages, pc.inp(0xA0))


def test_a_guest_ends_its_hypervisor(pc: Pc) -> None:
    """By port F4h."""
    pc.out(0xF4, 0x10, 4)
    assert [Request.EXIT] == pc.requests
