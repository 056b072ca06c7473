"""QEMU's own record of its accesses: `-trace memory_region_ops_* -D FILE`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.qemu.sides import Access

LINE: Final = re.compile(
    r"memory_region_ops_(read|write) cpu \d+ mr \S+ addr (\S+) value (\S+) size (\d+) name '(.*)'"
)
PORTS: Final = frozenset(
    "pic elcr pit pcspk i8042-data i8042-cmd rtc rtc-index port92 serial isa-debugcon pvpanic pci-conf-idx "
    "pci-conf-data piix3-reset-control acpi-evt acpi-cnt acpi-tmr apm-io fwcfg fwcfg.dma".split()
)
"""Regions of ports; the record does not tell the space."""


def accesses(log: Path) -> Iterator[tuple[Access, int]]:
    """Accesses to the ports of devices that both machines have, and the value of each."""
    for found in map(LINE.match, log.read_text().splitlines()):
        if found and found[5] in PORTS:
            address, value, size = int(found[2], 16), int(found[3], 16), int(found[4])
            yield Access("port", address, size, value if found[1] == "write" else None), value
