"""What a machine file says about the platform, as far as ACPI tells it to the guest.

It says what the machine file has placed elsewhere, a second time: so `announced` gives
the places, and the machine refuses a file in which no device is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from attrs import Attribute, field, frozen, validators

from mmiod.device.tpm import BASE as TPM_BASE
from mmiod.values import Space

MIB: Final = 1 << 20
FOUR_GIB: Final = 1 << 32
BUSES: Final = 256
ECAM_LENGTH: Final = BUSES * MIB
"""1 MiB for each bus (PCI Firmware Specification 3.2, 4.1.2)."""
PCI_END: Final = 0xFEC0_0000
"""Where memory for BARs ends below 4 GiB, and the I/O APIC, HPET, TPM and local APIC begin."""
CPUS_MAX: Final = 254
"""Local APIC IDs of 8 bits; FFh means all."""


@frozen
class IsaDevice:
    """A device that is no PCI function: its name in the namespace, its ID, ports and interrupt."""

    name: str
    hid: str
    ports: tuple[tuple[int, int], ...] = ()
    """Base and length; the first tells where the device is."""
    irq: int | None = None


ISA: Final[Mapping[str, IsaDevice]] = {
    "pic": IsaDevice("PIC", "PNP0000", ((0x20, 2), (0xA0, 2), (0x4D0, 2)), 2),
    "pit": IsaDevice("TIMR", "PNP0100", ((0x40, 4),), 0),
    "speaker": IsaDevice("SPKR", "PNP0800", ((0x61, 1),)),
    "keyboard": IsaDevice("KBD", "PNP0303", ((0x60, 1), (0x64, 1)), 1),
    "mouse": IsaDevice("MOU", "PNP0F13", (), 12),
    "rtc": IsaDevice("RTC", "PNP0B00", ((0x70, 2),), 8),
    "com1": IsaDevice("COM1", "PNP0501", ((0x3F8, 8),), 4),
    "com2": IsaDevice("COM2", "PNP0501", ((0x2F8, 8),), 3),
    "fw_cfg": IsaDevice("FWCF", "QEMU0002", ((0x510, 0xC),)),
    "pvpanic": IsaDevice("PEVT", "QEMU0001", ((0x505, 1),)),
}
"""The devices of a PC at their usual places, by the names that machine files use."""


def _isa_names(_: object, __: Attribute[tuple[str, ...]], names: tuple[str, ...]) -> None:
    for name in names:
        if name not in ISA or names.count(name) > 1:
            raise ValueError(f"{name!r}: the ISA devices are {', '.join(ISA)}, each once")


def _page(_: object, attribute: Attribute[int | None], base: int | None) -> None:
    alignment = ECAM_LENGTH if attribute.name == "ecam" else 0x400
    if base is not None and (base % alignment or not 0 < base < FOUR_GIB):
        raise ValueError(f"{base:#x} is no multiple of {alignment:#x} below 4 GiB")


_PORT: Final = validators.and_(validators.ge(0), validators.lt(1 << 16))
_IRQ: Final = validators.and_(validators.ge(0), validators.lt(16))


@frozen
class Platform:
    """The fixed hardware of a machine, as FADT, MADT, MCFG, HPET, TPM2 and DSDT tell it."""

    pm_base: int = field(default=0x600, validator=_PORT)
    """Where firmware puts the PM I/O space; SeaBIOS: 600h, once there are these tables."""
    pm_timer_width: int = field(default=24, validator=validators.in_((24, 32)))
    smi_command: int = field(default=0xB2, validator=_PORT)
    sci: int = field(default=9, validator=_IRQ)
    reset_port: int = field(default=0xCF9, validator=_PORT)
    reset_value: int = field(default=6, validator=validators.in_(range(256)))
    pirqs: tuple[int, int, int, int] = field(
        default=(10, 10, 11, 11), validator=validators.deep_iterable(_IRQ, validators.instance_of(tuple))
    )
    """The interrupts to which firmware routes PIRQA-D; SeaBIOS: these."""
    isa: tuple[str, ...] = field(default=(), validator=_isa_names)
    """Which of `ISA` are there."""
    ecam: int | None = field(default=None, validator=_page)
    """PCI configuration space of buses 0-255 in memory: 256 MiB."""
    hpet: int | None = field(default=None, validator=_page)
    io_apic: int | None = field(default=None, validator=_page)
    """With the hypervisor's local APICs; the hypervisor's own, or a device here.  None: only 8259s."""
    tpm: Literal["crb", "tis"] | None = field(
        default=None, validator=validators.optional(validators.in_(("crb", "tis")))
    )
    """The interface of the TPM at FED40000h."""

    def announced(self) -> dict[str, tuple[Space, int]]:
        """Where the guest will look for devices, by what the machine file calls them here."""
        places = {f"isa.{name}": (Space.PIO, ISA[name].ports[0][0]) for name in self.isa if ISA[name].ports}
        places |= {"smi_command": (Space.PIO, self.smi_command), "reset_port": (Space.PIO, self.reset_port)}
        memory = {"ecam": self.ecam, "hpet": self.hpet, "tpm": TPM_BASE if self.tpm else None}
        return places | {name: (Space.MMIO, base) for name, base in memory.items() if base is not None}

    def pci_window(self, below_4g: int) -> tuple[int, int]:
        """First and last byte for BARs below 4 GiB, as SeaBIOS lays them out (src/fw/pciinit.c)."""
        start = 0x8000_0000 if below_4g <= 0x8000_0000 else 0xC000_0000
        if self.ecam is not None:
            start = max(start, self.ecam + ECAM_LENGTH)
        return start, PCI_END - 1
