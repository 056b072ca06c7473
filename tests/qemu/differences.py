"""Where our devices and QEMU's are known to differ, and who is right.

At most 20 rows, those of instructions (`tests/x86/differences.py`) included.  A row's proof is
a list of runs from power-on; the last access of each is a read that gives both sides different
bits, all of them among `bits`.  `tests/qemu` fails when one does not differ any more.  A campaign
may ignore what a row names, nothing else.
"""

from __future__ import annotations

from typing import Final

from attrs import evolve, frozen

from tests.qemu.sides import Access

I440FX, PIIX3, PM, EDU = 0x0000, 0x0800, 0x0B00, 0x2800
"""Device and function, as bits 15:8 of CONFADD."""


def read(port: int, size: int = 1) -> Access:
    """IN."""
    return Access("port", port, size)


def write(port: int, value: int, size: int = 1) -> Access:
    """OUT."""
    return Access("port", port, size, value)


def memory(address: int, size: int = 1, value: int | None = None) -> Access:
    """An access to memory."""
    return Access("mmio", address, size, value)


def config(function: int, register: int, size: int = 4, value: int | None = None) -> list[Access]:
    """A PCI configuration access."""
    address = write(0xCF8, 1 << 31 | function | register & 0xFC, 4)
    return [address, Access("port", 0xCFC + (register & 3), size, value)]


def cmos(cell: int, value: int | None = None) -> list[Access]:
    """An access to the RTC's memory."""
    return [write(0x70, cell), Access("port", 0x71, 1, value)]


@frozen
class Difference:
    """One row.  `right` is `ours`, `QEMU` or `both` (they are different machines)."""

    device: str
    register: str
    bits: int
    condition: str
    citation: str
    right: str
    proof: tuple[list[Access], ...] = ()
    sections: str = ""
    """Sections of clocked.S that prove it, in time."""

    def excuses(self, access: Access, bits: int | None = None) -> Access:
        """The access, not compared in the row's bits, or in those where another register shows them."""
        return evolve(access, ignored=access.ignored | (self.bits if bits is None else bits))


INIT: Final = [write(0x20, 0x11), write(0x21, 0x08), write(0x21, 0x04), write(0x21, 0x01)]
"""ICW1-4 of the master."""
PM_PLACED: Final = [*config(PM, 0x40, 4, 0xB000), *config(PM, 0x80, 1, 1)]
"""PM I/O space at port B000h."""

