"""The tables themselves, and the files in which fw_cfg hands them over.

Specifications: ACPI 6.5, 5.2 (RSDP 5.2.5, header 5.2.6, RSDT 5.2.7, XSDT 5.2.8, FADT
5.2.9, FACS 5.2.10, MADT 5.2.12); PCI Firmware 3.2, 4.1.2 (MCFG); IA-PC HPET 1.0a, 3.2.4;
TCG ACPI 1.3, 8 (TPM2).

A table's pointers hold offsets until firmware adds where it put the file they are into,
and its checksum is 0 until firmware has summed it: see `loader`.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator
from typing import Final

from attrs import define, field, frozen

from mmiod.device.acpi.dsdt import definition
from mmiod.device.acpi.loader import LoaderScript, Zone
from mmiod.device.acpi.platform import BUSES, CPUS_MAX, Platform
from mmiod.device.tpm import BASE as TPM_BASE

RSDP, TABLES, TPM_LOG, LOADER = "etc/acpi/rsdp", "etc/acpi/tables", "etc/tpm/log", "etc/table-loader"
TPM_LOG_LENGTH: Final = 64 << 10
"""At least 64 KiB (TCG PC Client Platform Firmware Profile 1.05, 10.2)."""

_OEM: Final = b"MMIOD "
_OEM_TABLE: Final = b"MMIODPC "
_COMPILER: Final = b"MMIO"
_HEADER: Final = struct.Struct("<4sIBB6s8sI4sI")
_CHECKSUM_AT: Final = 9
_ALIGNMENT: Final = 64
"""A FACS needs it."""
_LOCAL_APIC: Final = 0xFEE0_0000
_HPET_BLOCK: Final = 0x8086_A201
"""Intel, 64 bits, three comparators, revision 1: what a HPET's GCAP_ID shows too."""


class Fadt(enum.IntFlag):
    """Flags of the FADT: what is fixed, table 5.10."""

    WBINVD = 1 << 0
    PROC_C1 = 1 << 2
    PWR_BUTTON = 1 << 4
    """No fixed power button; there is none at all."""
    SLP_BUTTON = 1 << 5
    FIX_RTC = 1 << 6
    """The RTC's wake status is not in fixed registers."""
    TMR_VAL_EXT = 1 << 8
    RESET_REG_SUP = 1 << 10


class BootArchitecture(enum.IntFlag):
    """IAPC_BOOT_ARCH, table 5.11."""

    LEGACY_DEVICES = 1 << 0
    KEYBOARD_8042 = 1 << 1


@frozen
class Table:
    """A description table: what follows its header, and which of its fields point where.

    `pointers` maps an offset, from the table's start, to the signature of the table or
    the name of the file to which it points, and the pointer's size.
    """

    signature: str
    revision: int
    body: bytes
    pointers: dict[int, tuple[str, int]] = field(factory=dict)

    def data(self) -> bytes:
        """The table, checksum and pointers 0."""
        length = _HEADER.size + len(self.body)
        signature = self.signature.encode()
        header = (signature, length, self.revision, 0, _OEM, _OEM_TABLE, 1, _COMPILER, 1)
        return _HEADER.pack(*header) + self.body


@define
class _Files:
    """Tables put one behind the other into one file, and the script that finishes it."""

    data: bytearray = field(factory=bytearray)
    offsets: dict[str, int] = field(factory=dict)
    script: LoaderScript = field(factory=LoaderScript)

    def add(self, signature: str, data: bytes) -> int:
        """Append something; where it is."""
        self.data += bytes(-len(self.data) % _ALIGNMENT)
        self.offsets[signature] = len(self.data)
        self.data += data
        return self.offsets[signature]

    def add_table(self, table: Table) -> None:
        """Append a table; those to which it points are there already."""
        start = self.add(table.signature, table.data())
        for offset, (target, size) in table.pointers.items():
            at = start + offset
            self.data[at : at + size] = self.offsets.get(target, 0).to_bytes(size, "little")
            self.script.add_pointer(TABLES, at, size, TABLES if target in self.offsets else target)
        self.script.add_checksum(TABLES, start + _CHECKSUM_AT, start, len(self.data) - start)


def files(platform: Platform, cpus: int, below_4g: int) -> dict[str, bytes]:
    """All files of fw_cfg that tell firmware of `platform`.

    Args:
        platform: the machine's fixed hardware.
        cpus: how many there are, at most 254.
        below_4g: where RAM below 4 GiB ends.
    """
    if cpus > CPUS_MAX:
        raise ValueError(f"{cpus} CPUs; these tables have room for {CPUS_MAX}")
    built = _Files()
    built.script.allocate(RSDP, 16, Zone.FSEG)
    if platform.tpm is not None:
        built.script.allocate(TPM_LOG, 1, Zone.HIGH)
    built.script.allocate(TABLES, _ALIGNMENT, Zone.HIGH)
    built.add("FACS", _facs())
    built.add_table(Table("DSDT", 2, definition(platform, cpus, below_4g)))
    listed = list(_listed(platform, cpus))
    for table in listed:
        built.add_table(table)
    for signature, revision, size in (("RSDT", 1, 4), ("XSDT", 1, 8)):
        pointers = {_HEADER.size + size * n: (table.signature, size) for n, table in enumerate(listed)}
        built.add_table(Table(signature, revision, bytes(size * len(listed)), pointers))
    rsdp = _rsdp(built)
    log = {TPM_LOG: bytes(TPM_LOG_LENGTH)} if platform.tpm else {}
    return {RSDP: rsdp, TABLES: bytes(built.data), LOADER: bytes(built.script.data)} | log


