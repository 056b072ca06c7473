"""HPET, I/O APIC, educational function and exit in time: what static accesses do not show.

QEMU's CPU executes HLT with interrupts off.  Its clock stands while it is stopped, so that
both sides are set up at the same time; then it runs, stands again, and ours is brought to the
time that its HPET tells.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from random import Random
from typing import Final

import pytest
from attrs import define, field, frozen

from devices.pseudo.debugexit import DebugExit
from mmiod.device import Request
from mmiod.machine.address_map import Stretch
from mmiod.testing import Harness
from tests.qemu.differences import INIT, config, memory, read, write
from tests.qemu.more_campaigns import BAR, HPET, IOAPIC, PLACED, ioapic, more
from tests.qemu.sides import QEMU, WORDS, Access, Ours, Reference

pytestmark = pytest.mark.needs("qemu")

TICK_NS: Final = 10
ATTEMPTS: Final = 5
"""QEMU may be stopped where a timer is due and was not looked at yet."""
SLAVE: Final = [write(0xA0, 0x11), write(0xA1, 0x70), write(0xA1, 0x02), write(0xA1, 0x01)]
COUNTER: Final = memory(HPET + 0xF0, 8)
START, LEGACY_START, STOP = (memory(HPET + 0x10, 4, value) for value in (1, 3, 0))
LEVEL, ENABLE, PERIODIC, SET, NARROW, TO_20 = 1 << 1, 1 << 2, 1 << 3, 1 << 6, 1 << 8, 20 << 9


@pytest.fixture
def sides(tmp_path: Path) -> Iterator[tuple[Reference, Ours]]:
    """Both sides at power-on; QEMU's firmware is HLT for ever."""
    image = tmp_path / "halt.bin"
    image.write_bytes(bytes(0xFFF0) + b"\xf4\xeb\xfd".ljust(16, b"\0"))
    with more(tmp_path, "-bios", str(image)) as both:
        yield both


def comparator(number: int, configuration: int, *values: int) -> list[Access]:
    """A timer's configuration, then writes of its comparator's halves."""
    block = HPET + 0x100 + 0x20 * number
    return [
        memory(block, 4, configuration | ENABLE),
        memory(block + 0x08, 4, values[0]),
        *[memory(block, 4, configuration | ENABLE)] * bool(configuration & SET),
        memory(block + 0x0C, 4, 0),
        *(memory(block + 0x08, 4, value) for value in values[1:]),
    ]


def go(qemu: Reference, ticks: int) -> None:
    """Let QEMU run until its counter has counted so far."""
    end = qemu.run([COUNTER])[0] + ticks
    qemu.command("cont")
    while qemu.run([COUNTER])[0] < end:
        pass
    qemu.command("stop")


def follow(qemu: Reference, ours: Ours) -> None:
    """Bring our time to QEMU's."""
    ticks = qemu.run([COUNTER])[0] - ours.run([COUNTER])[0]
    ours.machine.clock.advance_to(ours.machine.clock.now_ns + ticks * TICK_NS)


def alike(qemu: Reference, ours: Ours, ticks: int, shown: Sequence[Access]) -> list[int]:
    """What both show some time later."""
    theirs: list[int] = []
    mine = [0]
    for _ in range(ATTEMPTS):
        if theirs != mine:
            go(qemu, ticks)
            follow(qemu, ours)
            theirs, mine = (side.run([COUNTER, *shown]) for side in (qemu, ours))
    assert theirs == mine
    return mine[1:]


STATUS: Final = memory(HPET + 0x20, 8)
COMPARATORS: Final = [memory(HPET + 0x108 + 0x20 * number, 8) for number in range(3)]
INPUT: Final = [memory(IOAPIC, 4, 0x38), memory(IOAPIC + 0x10, 4)]
UNMASK: Final = [memory(IOAPIC, 4, 0x38), memory(IOAPIC + 0x10, 4, 0x8040)]
REMOTE_IRR: Final = 0x4000


@frozen
class Scenario:
    """What is set up, how the counter stands, and what of the status and Remote IRR comes of it."""

    setup: list[Access]
    start: int = 0
    status: int = 0
    lines: int = 0


