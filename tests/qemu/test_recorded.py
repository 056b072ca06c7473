"""Boots of stock SeaBIOS: ours replayed into QEMU, QEMU's replayed into ours.

A replay stands still, so what a boot reads of time is not compared; nor is what belongs to
one of the machines alone: functions at other slots, and the files in fw_cfg.
"""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest
from attrs import define, evolve

from mmiod.values import Space
from tests.functional.boots import Boot, booting, until_end
from tests.qemu import differences as rows
from tests.qemu.campaigns import KEYS, stored_bits
from tests.qemu.differences import I440FX, PIIX3, PM
from tests.qemu.judge import DEVICES, compare
from tests.qemu.sides import QEMU, Access, Ours, ours, plugin, reference
from tests.qemu.trace import accesses

pytestmark = pytest.mark.needs("qemu", "seabios", "unicorn")

FUNCTIONS: Final = {I440FX: "pci/i440fx", PIIX3: "pci/piix3", PM: "acpi/piix4_pm"}
TIMED: Final = {*range(0x40, 0x44), 0x61, 0x20, 0xA0, 0x71}
"""PIT, port 61h, IRR and ISR, and the RTC: a boot read them in time."""
NO_SMM: Final = ("-machine", "smm=off")
"""As ours: DEVACTB tells firmware that it need not set SMM up."""
PM_TIMER: Final = {0x608, 0xB008}


@define
class Sorter:
    """Follows a recorded boot and says of each access what of it can be compared."""

    machine: Ours
    timed: bool
    """Whether one side's values were read in time."""
    confadd: int = 0
    key: int = 0
    keyboard: bool = False

    def sorted(self, run: Iterable[Access]) -> Iterator[Access]:
        """The accesses of devices that both machines have."""
        for access in run:
            if access.value is not None:
                self._follow(access)
            claim = self.machine.machine.find(Space.PIO, access.address).claim
            elsewhere = access.address in range(0xCFC, 0xD00) and self.confadd & 0xFFFF00 not in FUNCTIONS
            placed = claim is not None and claim.host.name in DEVICES
            if not elsewhere and (placed or access.address >> 6 in {0x600 >> 6, 0xB000 >> 6}):
                yield evolve(access, ignored=self._ignored(access))

    def _follow(self, access: Access) -> None:
        assert access.value is not None
        if access.address == 0xCF8 and access.size == 4:
            self.confadd = access.value
        elif access.address == 0x510:
            self.key = access.value
        self.keyboard |= access.address == 0x60 and access.value in {0xFF, 0xF5}

    def _ignored(self, access: Access) -> int:
        port, everything = access.address, (1 << 8 * access.size) - 1
        if (self.timed and port in TIMED) or port in PM_TIMER:
            return everything
        if port in {0x60, 0x64} and self.keyboard:
            return rows.I8042_KEYBOARD.bits
        if port in {0x510, 0x511} and self.key not in KEYS:
            return everything
        if port in range(0xCFC, 0xD00):
            return self._ignored_configuration(access) & everything
        fixed = {0x61: rows.REFRESH.bits | 0x20, 0x64: rows.I8042_STATUS.bits, 0x3FE: rows.UART_MODEM.bits}
        return fixed.get(port, 0)

    def _ignored_configuration(self, access: Access) -> int:
        register = (self.confadd & 0xFC) + access.address - 0xCFC
        if register < 0x40:
            return rows.PCI_RESET.bits >> 8 * (register - 4) if 4 <= register < 8 else 0
        stored = stored_bits(plugin(FUNCTIONS[self.confadd & 0xFFFF00]))[register : register + access.size]
        return ~int.from_bytes(stored, "little")


@define
class Recorded:
    """A side that answers as it did when it was recorded."""

    values: list[int]

    def run(self, accesses: Sequence[Access]) -> list[int]:
        """What each access gave: all of them at once."""
        return [
            value if access.value is None else 0 for access, value in zip(accesses, self.values, strict=True)
        ]


def compared(run: Sequence[Access]) -> Counter[bool]:
    """How many reads are compared, and how many are not."""
    return Counter(access.ignored != (1 << 8 * access.size) - 1 for access in run if access.value is None)


async def test_our_boot_is_answered_alike_by_qemu(tmp_path: Path) -> None:
    """Each access of a boot of ours, done again by both while they stand still."""
    async with booting(tmp_path, Boot(memory_mib=16, icount=3)) as under_way:
        await under_way.reaches_its_end()
        records = [record for record in until_end(under_way.trace()) if record[4] == Space.PIO]
    boot = [Access("port", record[6], record[7], record[8] if record[5] else None) for record in records]
    machine = ours()
    run = list(Sorter(machine, timed=False).sorted(boot))
    assert compared(run)[True] > 200
    with reference(tmp_path, *NO_SMM) as qemu:
        assert "" == compare(run, qemu, machine)


def test_the_boot_of_qemu_is_answered_alike_by_ours(tmp_path: Path) -> None:
    """Each access of QEMU's boot, done again by our machine, against what QEMU read."""
    log = tmp_path / "trace"
    counted = ["-cpu", "486", "-icount", "shift=3,sleep=off", "-no-reboot", "-boot", "reboot-timeout=1"]
    traced = ["-trace", "memory_region_ops_*", "-D", str(log)]
    subprocess.run([*QEMU, *NO_SMM, *counted, *traced], check=True, timeout=200)
    recorded = accesses(log)
    machine = ours()
    sorter = Sorter(machine, timed=True)
    kept = [(known, value) for access, value in recorded for known in sorter.sorted([access])]
    run = [known for known, _ in kept]
    assert compared(run)[True] > 200
    assert "" == compare(run, Recorded([value for _, value in kept]), machine)
