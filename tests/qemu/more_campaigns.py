"""Random accesses for the devices that config/machines/pc-more.toml adds; see `campaigns`.

A campaign leaves out what a row of the difference table names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Final

from attrs import evolve

from mmiod import config as configuration
from tests.qemu.differences import EDU, config, memory
from tests.qemu.sides import MACHINE, Access, Ours, Reference, ours, reference

FILE: Final = MACHINE.with_name("pc-more.toml")
OPTIONS: Final = (
    *("-machine", "hpet=on", "-global", "hpet.msi=on", "-global", "hpet.hpet-intcap=0xf00004"),
    *("-device", "edu,addr=5"),
)


@contextmanager
def more(directory: Path, *options: str) -> Iterator[tuple[Reference, Ours]]:
    """Both sides with an HPET that has messages, an I/O APIC, and a factorial that takes no time."""
    edu = evolve(configuration.load_machine(FILE).devices["edu"], config={"computing_ns": 0})
    with reference(directory, *OPTIONS, *options) as qemu:
        yield qemu, ours({"edu": edu}, FILE)


# --- HPET

HPET: Final = 0xFED00000
ENABLE, LEGACY = 1, 2
PERIODIC: Final = 1 << 3
COUNTER_BITS: Final = 60
"""QEMU keeps the counter in ns, of 64 bits."""
TIMERS: Final = 3


def hpet(random: Random) -> Iterator[Iterable[Access]]:
    """All registers, whole and in halves; the clock stands: comparators are odd, the counter is even."""
    settings = [0] * TIMERS
    while True:
        draw, offset = random.random(), random.choice((0x00, 0x10, 0x20, 0xF0, random.randrange(0, 0xF0, 8)))
        size = random.choice((4, 8))
        half = random.choice((0, 4)) if size == 4 else 0
        timer = random.randrange(TIMERS)
        block = HPET + 0x100 + 0x20 * timer
        if draw < 0.5:
            anywhere = random.randrange(0, 0x400, 8)
            place = random.choice((HPET + offset, HPET + anywhere, block + 8 * random.getrandbits(2)))
            yield [memory(place + half, size)]
        elif draw < 0.6:
            value = random.getrandbits(8 * size) & (1 << COUNTER_BITS - 8 * half) - 1
            yield [memory(HPET + offset + half, size, value & ~1 if offset == 0xF0 and not half else value)]
        elif draw < 0.65:
            yield [memory(HPET + 0xF0, 8, random.getrandbits(COUNTER_BITS) & ~1), memory(HPET + 0xF0, 8)]
        elif draw < 0.8:
            value = random.getrandbits(8 * size)
            settings[timer] = value if not half else settings[timer]
            yield [memory(block + half, size, value), memory(block, 8)]
        elif draw < 0.95:
            yield _compared(random, block + 8, settings[timer])
        else:
            yield [memory(block + 0x10 + half, size, random.getrandbits(8 * size))]
            yield [memory(random.randrange(HPET + 0x180, HPET + 0x400, 4), 4, random.getrandbits(32))]


def _compared(random: Random, place: int, setting: int) -> list[Access]:
    """A comparator: whole in one-shot mode alone."""
    halves = [memory(place, 4, random.getrandbits(32) | 1), memory(place + 4, 4, random.getrandbits(32))]
    whole = [memory(place, 8, random.getrandbits(64) | 1)] * (not setting & PERIODIC)
    return [random.choice(halves + whole), memory(place, 8)]


# --- I/O APIC

IOAPIC: Final = 0xFEC00000
IOREGSEL, IOWIN, EOI = 0x00, 0x10, 0x40
PINS: Final = (1, *range(3, 24))
"""Without the PIT's, which is asserted: QEMU leads input 0 to 2."""
VECTORS: Final = (0x30, 0x31, 0x40, 0xFE)
LEVEL, EXTINT = 0x8000, 0x700