SCENARIOS: Final = {
    "periodic, level": Scenario(comparator(0, LEVEL | PERIODIC | SET | TO_20, 20011), 0, 1, REMOTE_IRR),
    "one-shot, level": Scenario(comparator(1, LEVEL | TO_20, 100001), 50, 2, REMOTE_IRR),
    "one-shot, far": Scenario(comparator(1, LEVEL | TO_20, 0xFFFFFFFF)),
    "periodic, 32 bits, over the wrap": Scenario(
        comparator(2, LEVEL | PERIODIC | SET | NARROW | TO_20, 0xFFFFF001, 30007),
        0xFFFFF000 - 100000,
        4,
        REMOTE_IRR,
    ),
    "another period": Scenario(comparator(0, LEVEL | PERIODIC | SET | TO_20, 1001, 40009), 0, 1, REMOTE_IRR),
    "edges": Scenario(comparator(0, PERIODIC | SET | TO_20, 30011), lines=REMOTE_IRR),
}


@pytest.mark.parametrize("name", SCENARIOS)
def test_timers_match_alike(sides: tuple[Reference, Ours], name: str) -> None:
    """Counter, comparators, status and the I/O APIC's input 20, at four times."""
    qemu, ours = sides
    scenario = SCENARIOS[name]
    for side in sides:
        side.run([*UNMASK, memory(HPET + 0xF0, 8, scenario.start), *scenario.setup, START])
    for _ in range(4):
        found = alike(qemu, ours, 150_000, [STATUS, *COMPARATORS, *INPUT])
        assert (scenario.status, scenario.lines) == (found[0], found[-1] & REMOTE_IRR)


def test_legacy_replacement_reaches_the_8259s_alike(sides: tuple[Reference, Ours]) -> None:
    """Timer 0 is at IR0 of the master, timer 1 at that of the slave; the PIT is at neither."""
    requests = [write(0x20, 0x0A), read(0x20), write(0xA0, 0x0A), read(0xA0)]
    for side in sides:
        side.run([*comparator(0, PERIODIC | SET, 200_003), *comparator(1, 0, 400_003), LEGACY_START])
        side.run([*INIT, *SLAVE])
    found = [alike(*sides, 150_000, requests) for _ in range(4)]
    assert (1, 1) == (found[-1][1] & 1, found[-1][3] & 1)


def test_status_outlives_a_halt_unlike_qemus(sides: tuple[Reference, Ours]) -> None:
    """HPET 1.0a, 2.3.5, ENABLE_CNF: "will not be cleared"; QEMU clears it."""
    qemu, ours = sides
    for side in sides:
        side.run([*comparator(0, LEVEL | TO_20, 1001), START])
    alike(qemu, ours, 10_000, [STATUS])
    assert ([0, 0], [0, 1]) == (qemu.run([STOP, STATUS]), ours.run([STOP, STATUS]))


def test_a_passed_comparator_waits_unlike_qemus(sides: tuple[Reference, Ours]) -> None:
    """HPET 1.0a, 2.3.9.2.1: the interrupt is missed; QEMU makes up for it."""
    qemu, ours = sides
    for side in sides:
        side.run([memory(HPET + 0xF0, 8, 5000), *comparator(0, LEVEL | TO_20, 1001), START])
    go(qemu, 100_000)
    follow(qemu, ours)
    assert ([1], [0]) == (qemu.run([STATUS]), ours.run([STATUS]))


# --- the educational function


def dma(source: int, destination: int, count: int, command: int) -> list[Access]:
    """Program and start one."""
    words = {0x80: source, 0x88: destination, 0x90: count, 0x98: command}
    return [memory(BAR + offset, 8, word) for offset, word in words.items()]


BUFFER: Final = 0x40000
DMA_MS: Final = 100
IDLE: Final = Access("until", BAR + 0x98, 4, 0, 0xFFFFFFFE)


