"""Which registers of the recorded machines need no message, for devices that we do not have.

What we have says so itself (`bench.boot.ours`).  A row here says what a device of mmiod would declare
of QEMU's region of that name.  What is in no row, and not ours, waits for its answer.  What KVM
answers in the kernel (`IN_KERNEL`) makes no exit.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

IN_KERNEL: Final = frozenset(
    "apic apic-msi kvm-apic-msi ioapic kvm-ioapic pic elcr pit pcspk kvmvapic".split()
)
"""Interrupt controllers and the PIT; port 61h is the PIT's gate."""
CONFIG: Final = frozenset({"pci-conf-idx", "pci-conf-data", "pcie-mmcfg-mmio"})
"""Configuration space, and its address."""
COUNTERS: Final = {0x608: 24, 0xFED000F0: 64, 0xFED000F4: 32}
"""Registers that count, and their widths."""


@frozen
class Rule:
    """What is so of some regions."""

    regions: str
    """Names, separated by blanks."""
    device: str
    """Whose writes a published read waits for."""
    published: bool = False
    posted: bool = False


RULES: Final = (
    Rule("ahci", "ahci", published=True),
    Rule("acpi-gpe0", "gpe0", published=True),
    Rule("vga-lowmem", "vga", posted=True),
)
NO_RULE: Final = Rule("", "")

_BY_REGION: Final = {name: rule for rule in RULES for name in rule.regions.split()}


def rule_for(region: str) -> Rule | None:
    """The row for a region, if there is one."""
    return _BY_REGION.get(region)