def ioapic(random: Random) -> Iterator[Iterable[Access]]:
    """Entries, levels and EOI; no trigger mode changes while its input is asserted.

    Nor is there ExtINT, for which QEMU asks the 8259s for a vector before a CPU does; bits 55:48
    stay 0, which are its message's address bits 11:4.
    """
    levels, triggers = {pin: int(pin == 2) for pin in range(24)}, dict.fromkeys(range(24), 0)
    while True:
        draw, alias = random.random(), IOAPIC + 0x100 * random.choice((0, 0, random.getrandbits(4)))
        number = random.choice(
            (random.getrandbits(8), random.randrange(3), *[random.randrange(0x10, 0x40)] * 8)
        )
        if draw < 0.25:
            pin = random.choice(PINS)
            levels[pin] ^= 1
            yield [Access("pin", pin, 1, levels[pin]), *_register(0x10 + 2 * pin)]
        elif draw < 0.5:
            yield _register(number, alias)
        elif draw < 0.6:
            size = random.choice((1, 2, 4))
            offset = random.randrange(0, 0x100, size)
            yield [memory(alias + offset, size)]
            if offset >= IOWIN + 4 and not EOI <= offset < EOI + 4:
                yield [memory(alias + offset, size, random.getrandbits(8 * size))]
        elif draw < 0.75:
            yield [memory(alias + EOI, random.choice((4, 4, 1, 2)), random.choice(VECTORS))]
        else:
            value = random.getrandbits(32) & ~0xFF | random.choice(VECTORS)
            value &= ~0x100 if value & EXTINT == EXTINT else ~0
            line, high = divmod(number - 0x10, 2)
            value &= ~0xFF0000 if high else ~0
            if line in levels and not high:
                value = value & ~LEVEL | triggers[line] if levels[line] else value
                triggers[line] = value & LEVEL
            selection = memory(alias + IOREGSEL, random.choice((1, 2, 4)), number)
            yield [selection, memory(alias + IOWIN, 4, value), *_register(number)]


def _register(number: int, base: int = IOAPIC) -> list[Access]:
    return [memory(base + IOREGSEL, 4, number), memory(base + IOREGSEL, 4), memory(base + IOWIN, 4)]


# --- the educational function

BAR: Final = 0xE0000000
PLACED: Final = [*config(EDU, 0x10, 4, BAR), *config(EDU, 0x04, 2, 0x0006)]
COMPUTATION, STATUS, RAISE, ACKNOWLEDGE, DMA = 0x20, 0x24, 0x60, 0x64, 0x80
COMPUTING, INTERRUPTS = 0x01, 0x80
MSI_CONTROL, MSI_END = 0x42, 0x4E


def edu(random: Random, *, interrupts: bool) -> Iterator[Iterable[Access]]:
    """Everything but a DMA that begins: QEMU's clock stands, and it would never end.

    Its factorials are computed by a thread, which looks late whether to interrupt: always, or never.
    """
    yield [*PLACED, memory(BAR, 4), memory(BAR + COMPUTATION, 4, INTERRUPTS * interrupts)]
    while True:
        draw, value = random.random(), random.getrandbits(32)
        if draw < 0.3:
            size = random.choice((4, 8))
            offset = random.choice((random.randrange(0, 0xA0, size), random.randrange(0, 0x1000, size)))
            yield [memory(BAR + offset, size)]
        elif draw < 0.4:
            ignored = memory(BAR + random.randrange(0, 0x80, 8), 8, value)
            yield [random.choice((memory(BAR + 0x04, 4, value), ignored)), memory(BAR + 0x04, 4)]
        elif draw < 0.5:
            finished = Access("until", BAR + COMPUTATION, 4, 0, 0xFFFFFFFF ^ COMPUTING)
            raised = Access("until", BAR + STATUS, 4, 1, 0xFFFFFFFE)
            yield [memory(BAR + ACKNOWLEDGE, 4, 1), memory(BAR + 0x08, 4, random.randrange(40)), finished]
            yield [raised] * interrupts
            yield [memory(BAR + offset, 4) for offset in (0x08, COMPUTATION, STATUS)]
        elif draw < 0.6:
            chosen = value & ~INTERRUPTS | INTERRUPTS * interrupts
            yield [memory(BAR + COMPUTATION, 4, chosen), memory(BAR + COMPUTATION, 4)]
        elif draw < 0.8:
            yield [memory(BAR + random.choice((RAISE, ACKNOWLEDGE)), 4, value), memory(BAR + STATUS, 4)]
            yield config(EDU, 0x04)
        else:
            size, register = random.choice((4, 8)), DMA + 8 * random.getrandbits(2)
            value = random.getrandbits(8 * size) & (~1 if register == 0x98 else ~0)
            yield [memory(BAR + register, size, value), memory(BAR + register, 8)]
            yield [memory(BAR + register + 4, 4, value & 0xFFFFFFFF), memory(BAR + register, 4)]


def edu_configuration(random: Random) -> Iterator[Iterable[Access]]:
    """The header and the MSI capability, with any size and offset; nothing is declared behind it.

    No more vectors are enabled than there are: one (PCI 3.0, 6.8.1.3).
    """
    while True:
        size = random.choice((1, 2, 4))
        register = random.choice((random.getrandbits(6), random.randrange(0x40, MSI_END + 1 - size))) & -size
        more_vectors = (
            0x70 << 8 * (MSI_CONTROL - register) if register <= MSI_CONTROL < register + size else 0
        )
        value = random.getrandbits(8 * size) & ~more_vectors if random.random() < 0.5 else None
        yield config(EDU, register, size, value)