UART_MODEM = Difference(
    "uart0",
    "MCR.OUT2; MSR, deltas",
    0x0F,
    "after reset; modem outputs change in loopback, or it begins or ends",
    "PC16550D, Table I: MCR is all bits low; 8.7 bit 4: in loopback MCR's bits are MSR's sources",
    "ours",
    ([read(0x3FC)], [write(0x3FC, 0x12), read(0x3FE)]),
)
PIC_LEVELS = Difference(
    "pic, ioapic",
    "IRR; ISR; Remote IRR",
    0x40FF,
    "an edge-triggered input falls before it was acknowledged; a non-specific EOI in special mask mode "
    "while the highest level in service is masked; an input is high when it becomes level-triggered",
    "8259A, Edge and Level Triggered Modes: IR must remain high until after the first INTA; End of "
    "Interrupt: a masked IS bit is not cleared by a non-specific EOI in Special Mask Mode; 82093AA, 3.2.4",
    "ours",
    (
        [*INIT, Access("line", 3, 1, 1), Access("line", 3, 1, 0), read(0x20)],
        [
            *(*INIT, Access("line", 3, 1, 1), write(0x20, 0x0C), read(0x20)),
            *(write(0x20, 0x68), write(0x21, 0x08), write(0x20, 0x20), write(0x20, 0x0B), read(0x20)),
        ],
        [
            *(Access("pin", 5, 1, 1), memory(0xFEC00000, 4, 0x1A), memory(0xFEC00010, 4, 0x8040)),
            memory(0xFEC00010, 4),
        ],
    ),
)
PIT_STATUS = Difference(
    "pit",
    "status byte",
    0xC0,
    "NULL COUNT before the count is loaded; OUTPUT (and OUT2) in modes 1, 2, 4, 5, 6, 7",
    "8254, Read-Back Command, Figure 11; Mode Definitions: OUT is initially high; M2 is X in modes 2 and 3",
    "ours",
    (
        [write(0x43, 0x30), write(0x40, 2), write(0x40, 1), write(0x43, 0xE2), read(0x40)],
        [write(0x43, 0x34), write(0x40, 2), write(0x40, 1), write(0x43, 0xE2), read(0x40)],
    ),
)
PIT_COUNT = Difference(
    "pit",
    "latched count; counting element",
    0xFFFF,
    "a control word while a count is latched; odd count in mode 3; BCD; GATE low in modes 0, 2, 3, 4; "
    "a new count while modes 1, 2, 3, 5 count",
    "8254, Counter Latch Command: held until it is read or the counter is reprogrammed; Mode Definitions: "
    "ODD COUNTS; GATE = 0 disables counting; does not affect the current sequence",
    "ours",
    (
        [
            *(write(0x43, 0x10), write(0x40, 0x55), write(0x43, 0x00)),
            *(write(0x43, 0x10), write(0x40, 0x22), read(0x40)),
        ],
        [write(0x43, 0x16), write(0x40, 0x55), read(0x40)],
        [write(0x43, 0x14), write(0x40, 0x55), write(0x40, 0x22), read(0x40)],
    ),
    "BG",
)
REFRESH = Difference(
    "pit",
    "port 61h, REFRESH",
    0x10,
    "any read: QEMU toggles it at each",
    "PIIX3, 2.5.4.1 bit 4: it toggles following every refresh cycle",
    "ours",
    ([read(0x61)],),
)
RTC_TIME = Difference(
    "rtc, hpet",
    "seconds to century; register C, PF; main counter, status of interrupts",
    0xFFFFFFFFFFFFFFFF,
    "what QEMU keeps as 64-bit ns: dates not in 1970..2262, a counter from 2^64 / 10 on; PIE = 0: no PF, and "
    "its period begins with PIE; ENABLE_CNF = 0 clears status; a comparator that was passed interrupts",
    "MC146818A, Time, Calendar and Alarm Locations: 100 years; Register C: PF is set independent of PIE; "
    "HPET 1.0a, 2.3.7: 64 bits; 2.3.5: status is not cleared; 2.3.9.2.1: the interrupt is missed",
    "ours",
    (
        [*cmos(0x32, 0x60), *cmos(0x32)],
        [memory(0xFED000F0, 8, 1 << 63), memory(0xFED00010, 4, 1), memory(0xFED000F0, 8)],
    ),
    "P",
)
I8042_STATUS = Difference(
    "i8042",
    "status, CD and SYS",
    0x0C,
    "after a write of port 60h; after a command byte with SYS = 0",
    "PS/2 HITR, Keyboard Controller, Status Register, bits 3 and 2",
    "ours",
    ([write(0x64, 0xAA), read(0x60), write(0x64, 0x60), write(0x60, 0x03), read(0x64)],),
)
I8042_KEYBOARD = Difference(
    "i8042",
    "data and status after a byte for keyboard or mouse",
    0xFF,
    "always: QEMU has both plugged in",
    "PS/2 HITR, Status Register bit 6: transmit time-out, with FEh in the output buffer",
    "both",
    ([write(0x60, 0xF4), read(0x60)],),
)
PCI_STORAGE = Difference(
    "i440fx, piix3, pm, hpet",
    "40h-FFh; the HPET's 160h-17Fh",
    0xFFFFFFFF,
    "what is reserved or not modelled: QEMU stores it, and presets board settings",
    "82441FX, 3.0 and 82371SB, 2.0: reserved registers and bits return 0; HPET 1.0a, 2.3.4: NUM_TIM_CAP",
    "ours",
    (
        [*config(I440FX, 0xF0, 4, ~0 & 0xFFFFFFFF), *config(I440FX, 0xF0)],
        [memory(0xFED00160, 4, 4), memory(0xFED00160, 4)],
    ),
)
PCI_RESET = Difference(
    "i440fx, piix3",
    "PCICMD, PCISTS",
    0x02800007,
    "after reset; the 440FX's PCISTS always",
    "82441FX, 3.1.3-4: 0006h, 0280h; 82371SB, 2.2.3: 0007h (QEMU's own piix3_reset means it, too)",
    "ours",
    (config(I440FX, 0x04), config(PIIX3, 0x04)),
)
CONFADD = Difference(
    "pci",
    "CONFADD",
    0xFFFFFFFF,
    "bits 30:24 and 1:0; all bits when it is not read as a doubleword",
    "PCI 3.0, 3.2.2.3.2: reserved, must return 0; anything but a doubleword is no access to CONFADD",
    "ours",
    ([write(0xCF8, 0x7F000003, 4), read(0xCF8, 4)], [write(0xCF8, 0x03, 4), read(0xCF8)]),
)
BUS = Difference(
    "any",
    "any",
    0xFFFFFFFF,
    "access beyond its region (QEMU does not split it), of a size that it refuses (QEMU: 0), or of 8 bytes "
    "to a periodic comparator of the HPET (QEMU splits it: VAL_SET_CNF is for the low half)",
    "82371SB, 3.1: a word for an 8-bit device is two bus cycles; nobody drives the bus high or low: ones; "
    "HPET 1.0a, 2.3.9.2.2: 64-bit writes",
    "ours",
    (
        [read(0x505, 2)],
        [read(0x510, 2)],
        [memory(0xFED00100, 4, 0x48), memory(0xFED00108, 8, 1 << 32), memory(0xFED0010C, 4)],
    ),
)
PM_REGISTERS = Difference(
    "pm",
    "PMSTS, PMEN, PMCNTRL",
    0xFFFF,
    "reserved bits (QEMU stores them); the high byte alone (it takes it for the low); TMROF_STS at power-on",
    "82371AB, 7.2.1-3: reserved bits read 0; ACPI 6.5, 4.8.3: bytes may be accessed; TMROF_STS: a change",
    "ours",
    (
        [*PM_PLACED, read(0xB000, 2)],
        [*PM_PLACED, write(0xB002, 0xFADE, 2), read(0xB002, 2)],
        [*PM_PLACED, write(0xB004, 0x1C01, 2), read(0xB005)],
    ),
)
CRB_STATES = Difference(
    "crb",
    "TPM_CRB_DATA_BUFFER, TPM_CRB_CTRL_REQ, _STS, _CANCEL, _INTF_ID",
    0xFFFFFFFF,
    "QEMU keeps no state but tpmIdle, asks for no locality but to start, and has locality 0 alone",
    "PTP 1.05, CRB Interface: its state diagram, registers of a locality that is not active, IntfSelLock",
    "ours",
    (
        [memory(0xFED40F00, 4)],
        [memory(0xFED40030, 4)],
        [memory(0xFED40048, 4, 1), memory(0xFED40048, 4)],
    ),
)
TIS_LOCALITY = Difference(
    "tis",
    "TPM_STS, TPM_DATA_FIFO; TPM_INT_*, TPM_INTF_CAPABILITY",
    0xFFFFFFFF,
    "after a locality change: QEMU keeps a state for each; always: QEMU has interrupts; bytes of burstCount",
    "PTP 1.05, FIFO Interface: a locality change aborts; interrupts are optional",
    "ours",
    (
        [
            *(memory(0xFED40000, 1, 0x02), memory(0xFED40018, 4, 0x40), memory(0xFED40000, 1, 0x20)),
            *(memory(0xFED40000, 1, 0x02), memory(0xFED40018, 4)),
        ],
        [memory(0xFED40014, 4)],
        [memory(0xFED4000C, 4)],
        [memory(0xFED40000, 1, 0x02), memory(0xFED40019)],
    ),
)

TABLE: Final = (
    *(UART_MODEM, PIC_LEVELS, PIT_STATUS, PIT_COUNT, REFRESH),
    *(RTC_TIME, I8042_STATUS, I8042_KEYBOARD, PCI_STORAGE, PCI_RESET, CONFADD, BUS),
    *(PM_REGISTERS, CRB_STATES, TIS_LOCALITY),
)
