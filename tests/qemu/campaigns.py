"""Random accesses for each device, endless, and what of them is not compared.

They are made before they are carried out, so each follows the device's protocol by itself:
it draws what firmware or an attacker may do, and leaves out (or ignores) what a row of the
difference table names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Final

from attrs import frozen

from mmiod.device import Device
from tests.qemu import differences as rows
from tests.qemu.differences import I440FX, PIIX3, PM, cmos, config, read, write
from tests.qemu.more_campaigns import edu, edu_configuration, hpet, ioapic, more
from tests.qemu.sides import Access, Ours, Side, ours, plugin, reference
from tests.qemu.tpm_campaigns import crb, tis
from tests.qemu.tpms import both


@contextmanager
def plain(directory: Path) -> Iterator[tuple[Side, Ours]]:
    """Both sides at power-on."""
    with reference(directory) as qemu:
        yield qemu, ours()


Steps = Iterator[Iterable[Access]]


@frozen
class Campaign:
    """One kind of run against the device `device`, as the machine file names it."""

    device: str
    name: str
    steps: Callable[[Random], Steps]
    sides: Callable[[Path], AbstractContextManager[tuple[Side, Ours]]] = plain


# --- UART


def uart(random: Random, *, loopback: bool) -> Steps:
    """Any register; in loopback without modem interrupts, whose sources differ."""
    yield [write(0x3FC, 0), rows.UART_MODEM.excuses(read(0x3FE))]
    while True:
        port = random.choice((0x3F8, 0x3F8, *range(0x3F8, 0x400)))
        if random.random() < 0.5:
            access = read(port)
            yield [rows.UART_MODEM.excuses(access) if loopback and port == 0x3FE else access]
        else:
            yield [write(port, _uart_byte(random, port, loopback=loopback))]


def _uart_byte(random: Random, port: int, *, loopback: bool) -> int:
    value = random.getrandbits(8)
    if port == 0x3FB:
        return value & random.choice((0x7F, 0x7F, 0xFF))
    if port == 0x3F9 and loopback:
        return value & ~0x08
    if port == 0x3FC and not loopback:
        return value & ~0x10
    return value


# --- 8259


PICS: Final = {False: 0x20, True: 0xA0}
EDGE_ONLY: Final = {0, 1, 2, 8, 13}
NON_SPECIFIC: Final = (0x20, 0xA0)


def _initialize(random: Random, port: int) -> list[Access]:
    icw1 = random.choice((0x10, 0x11, 0x11, 0x13, 0x19))
    words = [random.getrandbits(8)] + [0x04 if port == 0x20 else 0x02] * (not icw1 & 2)
    words += [random.choice((0x01, 0x03) if port == 0x20 else (0x01, 0x03, 0x11, 0x13))] * (icw1 & 1)
    return [write(port, icw1)] + [write(port + 1, word) for word in words]


def pic(random: Random, *, slave: bool, level: bool, special: bool) -> Steps:
    """One chip, the other masked: a slave's request that goes is an edge dropped at the master.

    In edge mode a line falls only before the chip is initialized anew.
    """
    port, other = PICS[slave], PICS[not slave]
    levels = dict.fromkeys(range(8 * slave, 8 * slave + 8), 0)
    levels.pop(2, None)
    yield [write(0x4D0, 0xFF * level), write(0x4D1, 0xFF * level), read(0x4D0), read(0x4D1)]
    yield [*_initialize(random, port), *_initialize(random, other), write(other + 1, 0xFF)]
    lines = [line for line in levels if not level or line not in EDGE_ONLY]
    while True:
        draw = random.random()
        if draw < 0.25:
            line = random.choice(lines)
            levels[line] ^= 1
            yield [Access("line", line, 1, levels[line])]
            if not level and not levels[line]:
                yield _initialize(random, port)
        elif draw < 0.6:
            yield [read(port), read(port + random.getrandbits(1))]
        elif draw < 0.7:
            yield [write(port + 1, random.getrandbits(8) & random.getrandbits(8))]
        elif draw < 0.85:
            ends = (
                (0x60, 0xC0, 0xE0, 0x40) if special else (0x00, 0x60, 0x80, 0xC0, 0xE0, 0x40, *NON_SPECIFIC)
            )
            yield [write(port, random.choice(ends) | random.getrandbits(3))]
        elif draw < 0.98:
            masks = (0x48, 0x68) if special else (0x48,)
            yield [write(port, 0x08 | random.choice((*masks, 2, 3, 4, 6, 7)))]
        elif not special:  # ICW1 does not end what this run leaves out
            yield _initialize(random, port)


def cascade(random: Random) -> Steps:
    """The slave's requests as the master shows them; they stay until both begin anew."""
    while True:
        for port, cascaded in ((0x20, 0x04), (0xA0, 0x02)):
            yield [write(port, 0x11), write(port + 1, random.getrandbits(8)), write(port + 1, cascaded)]
            yield [write(port + 1, 0x01), write(port + 1, random.getrandbits(8) & random.getrandbits(8))]
        for line in random.sample(range(8, 16), random.randrange(1, 9)):
            yield [Access("line", line, 1, 1), read(0x20), read(0xA0)]
        yield [write(0x20, 0x0C), read(0x20), read(0x20), write(0x20, 0x0B), read(0x20)]
        yield [Access("line", line, 1, 0) for line in range(8, 16)]


