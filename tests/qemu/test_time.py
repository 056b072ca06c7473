"""Behaviour in time: one guest on QEMU and on mmiod-vmm, both counting instructions.

All accesses come in the same order with the same values.  What may differ is small, and
known: a halt ends up to one instruction earlier or later, and a counter's CLK runs freely
here while QEMU begins to count CLKs at each write.  Hence a counter or timer may be off by
one instruction and one CLK, and a poll by one read.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path

import pytest
import trio

from mmiod.values import Space
from tests.functional.boots import Boot, booting
from tests.qemu.differences import TABLE
from tests.qemu.sides import QEMU
from tests.qemu.trace import accesses

pytestmark = pytest.mark.needs("qemu", "gcc", "unicorn")

SOURCE = Path(__file__).parent / "clocked.S"
SHIFT = 10
INSTRUCTION_NS = 1 << SHIFT
CONSOLE, CONTROL, PORT61, PM_TIMER = 0x402, 0x43, 0x61, 0xB008
PIT_HZ, PM_HZ = 1_193_182, 3_579_545

Step = tuple[str, int, int]
"""A kind, its port or counter, and the value."""
Trace = list[tuple[int, int, int]]
"""Direction (1: a write), port, value."""


@pytest.fixture(scope="module")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guest's image."""
    directory = tmp_path_factory.mktemp("clocked")
    image = directory / "clocked.bin"
    subprocess.run(["as", "--32", "-o", directory / "clocked.o", SOURCE], check=True)
    subprocess.run(["objcopy", "-O", "binary", "-j", ".text", directory / "clocked.o", image], check=True)
    return image


def on_qemu(guest: Path) -> Trace:
    """QEMU's accesses; a 486, as its interrupts do not go through a local APIC."""
    log = guest.parent / "trace"
    counted = ["-cpu", "486", "-icount", f"shift={SHIFT},sleep=off", "-no-reboot", "-bios", str(guest)]
    traced = ["-trace", "memory_region_ops_*", "-D", str(log)]
    subprocess.run([*QEMU, *counted, *traced], check=True, timeout=200)
    return [(int(access.value is not None), access.address, value) for access, value in accesses(log)]


async def on_ours(guest: Path) -> Trace:
    """The accesses of mmiod-vmm, as the daemon records them."""
    boot = Boot(memory_mib=16, icount=SHIFT, firmware=guest)
    async with booting(guest.parent, boot) as under_way:
        with trio.fail_after(200):
            assert 0 == await under_way.hypervisors[0].wait()
        return [(record[5], record[6], record[8]) for record in under_way.trace() if record[4] == Space.PIO]


@cache
def traces(guest: Path) -> tuple[dict[str, Trace], dict[str, Trace]]:
    """The sections of both runs, by letter."""
    return sections(on_qemu(guest)), sections(trio.run(on_ours, guest))


def sections(trace: Trace) -> dict[str, Trace]:
    """A trace, cut where the guest says so."""
    found: dict[str, Trace] = {}
    letter = ""
    for access in trace:
        if access[:2] == (1, CONSOLE):
            letter = chr(access[2])
        found.setdefault(letter, []).append(access)
    return found


def steps(trace: Trace) -> Iterator[Step]:
    """Accesses, with both bytes of a latched count as one value, and without REFRESH."""
    rest = iter(trace)
    for direction, port, value in rest:
        if direction and port == CONTROL and not value & 0x3F:
            counter = value >> 6
            (_, low_port, low), (_, high_port, high) = next(rest), next(rest)
            assert {0x40 + counter} == {low_port, high_port}
            yield "count", counter, high << 8 | low
        elif not direction and port == PM_TIMER:
            yield "pm timer", port, value
        else:
            yield "write" if direction else "read", port, value & ~0x10 if port == PORT61 else value


def off_by(nanoseconds: int, frequency: int) -> int:
    """Pulses in a time, one begun more."""
    return nanoseconds * frequency // 1_000_000_000 + 1


COMPARED = ("", "c", "t", "u", "p", "r", "n", "e")
ALLOWED = {
    "count": 2 * (off_by(INSTRUCTION_NS, PIT_HZ) + 1),  # mode 3 counts by two
    "pm timer": off_by(INSTRUCTION_NS, PM_HZ),
    "write": 0,
    "read": 0,
}


@pytest.mark.parametrize("letter", COMPARED)
def test_both_move_alike(guest: Path, letter: str) -> None:
    """Before sections begin, then counters, ticks, UART, PM timer, RTC and its interrupt, soft off."""
    theirs, mine = (
        [(step, len(list(run))) for step, run in groupby(steps(side[letter]))] for side in traces(guest)
    )
    assert [step[:2] for step, _ in theirs] == [step[:2] for step, _ in mine]
    for (their, reads), (my, my_reads) in zip(theirs, mine, strict=True):
        assert abs(their[2] - my[2]) <= ALLOWED[their[0]], (their, my)
        assert abs(reads - my_reads) <= 1, (their, reads, my_reads)


def test_the_table_names_each_section_that_differs(guest: Path) -> None:
    """Every section is compared, or proves a row, or lets the RTC's period begin."""
    named = {letter for row in TABLE for letter in row.sections}
    assert {"B", "G", "P"} == named
    for side in traces(guest):
        assert {*COMPARED, *named, "s"} == set(side)


def counts(trace: Trace) -> list[int]:
    """Latched counts."""
    return [value for kind, _, value in steps(trace) if kind == "count"]


def test_bcd_counts_differ(guest: Path) -> None:
    """8254, Control Word Format, BCD: four decades; QEMU counts in binary."""
    theirs, mine = (counts(side["B"])[0] for side in traces(guest))
    assert 0x0F00 < theirs < 0x1000
    assert 0x0980 < mine < 0x1000
    assert f"{mine:x}".isdecimal()


def test_a_low_gate_differs(guest: Path) -> None:
    """8254, Mode 0: GATE = 0 disables counting; QEMU counts on."""
    theirs, mine = (counts(side["G"])[0] for side in traces(guest))
    assert theirs < 0x400 == mine


def test_the_periodic_flag_without_its_interrupt_differs(guest: Path) -> None:
    """MC146818A, Register C, PF: it is set whatever PIE is; in QEMU only with PIE."""
    theirs, mine = (
        [value for direction, port, value in side["P"] if not direction] for side in traces(guest)
    )
    assert 0x40 == mine[-1]
    assert 0x00 == theirs[-1]