def test_dma_moves_alike(sides: tuple[Reference, Ours]) -> None:
    """In and out of the buffer, at offsets, with addresses beyond 28 bits, and the interrupt."""
    random = Random(1)
    words = [memory(0x1000 + 8 * n, 8, random.getrandbits(64)) for n in range(32)]
    moves = [
        (0x1000, BUFFER, 256, 1),
        (1 << 28 | 0x1010, BUFFER + 100, 33, 1 | 4),
        (BUFFER + 7, 7 << 28 | 0x2000, 250, 1 | 2),
        (BUFFER + 4000, 0x2100, 95, 1 | 2 | 4),
    ]
    qemu, ours = sides
    for side in sides:
        side.run([*PLACED, *words])
    for move in moves:
        for side in sides:
            side.run([memory(BAR + 0x64, 4, 0x100), *dma(*move)])
        waiting = [memory(BAR + offset, 8) for offset in (0x80, 0x88, 0x90, 0x98)]
        assert qemu.run(waiting) == ours.run(waiting)
        qemu.command("cont")
        qemu.run([IDLE])
        qemu.command("stop")
        ours.machine.clock.advance_to(ours.machine.clock.now_ns + (DMA_MS + 1) * 1_000_000)
        shown = [*waiting, memory(BAR + 0x24, 4), *config(0x2800, 0x04)]
        shown += [memory(0x2000 + 8 * n, 8) for n in range(64)]
        assert qemu.run(shown) == ours.run(shown)


# --- messages of the I/O APIC


@define
class Bus:
    """What our machine tells its hypervisor."""

    messages: list[tuple[int, ...]] = field(factory=list)

    def msi(self, device: str, address: int, data: int) -> None:
        """Keep the parts of the I/O APIC's."""
        if device == "ioapic":
            parts = (address >> 12 & 0xFF, address >> 2 & 1, data >> 8 & 7, data & 0xFF, data >> 15)
            self.messages.append(parts)

    def intr(self, vcpu: int, level: bool) -> None:
        """Nobody has a CPU."""

    def set_level(self, line: int, level: bool) -> None:
        """No wire leads there."""

    def request(self, kind: Request, value: int) -> None:
        """Nothing asks."""

    def map_changed(self, *_moved: Stretch) -> None:
        """Nobody caches it."""

    def unlearn(self) -> None:
        """Nobody has learnt anything."""


DELIVERED: Final = re.compile(
    r"apic_deliver_irq dest (\d+) dest_mode (\d+) delivery_mode (\d+) vector (\d+) trigger_mode (\d+)"
)


def test_the_io_apic_sends_the_same_messages(tmp_path: Path) -> None:
    """Destination, its mode, delivery mode, vector, trigger: one by one over 20,000 accesses.

    QEMU's PIT raises its line before the I/O APIC is reset: the first message is no answer.
    """
    log, bus = tmp_path / "trace", Bus()
    accesses = list(islice(chain.from_iterable(ioapic(Random(7))), 20_000))
    with more(tmp_path, "-trace", "apic_deliver_irq", "-D", str(log)) as (qemu, ours):
        ours.machine.outlet = bus
        assert qemu.run(accesses) == ours.run(accesses)
        qemu.command("quit")
    theirs = [
        tuple(map(int, found.groups()))
        for found in map(DELIVERED.search, log.read_text().splitlines())
        if found
    ]
    assert len(theirs) > 500
    assert theirs[1:] == bus.messages


# --- the exit


@pytest.mark.parametrize(("word", "value"), [("b", 0x10), ("w", 0x01FF), ("l", 0x12345678), ("b", 0)])
def test_the_exit_code_is_the_same(word: str, value: int) -> None:
    """A process hands on the low byte of what our device asks for."""
    command = [*QEMU, "-S", "-qtest-log", "none", "-qtest", "stdio"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4"]
    commands = f"out{word} 0xf4 {value:#x}\n".encode()
    ended = subprocess.run(command, input=commands, stdout=subprocess.DEVNULL, check=False)
    ours = Harness(DebugExit)
    ours.write_at(0, value, {word: size for size, word in WORDS.items()}[word])
    assert [(Request.EXIT, ended.returncode)] == [(kind, code & 0xFF) for kind, code in ours.context.requests]
