"""config/machines/pc.toml: its devices placed and wired, driven by ports as firmware does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mmiod.values import READ, WRITE, Space
from tests.devices.pcs import (
    BAR0,
    BAR2,
    BAR4,
    COMMAND,
    CONFADD,
    CONFDATA,
    I440FX,
    PIIX3,
    PIRQRCC,
    PM,
    TESTDEV,
    Pc,
)


@pytest.fixture(name="pc")
def _pc() -> Iterator[Pc]:
    """A PC after power-on; nothing in it failed when the test is over."""
    pc = Pc()
    yield pc
    assert {} == {name: host.failure for name, host in pc.machine.hosts.items() if host.failure}


def test_a_scan_of_the_bus_finds_the_functions_of_the_file(pc: Pc) -> None:
    """All other slots read ones, and no event tells of them."""
    found = {
        slot: pc.config(slot, 0) for slot in range(0, 1 << 16, 1 << 8) if pc.config(slot, 0, 2) != 0xFFFF
    }
    expected = {I440FX: 0x1237_8086, PIIX3: 0x7000_8086, PM: 0x7113_8086, TESTDEV: 0x6D6D_1234}
    assert expected == found
    assert [] == pc.events


@pytest.mark.parametrize("size", [1, 2, 4])
def test_config_data_is_the_same_in_all_sizes(pc: Pc, size: int) -> None:
    """Also where a word is not aligned, or leaves CONFDATA."""
    whole = b"".join(pc.config(PIIX3, register).to_bytes(4, "little") for register in range(0, 256, 4))
    read = b"".join(
        pc.config(PIIX3, register, size).to_bytes(size, "little") for register in range(0, 256, size)
    )
    assert whole == read
    pc.out(CONFADD, 1 << 31, 4)
    assert [0x3780, 0x1237, 0xFF12] == [pc.inp(CONFDATA + offset, 2) for offset in (1, 2, 3)]


def test_a_bar_answers_where_the_guest_put_it_and_moves(pc: Pc) -> None:
    """Sized, placed, enabled, moved: the same register with its value; ones where it was."""
    pc.configure(TESTDEV, BAR0, 0xFFFF_FFFF)
    assert pc.config(TESTDEV, BAR0) == 0xFFFF_F000
    pc.configure(TESTDEV, COMMAND, 2, 2)
    seen = []
    for base in (0xFEBF_0000, 0xE000_0000):
        pc.configure(TESTDEV, BAR0, base)
        seen.append(pc.access(Space.MMIO, base + 4, 4, READ))
        pc.access(Space.MMIO, base + 4, 4, WRITE, 0x1234_5678)
    assert [0, 0x1234_5678] == seen
    assert pc.access(Space.MMIO, 0xFEBF_0004, 4, READ) == 0xFFFF_FFFF
    pc.configure(TESTDEV, COMMAND, 0, 2)
    assert pc.access(Space.MMIO, 0xE000_0004, 4, READ) == 0xFFFF_FFFF


def test_a_64_bit_bar_answers_above_4_gib(pc: Pc) -> None:
    """RAM of the test function, with an access that straddles 8 bytes."""
    pc.configure(TESTDEV, COMMAND, 2, 2)
    pc.configure(TESTDEV, BAR2, 0x4000_0000)
    pc.configure(TESTDEV, BAR2 + 4, 0x1)
    pc.access(Space.MMIO, 0x1_4000_0FFD, 8, WRITE, 0x1122_3344_5566_7788)
    assert pc.access(Space.MMIO, 0x1_4000_0FFE, 4, READ) == 0x4455_6677


def test_a_guest_cannot_put_a_bar_over_a_device_of_the_file(pc: Pc) -> None:
    """What the machine file placed wins: the UART still answers."""
    pc.configure(TESTDEV, BAR4, 0x3F0)
    pc.configure(TESTDEV, COMMAND, 1, 2)
    pc.out(0x3FF, 0x5A)
    assert pc.inp(0x3FF) == 0x5A
    pc.out(0x3F0, 0xA5)
    assert pc.inp(0x3F0) == 0xA5


def test_an_interrupt_goes_from_the_function_through_pirq_and_pic(pc: Pc) -> None:
    """Slot 3, INTA is PIRQC; routed to IRQ 11, which ELCR makes level; the vector is the PIC's."""
    for port, value in ((0x20, 0x11), (0x21, 0x08), (0x21, 0x04), (0x21, 0x01)):
        pc.out(port, value)
    for port, value in ((0xA0, 0x11), (0xA1, 0x70), (0xA1, 0x02), (0xA1, 0x01)):
        pc.out(port, value)
    pc.out(0x21, 0xFB)
    pc.out(0xA1, 0xF7)
    pc.out(0x4D1, 0x08)
    pc.configure(PIIX3, PIRQRCC, 11, 1)
    pc.configure(TESTDEV, BAR4, 0xC000)
    pc.configure(TESTDEV, BAR0, 0xFEBF_0000)
    pc.configure(TESTDEV, COMMAND, 3, 2)
    pc.access(Space.MMIO, 0xFEBF_0028, 4, WRITE, 1)
    assert not pc.interrupted()
    pc.out(0xC004, 1, 4)
    assert pc.interrupted()
    assert pc.machine.acknowledge(0) == 0x73
    pc.access(Space.MMIO, 0xFEBF_0024, 4, WRITE, 1)
    pc.out(0xA0, 0x20)
    pc.out(0x20, 0x20)
    assert not pc.interrupted()


def test_the_pm_timer_is_where_pmba_says(pc: Pc) -> None:
    """SeaBIOS's set-up, and one second."""
    pc.configure(PM, 0x40, 0xB001)
    pc.configure(PM, 0x80, 1, 1)
    pc.now_ns = 1_000_000_000
    assert pc.inp(0xB008, 4) == 3_579_545
    assert [0xB2, 0xB000] == pc.where(Space.PIO, "pm")


def test_a_reset_takes_away_what_the_guest_placed(pc: Pc) -> None:
    """What the machine file placed stays."""
    pc.configure(TESTDEV, BAR0, 0xFEBF_0000)
    pc.configure(TESTDEV, COMMAND, 2, 2)
    assert [0xFEBF_0000] == pc.where(Space.MMIO, "testdev")
    pc.machine.reset()
    assert [] == pc.where(Space.MMIO, "testdev")
    assert [0x18000] == pc.where(Space.PCI_CONFIG, "testdev")


def test_rc_shares_its_ports_with_confadd(pc: Pc) -> None:
    """A byte at CF9h asks for a reset, a doubleword at CF8h does not."""
    pc.out(CONFADD, 0x8000_0600, 4)
    assert [] == pc.events
    pc.out(0xCF9, 0x06)
    assert ["hypervisor_requested"] == pc.events
    assert pc.inp(CONFADD, 4) == 0x8000_0600


def test_firmware_finds_its_files(pc: Pc) -> None:
    """The directory by the data port, byte by byte: the names of the file, and e820."""
    pc.out(0x510, 0x19, 2)
    data = bytes(pc.inp(0x511) for _ in range(4 + 3 * 64))
    names = [data[12 + 64 * number :][:56].rstrip(b"\0") for number in range(int.from_bytes(data[:4], "big"))]
    assert [b"etc/boot-fail-wait", b"etc/boot-menu-wait", b"etc/e820"] == names