# --- 8254 and port 61h


def _count(random: Random, counter: int) -> list[Access]:
    """A control word, a count and reads in between; even for mode 3, never 1, which is illegal."""
    mode, access, port = random.randrange(8), random.choice((1, 2, 3)), 0x40 + counter
    low = (random.getrandbits(8) | 2) & (0xFE if mode in {3, 7} else 0xFF)
    counts = [write(port, low)] + [write(port, random.getrandbits(8))] * (access == 3)
    run = [write(0x43, counter << 6 | access << 4 | mode << 1)]
    for part in counts:
        run += [read(port)] * random.randrange(3) + [part]
    return run


def pit(random: Random) -> Steps:
    """Programming, latches, read-back and port 61h; each count comes after a control word."""
    yield [access for counter in range(3) for access in _count(random, counter)]
    while True:
        counter, draw = random.randrange(3), random.random()
        port = 0x40 + counter
        if draw < 0.5:
            yield [read(port)]
        elif draw < 0.6:
            yield [write(0x43, counter << 6)]
        elif draw < 0.7:
            yield [write(0x43, 0xD0 | random.getrandbits(4))]
        elif draw < 0.75:  # a status waits for no other read of its counter
            yield [write(0x43, 0xE0 | 2 << counter), rows.PIT_STATUS.excuses(read(port))]
        elif draw < 0.85:
            port61 = rows.REFRESH.excuses(read(0x61))
            yield [read(0x43), rows.PIT_STATUS.excuses(port61, 0x20)]
        elif draw < 0.9:
            yield [write(0x61, random.getrandbits(8))]
        else:
            yield [read(port)] * 4  # no latch survives
            yield _count(random, counter)


# --- RTC


def _number(cell: int, register_b: int, random: Random) -> int:
    """A valid byte for a cell of time, date or alarm."""
    ranges = {0: (0, 59), 1: (0, 59), 2: (0, 59), 3: (0, 59), 6: (1, 7), 7: (1, 28), 8: (1, 12), 9: (0, 99)}

    def encode(number: int) -> int:
        return number if register_b & 4 else number // 10 << 4 | number % 10

    if cell in {4, 5}:
        hour = random.randrange(24)
        return encode(hour) if register_b & 2 else encode(hour % 12 or 12) | 0x80 * (hour >= 12)
    return encode(20 if cell in {0x32, 0x37} else random.randint(*ranges[cell]))


def _set_clock(random: Random, register_b: int) -> list[Access]:
    run = cmos(0x0B, register_b | 0x80)
    for cell in (*range(10), 0x32):
        run += cmos(cell, _number(cell, register_b, random))
    return run + cmos(0x0B, register_b)


def rtc(random: Random) -> Steps:
    """Time, date, alarm, registers A-D and RAM; a new format comes with a new time."""
    timed = (*range(10), 0x32, 0x37)
    register_b = 0x02
    yield _set_clock(random, register_b)
    while True:
        cell, draw = (
            random.choice((*timed, *range(10, 14), 0x0A, 0x0B, random.randrange(128))),
            random.random(),
        )
        if draw < 0.5:
            yield cmos(cell | random.getrandbits(1) << 7)
        elif draw < 0.6:
            yield [read(0x70), read(0x71)]
        elif cell == 0x0A:
            yield cmos(cell, random.choice((0x20, 0x26, 0x26, 0x2F, 0x66, 0x70, 0x76, 0xA6)))
        elif cell == 0x0B:
            before, register_b = register_b, random.getrandbits(8)
            same = not (before ^ register_b) & 0x06
            yield cmos(cell, register_b) if same else _set_clock(random, register_b)
        elif cell in timed:
            yield cmos(cell, _number(cell, register_b, random))
        else:
            yield cmos(cell, random.getrandbits(8))


# --- i8042, port 92h