def _listed(platform: Platform, cpus: int) -> Iterator[Table]:
    """The tables that RSDT and XSDT list."""
    yield _fadt(platform)
    yield _madt(platform, cpus)
    if platform.ecam is not None:
        # Segment group 0, all buses.
        yield Table("MCFG", 1, struct.pack("<8xQHBB4x", platform.ecam, 0, 0, BUSES - 1))
    if platform.hpet is not None:
        # A memory address of 64 bits; HPET number, minimum tick and page protection are 0.
        yield Table("HPET", 1, struct.pack("<IBBxxQ4x", _HPET_BLOCK, 0, 64, platform.hpet))
    if platform.tpm is not None:
        yield _tpm2(platform.tpm)


def _rsdp(built: _Files) -> bytes:
    """Revision 2; the first checksum is that of the 20 bytes of revision 0."""
    rsdt, xsdt = built.offsets["RSDT"], built.offsets["XSDT"]
    rsdp = struct.pack("<8sB6sBIIQB3x", b"RSD PTR ", 0, _OEM, 2, rsdt, 36, xsdt, 0)
    built.script.add_pointer(RSDP, 16, 4, TABLES)
    built.script.add_pointer(RSDP, 24, 8, TABLES)
    built.script.add_checksum(RSDP, 8, 0, 20)
    built.script.add_checksum(RSDP, 32, 0, 36)
    return rsdp


def _facs() -> bytes:
    """It has no checksum; version 1, and nothing to wake up to."""
    return struct.pack("<4sI24xB31x", b"FACS", 64, 1)


def _ports(base: int, bits: int, access: int) -> bytes:
    """A generic address in I/O space (5.2.3.2), accessed by `access` bytes."""
    return struct.pack("<BBBBQ", 1, bits, 0, access.bit_length(), base)


def _fadt(platform: Platform) -> Table:
    event, control, timer = platform.pm_base, platform.pm_base + 4, platform.pm_base + 8
    flags = Fadt.WBINVD | Fadt.PROC_C1 | Fadt.PWR_BUTTON | Fadt.SLP_BUTTON | Fadt.FIX_RTC | Fadt.RESET_REG_SUP
    if platform.pm_timer_width == 32:
        flags |= Fadt.TMR_VAL_EXT
    boot = BootArchitecture.LEGACY_DEVICES
    if "keyboard" in platform.isa:
        boot |= BootArchitecture.KEYBOARD_8042
    absent = bytes(12)
    body = b"".join(
        (
            # FIRMWARE_CTRL, DSDT, profile, SCI_INT, SMI_CMD, ACPI_ENABLE, ACPI_DISABLE, S4BIOS, P-states.
            struct.pack("<IIxBHIBBBB", 0, 0, 0, platform.sci, platform.smi_command, 0xF1, 0xF0, 0, 0),
            # PM1a_EVT, PM1b_EVT, PM1a_CNT, PM1b_CNT, PM2_CNT, PM_TMR, GPE0, GPE1.
            struct.pack("<8I", event, 0, control, 0, 0, timer, 0, 0),
            # Their lengths; GPE1_BASE, _CST; no C2 and C3; no flush, duty cycle, alarms; century in CMOS 32h.
            struct.pack("<8BHH2HBBBBB", 4, 2, 0, 4, 0, 0, 0, 0, 101, 1001, 0, 0, 0, 0, 0, 0, 0x32),
            struct.pack("<HxI", boot, flags),
            _ports(platform.reset_port, 8, 1),
            # RESET_VALUE, ARM_BOOT_ARCH, minor version, X_FIRMWARE_CTRL (the 32-bit one counts), X_DSDT.
            struct.pack("<BHBQQ", platform.reset_value, 0, 5, 0, 0),
            _ports(event, 32, 2) + absent + _ports(control, 16, 2) + absent + absent,
            _ports(timer, 32, 4) + absent + absent,
            absent + absent + bytes(8),
        )
    )
    return Table("FACP", 6, body, {36: ("FACS", 4), 40: ("DSDT", 4), 140: ("DSDT", 8)})


def _madt(platform: Platform, cpus: int) -> Table:
    """Local APICs always, as table and CPUs demand; the I/O APIC and its overrides where it is."""
    pc_at_compatible = 1
    parts = [struct.pack("<II", _LOCAL_APIC, pc_at_compatible)]
    parts += [struct.pack("<BBBBI", 0, 8, number, number, 1) for number in range(cpus)]
    if platform.io_apic is not None:
        parts.append(struct.pack("<BBBxII", 1, 12, 0, platform.io_apic, 0))
        parts.append(struct.pack("<BBBBIH", 2, 10, 0, 0, 2, 0))
        active_high, level = 1, 3 << 2
        for irq in sorted({platform.sci, *platform.pirqs}):
            parts.append(struct.pack("<BBBBIH", 2, 10, 0, irq, irq, active_high | level))
        parts.append(struct.pack("<BBBHB", 4, 6, 0xFF, 0, 1))
    return Table("APIC", 5, b"".join(parts))


def _tpm2(interface: str) -> Table:
    """A client platform's; start method 7 is CRB, 6 is TIS, which has no control area."""
    control, method = (TPM_BASE + 0x40, 7) if interface == "crb" else (0, 6)
    body = struct.pack("<HHQI12sIQ", 0, 0, control, method, bytes(12), TPM_LOG_LENGTH, 0)
    return Table("TPM2", 4, body, {68: (TPM_LOG, 8)})
