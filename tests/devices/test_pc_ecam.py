"""config/machines/pc-ecam.toml: what it has beyond pc.toml, driven as an operating system does."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from attrs import evolve

from mmiod.device import Request
from mmiod.errors import MachineError
from mmiod.values import READ, WRITE, Space
from tests.device.firmware import Firmware
from tests.devices.pcs import BAR0, COMMAND, PM, Pc, described

ECAM = 0xB000_0000
EXPRESS = 0x2000
"""Slot 4, as bits 15:8 of CONFADD."""
MSIX = 0xA0
MESSAGE = (0xFEE0_0000, 0x4031)


@pytest.fixture(name="pc")
def _pc() -> Iterator[Pc]:
    """A PC after power-on; nothing in it failed when the test is over."""
    pc = Pc(described("pc-ecam.toml"))
    yield pc
    assert {} == {name: host.failure for name, host in pc.machine.hosts.items() if host.failure}


def mmio(pc: Pc, address: int, size: int = 4) -> int:
    """A read of memory."""
    return pc.access(Space.MMIO, address, size, READ)


def store(pc: Pc, address: int, value: int, size: int = 4) -> None:
    """A write of memory."""
    pc.access(Space.MMIO, address, size, WRITE, value)


def files(pc: Pc) -> dict[str, bytes]:
    """What fw_cfg hands over, by its data port."""
    pc.out(0x510, 0x19, 2)
    count = int.from_bytes(bytes(pc.inp(0x511) for _ in range(4)), "big")
    entries = [bytes(pc.inp(0x511) for _ in range(64)) for _ in range(count)]
    found = {}
    for entry in entries:
        size, key, name = struct.unpack(">IHxx56s", entry)
        pc.out(0x510, key, 2)
        found[name.rstrip(b"\0").decode()] = bytes(pc.inp(0x511) for _ in range(size))
    return found


def tables(pc: Pc) -> dict[str, bytes]:
    """The ACPI tables, as firmware links them."""
    return Firmware(files(pc)).run().tables()


# --- ECAM ------------------------------------------------------------------------------------


def test_both_ways_reach_the_same_functions(pc: Pc) -> None:
    """All of the first 256 bytes of every slot of bus 0, absent ones included."""
    for slot in range(0, 1 << 16, 1 << 11):
        for register in range(0, 256, 4):
            assert pc.config(slot, register) == mmio(pc, ECAM + (slot << 4) + register)
    assert [] == pc.events


def test_writes_of_one_way_are_seen_on_the_other(pc: Pc) -> None:
    """In every size; 8 bytes are two doublewords."""
    base = ECAM + (EXPRESS << 4)
    store(pc, base + 0x3C, 0x0B, 1)
    assert pc.config(EXPRESS, 0x3C, 1) == 0x0B
    store(pc, base + COMMAND, 0x0006, 2)
    pc.configure(EXPRESS, BAR0, 0xFEBF_0000)
    assert (0xFEBF_0000, 6) == (mmio(pc, base + BAR0), mmio(pc, base + COMMAND, 2))
    assert mmio(pc, base, 8) == 0x0010_0006_6D6E_1234


def test_extended_space_is_there_for_express_functions_only(pc: Pc) -> None:
    """PCI Express Base 3.0, 7.2.1: a conventional function does not answer above FFh."""
    assert mmio(pc, ECAM + (EXPRESS << 4) + 0x100) == 0
    assert mmio(pc, ECAM + (PM << 4) + 0x100) == 0xFFFF_FFFF


def test_e820_keeps_ram_away_from_ecam(pc: Pc) -> None:
    """PCI Firmware 3.2, 4.1.2: it is reserved in the memory map, too; type 2."""
    assert struct.pack("<QQI", ECAM, 256 << 20, 2) in files(pc)["etc/e820"]


# --- messages -----------------------------------------------------------------------------------


def test_a_message_goes_from_the_function_to_the_hypervisor(pc: Pc) -> None:
    """MSI-X: table in BAR 0, enabled by ECAM, raised by a write."""
    pc.configure(EXPRESS, BAR0, 0xFEBF_0000)
    pc.configure(EXPRESS, COMMAND, 6, 2)
    for offset, value in enumerate((MESSAGE[0], 0, MESSAGE[1], 0)):
        store(pc, 0xFEBF_0810 + 4 * offset, value)
    store(pc, ECAM + (EXPRESS << 4) + MSIX + 2, 0x8000, 2)
    store(pc, 0xFEBF_0000, 1)
    assert [MESSAGE] == pc.messages
    assert not pc.machine.hosts["express"].device.lines["intx"].level


# --- ACPI ---------------------------------------------------------------------------------------


def test_the_reset_register_of_the_fadt_resets(pc: Pc) -> None:
    """ACPI 6.5, 4.8.3.6: the value of RESET_VALUE, to the register of RESET_REG."""
    fadt = tables(pc)["FACP"]
    space, width, _, _, address = struct.unpack("<BBBBQ", fadt[116:128])
    assert (1, 8) == (space, width)
    pc.out(address, fadt[128])
    assert [Request.RESET] == pc.requests


def test_s5_of_the_dsdt_switches_off(pc: Pc) -> None:
    """ACPI 6.5, 7.4.2 and 4.8.3.2.1: SLP_TYP of _S5 and SLP_EN to PM1a_CNT of the FADT."""
    found = tables(pc)
    (control,) = struct.unpack("<I", found["FACP"][64:68])
    dsdt = found["DSDT"]
    package = dsdt[dsdt.index(b"\x08_S5_\x12") + 6 :]
    assert package[:2] == b"\x06\x04"
    pc.configure(PM, 0x40, 0x601)
    pc.configure(PM, 0x80, 1, 1)
    pc.out(control, package[2] << 10 | 1 << 13, 2)
    assert [Request.SHUTDOWN] == pc.requests


def test_acpi_is_enabled_by_the_command_of_the_fadt_and_the_sci_arrives(pc: Pc) -> None:
    """ACPI 6.5, 4.8.2.5: SCI_EN reads 1 after ACPI_ENABLE; the timer's carry is an interrupt on SCI_INT."""
    fadt = tables(pc)["FACP"]
    sci, command, enable = struct.unpack("<HIB", fadt[46:53])
    event, control = struct.unpack("<I4xI", fadt[56:68])
    for port, value in ((0x20, 0x11), (0x21, 8), (0x21, 4), (0x21, 1), (0x21, 0xFB)):
        pc.out(port, value)
    for port, value in ((0xA0, 0x11), (0xA1, 0x70), (0xA1, 2), (0xA1, 1), (0xA1, 0xFF & ~(1 << sci - 8))):
        pc.out(port, value)
    pc.configure(PM, 0x40, 0x601)
    pc.configure(PM, 0x80, 1, 1)
    pc.out(command, enable)
    assert pc.inp(control, 2) & 1
    pc.out(event + 2, 1, 2)
    pc.now_ns = 3_000_000_000
    pc.machine.clock.fire_due()
    assert pc.interrupted()
    assert 0x70 + sci - 8 == pc.machine.acknowledge(0)


# --- what the file says twice ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("acpi", "message"),
    [
        ({"ecam": 0xC000_0000}, "fw_cfg: acpi.ecam says mmio:0xc0000000, where no device is"),
        ({"tpm": "crb"}, "fw_cfg: acpi.tpm says mmio:0xfed40000, where no device is"),
        ({"isa": ["com2"]}, "fw_cfg: acpi.isa.com2 says pio:0x2f8, where no device is"),
    ],
)
def test_tables_that_name_absent_devices_are_refused(acpi: dict[str, object], message: str) -> None:
    """The machine is not built; the message has the key and the place."""
    file = described("pc-ecam.toml")
    fw_cfg = file.devices["fw_cfg"]
    settings = {**fw_cfg.config, "acpi": acpi}
    devices = {**file.devices, "fw_cfg": evolve(fw_cfg, config=settings)}
    with pytest.raises(MachineError, match=message):
        Pc(evolve(file, devices=devices))