def i8042(random: Random) -> Steps:
    """All commands; no byte for a keyboard or a mouse, which QEMU has."""
    yield [write(0x64, 0xAA), read(0x60)]
    plain = (0x20, 0x20, 0xA7, 0xA8, 0xA9, 0xAA, 0xAB, 0xAD, 0xAE, 0xC0, 0xD0, 0xDD, 0xDF)
    while True:
        draw = random.random()
        if draw < 0.3:
            yield [read(0x60)]
        elif draw < 0.65:
            yield [rows.I8042_STATUS.excuses(read(0x64))]
        elif draw < 0.85:
            yield [write(0x64, random.choice(plain))]
        else:
            command = random.choice((0x60, 0xD1, 0xD2, 0xD3))
            value = random.getrandbits(8) | (command == 0xD1)  # bit 0 low resets the machine
            yield [write(0x64, command), write(0x60, value)]


def port92(random: Random) -> Steps:
    """All bits but INIT_NOW, which resets the machine."""
    while True:
        yield [read(0x92), write(0x92, random.getrandbits(8) & 0xFE), read(0x92)]


# --- PCI


def confadd(random: Random) -> Steps:
    """Any CONFADD, read back; RC without RCPU; functions that are not there."""
    while True:
        address = random.getrandbits(32)
        yield [write(0xCF8, address, 4), rows.CONFADD.excuses(read(0xCF8, 4), 0x7F000003)]
        yield [write(0xCF9, random.getrandbits(8) & ~0x04), read(0xCF9)]
        yield [write(random.choice((0xCF8, 0xCFA, 0xCFB)), random.getrandbits(8))]
        absent = 0x4000 | random.getrandbits(3) << 8
        yield config(absent, random.getrandbits(8) & 0xFC, 4, random.getrandbits(32))
        yield config(absent, random.getrandbits(8) & 0xFC)
        yield [write(0xCF8, address & 0x7FFFFFFF, 4), read(0xCFC, random.choice((1, 2, 4)))]


def function(random: Random, number: int, name: str) -> Steps:
    """The header with any size and offset; from 40h on what we declare, bit by bit.

    PMREGMISC.PMIOSE stays 0: PM I/O space may not come to lie over CONFADD.
    """
    ours = stored_bits(plugin(name))
    yield [*config(number, 0x04, 2, 0x0100), *config(number, 0x04, 2)]
    for register in range(0x40, 0x100, 4):  # QEMU's reset values are board settings
        yield config(number, register, 4, 0)
    known = [offset for offset, bits in enumerate(ours) if bits]
    while True:
        size = random.choice((1, 2, 4))
        register = random.choice((random.getrandbits(8), random.getrandbits(6), random.choice(known))) & -size
        if random.random() < 0.5:
            value = random.getrandbits(8 * size)
            yield config(number, register, size, value & ~1 if register == 0x80 else value)
            continue
        access = config(number, register, size)
        if register >= 0x40:
            stored = int.from_bytes(ours[register : register + size], "little")
            access[-1] = rows.PCI_STORAGE.excuses(access[-1], ~stored & (1 << 8 * size) - 1)
        elif number == I440FX and 0x04 <= register <= 0x07:
            access[-1] = rows.PCI_RESET.excuses(access[-1], 0x02800000 >> 8 * (register - 4))
        yield access


def stored_bits(device: type[Device]) -> bytearray:
    """For each byte of configuration space the bits that a register of ours stores."""
    stored = bytearray(256)
    for register in device.declared.values():
        if register.region is not None and register.region.name == "config_space":
            stored[register.offset : register.end] = register.rules.stored.to_bytes(register.size, "little")
    return stored


def pm_io(random: Random) -> Steps:
    """PM1 by words, the timer, PM1 and APM; SUS_EN ends the machine, the timer stands."""
    yield [*rows.PM_PLACED, write(0xB000, 1, 2)]
    while True:
        port = random.choice((0xB000, 0xB002, 0xB004, 0xB008, 0xB000 + random.randrange(0x0C, 0x40, 4)))
        size = 4 if port >= 0xB008 else 2
        reserved = {0xB002: 0xFADE, 0xB004: 0xE3FC}.get(port, 0)
        yield [rows.PM_REGISTERS.excuses(read(port, size), reserved)]
        if port == 0xB004:
            yield [write(port, random.getrandbits(16) & ~0x2000, 2)]
        elif random.random() < 0.3:
            yield [write(port, random.getrandbits(8 * size), size)]
        apm = random.choice((0xB2, 0xB3))
        yield [write(apm, random.choice((0xF0, 0xF1, random.getrandbits(8)))), read(apm)]


