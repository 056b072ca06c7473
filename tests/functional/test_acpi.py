"""ACPI tables as stock SeaBIOS leaves them in RAM, judged by ACPICA's own tools."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest

from mmiod.machine.memory import GuestMemory
from tests.device.iasl import check_compiles_to_itself, check_decodes
from tests.functional.boots import Boot, booting, pc

pytestmark = pytest.mark.needs("seabios", "unicorn", "acpica")

ALWAYS = {"RSDT", "XSDT", "DSDT", "FACS", "FACP", "APIC"}
TABLES = {"pc-ecam.toml": {*ALWAYS, "MCFG"}, "pc-more.toml": {*ALWAYS, "HPET"}}


def table(memory: GuestMemory, gpa: int) -> bytes:
    """A table by its address; its length is in its header."""
    (length,) = struct.unpack("<I", memory.read(gpa + 4, 4))
    assert 0 < length < 1 << 20
    return memory.read(gpa, length)


def found(memory: GuestMemory) -> dict[str, bytes]:
    """All tables, as an operating system finds them: RSDP in the F segment, XSDT, FADT."""
    segment = memory.read(0xF_0000, 0x1_0000)
    places = [at for at in range(0, len(segment), 16) if segment.startswith(b"RSD PTR ", at)]
    rsdp = segment[places[-1] :][:36]
    assert (0, 0) == (sum(rsdp[:20]) & 0xFF, sum(rsdp) & 0xFF)
    rsdt, xsdt = struct.unpack("<I4xQ", rsdp[16:32])
    tables = {"RSDT": table(memory, rsdt), "XSDT": table(memory, xsdt)}
    addresses = struct.unpack(f"<{(len(tables['XSDT']) - 36) // 8}Q", tables["XSDT"][36:])
    assert struct.unpack(f"<{len(addresses)}I", tables["RSDT"][36:]) == addresses
    for gpa in addresses:
        listed = table(memory, gpa)
        tables[listed[:4].decode()] = listed
    facs, dsdt, x_dsdt = struct.unpack("<II96xQ", tables["FACP"][36:148])
    assert dsdt == x_dsdt
    tables["DSDT"], tables["FACS"] = table(memory, dsdt), table(memory, facs)
    assert facs % 64 == 0
    return tables


@pytest.mark.parametrize("file", TABLES)
async def test_tables_in_ram_decode_without_complaint(tmp_path: Path, file: str) -> None:
    """Every table sums up to 0 and is plain to iasl; the DSDT compiles again, without a warning."""
    async with booting(tmp_path, Boot(pc(file))) as under_way:
        log = await under_way.reaches_its_end()
        tables = found(under_way.daemon.machines["vm"].memory)
    assert TABLES[file] == set(tables)
    assert re.search(r"table\(50434146\)=0x[0-9a-f]+ \(via [rx]sdt\)", log)
    for name, data in tables.items():
        assert name == "FACS" or sum(data) & 0xFF == 0
        check_decodes(tmp_path, name, data)
    check_compiles_to_itself(tmp_path, "DSDT", tables["DSDT"])


async def test_firmware_takes_the_pm_timer_and_the_functions_from_the_tables(tmp_path: Path) -> None:
    """The timer is read at 608h, where the FADT has it; both test functions are found."""
    async with booting(tmp_path, Boot(pc("pc-ecam.toml"), icount=3)) as under_way:
        log = await under_way.reaches_its_end()
        timer = [record for record in under_way.trace() if record[11] == "pmtmr"]
    assert "overrun" not in log
    assert "Using pmtimer, ioport 0x608" in log
    assert "PCI: init bdf=00:04.0 id=1234:6d6e" in log
    assert {0x608} == {record[6] for record in timer}


async def test_firmware_finds_the_tpms_table_and_its_log(tmp_path: Path) -> None:
    """TPM2 is looked up by signature; the log is where its LASA says, allocated from RAM."""
    async with booting(tmp_path, Boot(pc("pc-tpm.toml"))) as under_way:
        # Without a TPM behind the registers the firmware's end is minutes away.
        await under_way.says(r"table\(324d5054\)=0x[0-9a-f]+ \(via [rx]sdt\)")
        tpm2 = found(under_way.daemon.machines["vm"].memory)["TPM2"]
    laml, lasa = struct.unpack("<IQ", tpm2[64:])
    assert 0x10_0000 <= lasa < lasa + laml <= 128 << 20
