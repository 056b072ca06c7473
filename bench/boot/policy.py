"""Which registers of the recorded machines need no message, and how a boot's accesses fall apart.

A row says what a device of mmiod would declare of QEMU's region of that name (`published`,
`posted`, `unaffected_by`: mmiod/device/policy.py; `counter`: base and scale over TSC).  What is in
no row waits for its answer.  Rows are for a device on the way through the daemon; what KVM
answers in the kernel (`IN_KERNEL`) makes no exit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from attrs import field, frozen

Values = Mapping[int, int]
"""What was last written or read, by address."""
Condition = Callable[[Values], bool]

ETBEI, DLAB = 2, 0x80
IN_KERNEL: Final = frozenset(
    "apic apic-msi kvm-apic-msi ioapic kvm-ioapic pic elcr pit pcspk kvmvapic".split()
)
"""Interrupt controllers and the PIT; port 61h is the PIT's gate."""


def _always(_values: Values) -> bool:
    return True


def _never(_values: Values) -> bool:
    return False


def _no_empty_interrupt(values: Values) -> bool:
    """A character changes no interrupt while the UART does not tell of an empty THR."""
    return not values.get(0x3F9, 0) & ETBEI or bool(values.get(0x3FB, 0) & DLAB)


@frozen
class Rule:
    """What is so of some addresses of a region."""

    regions: str
    """Names, separated by blanks."""
    device: str
    """Whose writes a published read waits for."""
    first: int = 0
    last: int = (1 << 64) - 1
    published: Condition = _never
    posted: Condition = _never
    counter: bool = False
    """Published as well: time, computed by the hypervisor."""
    config: bool = False
    """Configuration space, published as a whole, and its address latched in the hypervisor."""
    unaffected_by: range = field(default=range(0))
    """Addresses of the same device whose posted writes a published read does not wait for."""


RULES: Final = (
    Rule("serial", "serial", 0x3F8, 0x3F8, posted=_no_empty_interrupt),
    Rule("serial", "serial", 0x3F9, 0x3F9, published=_always, unaffected_by=range(0x3F8, 0x3F9)),
    Rule("serial", "serial", 0x3FB, 0x3FB, published=_always, posted=_always),
    Rule("serial", "serial", 0x3FC, 0x3FC, published=_always),
    Rule("serial", "serial", 0x3FD, 0x3FD, published=_always, unaffected_by=range(0x3F8, 0x3F9)),
    Rule("serial", "serial", 0x3FF, 0x3FF, published=_always, posted=_always),
    Rule("rtc-index", "rtc", published=_always, posted=_always),
    Rule("port92", "port92", published=_always),
    Rule("i8042-cmd", "i8042", published=_always),
    Rule("i8042-data", "i8042"),
    Rule("tpm-crb-mmio", "tpm", published=_always, posted=_always),
    Rule("ahci", "ahci", published=_always),
    Rule("acpi-evt acpi-cnt acpi-gpe0", "acpi", published=_always),
    Rule("acpi-tmr", "acpi", counter=True, published=_always),
    Rule(
        "hpet",
        "hpet",
        0xFED000F0,
        0xFED000F7,
        counter=True,
        published=_always,
        unaffected_by=range(0xFED00100, 0xFED00400),
    ),
    Rule("hpet", "hpet", 0xFED00100, 0xFED003FF, published=_always, posted=_always),
    Rule("hpet", "hpet", 0xFED00000, 0xFED000EF, published=_always),
    Rule("io ioport80 isa-debugcon", "nobody", posted=_always),
    Rule("vga-lowmem", "vga", posted=_always),
    Rule("pci-conf-idx", "pci", config=True, published=_always, posted=_always),
    Rule("pci-conf-data pcie-mmcfg-mmio", "pci", config=True, published=_always),
)
NO_RULE: Final = Rule("", "")

_BY_REGION: Final = {
    name: [rule for rule in RULES if name in rule.regions.split()]
    for rule in RULES
    for name in rule.regions.split()
}


def rule_for(region: str, address: int) -> Rule:
    """The row for an access."""
    rules = _BY_REGION.get(region, ())
    return next((rule for rule in rules if rule.first <= address <= rule.last), NO_RULE)