# --- paravirtual ports


KEYS: Final = (0x00, 0x01, 0x03, 0x05, 0x0E, 0x0F, 0x4000, 0x4001, 0x1FFF, 0x8002, 0x8004, 0xFFFF)
"""Items with the same content on both sides."""
DESCRIPTOR, TARGET = 0x1000, 0x2000


def _big(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "big"), "little")


def _transfer(random: Random) -> list[Access]:
    control = random.getrandbits(5) | random.choice((0x08, 0x0A)) | random.choice(KEYS) << 16
    length, target = random.choice((0, 1, 4, 7, 32)), TARGET + random.getrandbits(3)
    target = random.choice((target, target, target, 0xFFFFF8, 0xF0000000, 1 << 41))
    descriptor = random.choice((DESCRIPTOR, DESCRIPTOR, DESCRIPTOR, 0xFFFFF8))
    if descriptor != DESCRIPTOR:  # half of it is no RAM
        return [write(0x518, _big(descriptor, 4), 4), read(0x511)]
    run = [Access("mmio", TARGET + 8 * n, 8, random.getrandbits(64)) for n in range(6)]
    run += [
        Access("mmio", DESCRIPTOR, 4, _big(control, 4)),
        Access("mmio", DESCRIPTOR + 4, 4, _big(length, 4)),
    ]
    run += [Access("mmio", DESCRIPTOR + 8, 8, _big(target, 8))]
    run += [write(0x514, 0, 4)] * random.getrandbits(1) + [write(0x518, _big(DESCRIPTOR, 4), 4)]
    run += [Access("mmio", DESCRIPTOR, 4)]
    return run + [Access("mmio", TARGET + 8 * n, 8) for n in range(6)]


def fw_cfg(random: Random) -> Steps:
    """Selector, data port and DMA, also with descriptors that make no sense."""
    while True:
        draw = random.random()
        if draw < 0.3:
            yield [write(0x510, random.choice(KEYS), 2)]
        elif draw < 0.6:
            yield [read(random.choice((0x510, 0x511))) for _ in range(random.randrange(12))]
        elif draw < 0.7:
            yield [write(random.choice((0x510, 0x511)), random.getrandbits(8))]
        elif draw < 0.75:
            yield [read(0x514, 4), read(0x518, 4), read(random.randrange(0x514, 0x51C))]
        else:
            yield _transfer(random)


def pvpanic(random: Random) -> Steps:
    """Any event."""
    while True:
        yield [write(0x505, random.getrandbits(8)), read(0x505)]


def debugcon(random: Random) -> Steps:
    """Any byte."""
    while True:
        yield [write(0x402, random.getrandbits(8)), read(0x402)]


CAMPAIGNS: Final = (
    Campaign("uart0", "serial line", partial(uart, loopback=False)),
    Campaign("uart0", "loopback", partial(uart, loopback=True)),
    *(
        Campaign("pic", name, partial(pic, slave=slave, level=level, special=special))
        for name, slave, level, special in (
            ("master, edges", False, False, False),
            ("master, levels", False, True, False),
            ("master, levels, special mask", False, True, True),
            ("slave, edges, special mask", True, False, True),
            ("slave, levels", True, True, False),
        )
    ),
    Campaign("pic", "cascade", cascade),
    Campaign("pit", "programming", pit),
    Campaign("rtc", "time and memory", rtc),
    Campaign("i8042", "commands", i8042),
    Campaign("port92", "bits", port92),
    Campaign("pci", "CONFADD", confadd),
    Campaign("i440fx", "configuration", partial(function, number=I440FX, name="pci/i440fx")),
    Campaign("piix3", "configuration", partial(function, number=PIIX3, name="pci/piix3")),
    Campaign("pm", "configuration", partial(function, number=PM, name="acpi/piix4_pm")),
    Campaign("pm", "I/O space", pm_io),
    Campaign("fw_cfg", "items and DMA", fw_cfg),
    Campaign("pvpanic", "events", pvpanic),
    Campaign("debugcon", "characters", debugcon),
    Campaign("hpet", "registers", hpet, more),
    Campaign("ioapic", "redirection", ioapic, more),
    Campaign("edu", "registers, interrupts of factorials", partial(edu, interrupts=True), more),
    Campaign("edu", "registers", partial(edu, interrupts=False), more),
    Campaign("edu", "configuration", edu_configuration, more),
    Campaign("crb", "commands", crb, partial(both, name="crb")),
    Campaign("tis", "commands", partial(tis, several=False), partial(both, name="tis")),
    Campaign("tis", "localities", partial(tis, several=True), partial(both, name="tis")),
)
