"""Whether a shared page would have held what the guest was told.

What a page holds is what the device said last.  The serial port's reads are compared with our own
UART, which takes the same accesses.  Of other devices, which are QEMU's, nobody knows here what
an access changed; their reads are compared with the last one of that register, as long as
nothing that may change it came between: a write to the device, or a read that is no published one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Final

from attrs import define, field, frozen

from bench.boot.policy import COUNTERS
from bench.boot.steps import BEST, Walk
from bench.boot.trace import Access
from bench.in_process import bench_machine
from mmiod.machine.machine import Machine
from mmiod.values import Space

CONFIG_ADDRESS: Final = 0xCF8
OURS: Final = "serial"
"""The device that we have as well, at the same ports."""
PARTS: Final = {
    part: device
    for device, parts in {
        "rtc": "rtc-index",
        "i8042": "i8042-cmd i8042-data",
        "acpi": "acpi-evt acpi-cnt acpi-tmr acpi-gpe0",
    }.items()
    for part in parts.split()
}
"""Regions of one device: a write to one may change the others."""
EXPLAINED: Final = {
    ("tpm-crb-mmio", 0xFED4004C): "START falls when the TPM behind it has answered",
    ("acpi-cnt", 0x604): "SCI_EN is set by the SMI handler, at port B2h",
}
"""Changes that no access of the same device makes: the device publishes them when they happen."""


@frozen
class Verdict:
    """About the published reads of one boot."""

    device: int
    """Equal to what our device holds."""
    same: int
    """Equal to the last read."""
    first: int
    """Behind something that may have changed them: not comparable."""
    counted: int
    """Counters: time, not a value."""
    explained: Mapping[str, int]
    different: Mapping[str, int]
    """The register, recorded and expected value: there must be none."""


@define
class Judge:
    """Compares the reads of one boot."""

    machine: Machine = field(factory=bench_machine)
    known: dict[str, dict[tuple[int, int], int]] = field(factory=dict)
    """By device: address and size -> value."""
    latched: int = 0
    """CF8."""
    found: Counter[str] = field(factory=Counter)
    explained: Counter[str] = field(factory=Counter)
    different: Counter[str] = field(factory=Counter)

    def take(self, access: Access, served: bool) -> None:
        """One access, and whether the page served it."""
        ours = self._mirror(access) if access.region == OURS else None
        device, register = self._place(access)
        known = self.known.setdefault(device, {})
        if served:
            self._compare(access, known.get((register, access.size)) if ours is None else ours)
        elif access.address != CONFIG_ADDRESS:
            known.clear()
        if access.address == CONFIG_ADDRESS and access.write:
            self.latched = access.value
        if access.address == CONFIG_ADDRESS or not access.write:
            known[register, access.size] = access.value

    def _place(self, access: Access) -> tuple[str, int]:
        """Device and register; of configuration space, function and offset."""
        if access.region == "pci-conf-data":
            return f"function {self.latched >> 8 & 0xFFFF:x}", self.latched & 0xFC | access.address & 3
        if access.region == "pcie-mmcfg-mmio":
            return f"function {access.address >> 12 & 0xFFFF:x}", access.address & 0xFFF
        return PARTS.get(access.region, access.region), access.address

    def _mirror(self, access: Access) -> int:
        """The same access to our device."""
        if access.write:
            self.machine.write(Space.PIO, access.address, access.size, access.value)
            return 0
        return self.machine.read(Space.PIO, access.address, access.size)

    def _compare(self, access: Access, expected: int | None) -> None:
        if access.address in COUNTERS:
            self.found["counted"] += 1
        elif expected is None:
            self.found["first"] += 1
        elif expected == access.value:
            self.found["device" if access.region == OURS else "same"] += 1
        elif (access.region, access.address) in EXPLAINED:
            self.explained[EXPLAINED[access.region, access.address]] += 1
        else:
            name = f"{access.region} {access.address:#x}: {access.value:#x}, expected {expected:#x}"
            self.different[name] += 1

    def verdict(self) -> Verdict:
        """At the end."""
        found = self.found
        return Verdict(
            found["device"], found["same"], found["first"], found["counted"], self.explained, self.different
        )


def judge(accesses: Iterable[Access]) -> Verdict:
    """All published reads of a boot, by the best step."""
    walk, judge = Walk(BEST), Judge()
    for access in accesses:
        judge.take(access, walk.take(access))
    walk.ours.close()
    return judge.verdict()
