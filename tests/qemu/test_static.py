"""Static behaviour: QEMU and our machine answer the same accesses alike, but for what the table names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar

import pytest

from mmiod.device.pci import PciFunction
from mmiod.values import READ
from tests.qemu import differences as rows
from tests.qemu.campaigns import CAMPAIGNS
from tests.qemu.differences import I440FX, PIIX3, PM, TABLE, Difference, cmos, config, read
from tests.qemu.judge import DEVICES, compare, judge, untouched
from tests.qemu.more_campaigns import more
from tests.qemu.sides import Access, Ours, Reference, ours, plugin, reference
from tests.x86.differences import TABLE as INSTRUCTIONS

if TYPE_CHECKING:
    from _pytest.mark import ParameterSet

T = TypeVar("T")

pytestmark = pytest.mark.needs("qemu")

ACCESSES = 8_000
"""For each device; `make judge` takes more."""


@pytest.fixture
def qemu(tmp_path: Path) -> Iterator[Reference]:
    """A QEMU at power-on."""
    with reference(tmp_path) as started:
        yield started


@pytest.fixture
def machine() -> Ours:
    """Our machine at power-on."""
    return ours()


TPMS: Final = {"crb", "tis"}
"""Devices whose both sides have a swtpm."""


def needing(found: Iterable[T], device: Callable[[T], str]) -> list[ParameterSet]:
    """Parameters, with what their devices need."""
    return [
        pytest.param(one, id=device(one), marks=[pytest.mark.needs("swtpm")] * (device(one) in TPMS))
        for one in found
    ]


@pytest.mark.parametrize("device", needing(DEVICES, str))
def test_random_accesses_are_answered_alike(device: str) -> None:
    """Every read, and each declared register is read and written by some run."""
    assert [] == judge(device, ACCESSES)


def header(function: int, name: str) -> list[Access]:
    """The configuration header and what we declare behind it: reset values, where QEMU presets none."""
    declared = (found for found in plugin(name).declared.values() if found.region is PciFunction.config_space)
    run = config(function, 0x00)
    for register in [*range(0x08, 0x40, 4)]:
        run += config(function, register)
    command = config(function, 0x04)
    run += [command[0], rows.PCI_RESET.excuses(command[1])]
    for found in declared:
        if found.offset >= 0x40 and found.size in {1, 2, 4}:
            unstored = ~found.rules.stored & (1 << 8 * found.size) - 1
            read_it = config(function, found.offset, found.size)
            run += [read_it[0], rows.PCI_STORAGE.excuses(read_it[1], unstored)]
    return run


def test_power_on_shows_the_same_values(qemu: Reference, machine: Ours) -> None:
    """Every port of the devices, read before anything is written; an 8259 has no state before ICW1."""
    ports = (*range(0x40, 0x44), 0x4D0, 0x4D1, 0x60, 0x92, 0xB2, 0xB3, *range(0x3F8, 0x400), 0x402, 0x505)
    run = [read(port) for port in (*ports, 0x510, 0x511)]
    run[run.index(read(0x3FC))] = rows.UART_MODEM.excuses(read(0x3FC))
    run += [rows.REFRESH.excuses(read(0x61)), rows.I8042_STATUS.excuses(read(0x64)), read(0xCF8, 4)]
    run += [access for cell in range(128) for access in cmos(cell)]
    run += [*rows.INIT, read(0x20), read(0x21)]
    assert "" == compare(run, qemu, machine)


@pytest.mark.parametrize(
    ("function", "name"), [(I440FX, "pci/i440fx"), (PIIX3, "pci/piix3"), (PM, "acpi/piix4_pm")]
)
def test_power_on_shows_the_same_configuration(
    tmp_path: Path, machine: Ours, function: int, name: str
) -> None:
    """The header and the reset values of each function; there is no SMM, which DEVACTB tells."""
    with reference(tmp_path, "-machine", "smm=off") as qemu:
        assert "" == compare(header(function, name), qemu, machine)


@pytest.mark.parametrize("row", needing(TABLE, lambda row: row.device))
def test_a_difference_of_the_table_is_still_there(row: Difference, tmp_path: Path) -> None:
    """Each proof's last read differs, in the row's bits only."""
    sides = {campaign.device: campaign.sides for campaign in CAMPAIGNS}.get(row.device, more)
    for number, proof in enumerate(row.proof):
        directory = tmp_path / str(number)
        directory.mkdir()
        with sides(directory) as (qemu, machine):
            theirs, mine = qemu.run(proof)[-1], machine.run(proof)[-1]
        assert theirs != mine
        assert not (theirs ^ mine) & ~row.bits


def test_the_table_is_short_and_says_all() -> None:
    """At most 20 rows with those of instructions, each with a citation and a judgement."""
    assert len(TABLE) + len(INSTRUCTIONS) <= 20
    assert len({(row.device, row.register, row.condition) for row in TABLE}) == len(TABLE)
    assert all(row.condition and row.citation and (row.proof or row.sections) for row in TABLE)
    assert {row.right for row in TABLE} <= {"ours", "QEMU", "both"}


def test_a_register_that_no_run_touched_is_told(machine: Ours) -> None:
    """Coverage counts a register and a direction once an access met it."""
    before = untouched(machine, "uart0")
    machine.run([read(0x3FF)])
    assert {("scr", READ)} == before - untouched(machine, "uart0")


def test_a_difference_is_found_and_shown(qemu: Reference, machine: Ours) -> None:
    """One bit that is not excused stops the comparison, with what came before it."""
    run = [read(0x3FF), read(0x3FC)]
    assert "port 0x3ff/1: QEMU 0x0, ours 0x0\nport 0x3fc/1: QEMU 0x8, ours 0x0" == compare(run, qemu, machine)
    assert "" == compare([rows.UART_MODEM.excuses(read(0x3FC))], qemu, machine)
