"""The DSDT: the machine's devices as an operating system finds them.

Specification: ACPI 6.5: `_S5` 7.4.2, `_PRT` 6.2.13, `_CRS` 6.2.2, processors 8.4.  IDs
are those of the PNP list, of QEMU (docs/specs) and of the TCG ACPI Specification 1.3.

Interrupts of PCI functions are named by their number instead of by link devices: what
firmware has routed stays as it is, so nobody has to interpret methods to use one.
"""

from __future__ import annotations

from collections.abc import Iterator

from mmiod.device.acpi import aml
from mmiod.device.acpi.platform import ECAM_LENGTH, ISA, IsaDevice, Platform
from mmiod.device.tpm import BASE as TPM_BASE, LOCALITIES as TPM_LOCALITIES, PAGE as TPM_PAGE

_HPET_LENGTH = 0x400
_CONFADD, _CONFADD_END = 0xCF8, 0xCFF
_PM_LENGTH = 64
_PCI_SLOTS, _PCI_PINS = 32, 4


def definition(platform: Platform, cpus: int, below_4g: int) -> bytes:
    """The AML of the DSDT, without its header."""
    return aml.name("_S5", aml.package([aml.integer(0)] * 4)) + aml.scope(
        "_SB",
        *(_device(f"C{number:03X}", "ACPI0007", number) for number in range(cpus)),
        _reserved(platform),
        _host_bridge(platform, below_4g),
        *_memory_mapped(platform),
    )


def _device(name: str, hid: str, unit: int = 0, *terms: bytes) -> bytes:
    """A device with its ID: a short one is packed, a long one (of a vendor) is text."""
    identity = aml.eisa_id(hid) if hid.startswith("PNP") else aml.string(hid)
    return aml.device(name, aml.name("_HID", identity), aml.name("_UID", aml.integer(unit)), *terms)


def _crs(*descriptors: bytes) -> bytes:
    return aml.name("_CRS", aml.resources(*descriptors))


def _reserved(platform: Platform) -> bytes:
    """What no driver's device may take: the motherboard's resources."""
    ranges = [aml.io_ports(platform.pm_base, _PM_LENGTH), aml.io_ports(platform.smi_command, 2)]
    if platform.ecam is not None:
        ranges.append(aml.memory32(platform.ecam, ECAM_LENGTH))
    return _device("MRES", "PNP0C02", 0, _crs(*ranges))


def _host_bridge(platform: Platform, below_4g: int) -> bytes:
    conventional = aml.eisa_id("PNP0A03")
    hid = "PNP0A03" if platform.ecam is None else "PNP0A08"
    return _device(
        "PCI0",
        hid,
        0,
        *([] if platform.ecam is None else [aml.name("_CID", conventional)]),
        aml.name("_BBN", aml.integer(0)),
        _crs(
            aml.bus_window(0, 0xFF),
            aml.io_ports(_CONFADD, 8),
            aml.io_window(0, _CONFADD - 1),
            aml.io_window(_CONFADD_END + 1, 0xFFFF),
            aml.memory_window(0xA_0000, 0xB_FFFF),
            aml.memory_window(*platform.pci_window(below_4g)),
        ),
        aml.name("_PRT", aml.package(_routes(platform.pirqs))),
        _isa_bridge(platform),
    )


def _routes(pirqs: tuple[int, int, int, int]) -> Iterator[bytes]:
    """Function, pin, and the interrupt that they reach: (slot - 1 + pin) mod 4 is the PIRQ."""
    for slot in range(1, _PCI_SLOTS):
        for pin in range(_PCI_PINS):
            number = pirqs[(slot - 1 + pin) % 4]
            yield aml.package(map(aml.integer, (slot << 16 | 0xFFFF, pin, 0, number)))


def _isa_bridge(platform: Platform) -> bytes:
    """Device 1, function 0: where PIIX3 is in a 440FX machine."""
    below = (_isa_device(ISA[name]) for name in platform.isa)
    return aml.device("ISA", aml.name("_ADR", aml.integer(1 << 16)), *below)


def _isa_device(found: IsaDevice) -> bytes:
    used = [aml.io_ports(base, length) for base, length in found.ports]
    if found.irq is not None:
        used.append(aml.irq(found.irq))
    unit = int(found.name[-1]) if found.name[-1].isdigit() else 0
    return _device(found.name, found.hid, unit, _crs(*used))


def _memory_mapped(platform: Platform) -> Iterator[bytes]:
    if platform.hpet is not None:
        yield _device("HPET", "PNP0103", 0, _crs(aml.memory32(platform.hpet, _HPET_LENGTH)))
    if platform.tpm is not None:
        yield _device("TPM", "MSFT0101", 0, _crs(aml.memory32(TPM_BASE, TPM_LOCALITIES * TPM_PAGE)))
