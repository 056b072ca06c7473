"""The I/O APIC of a PC: 24 inputs, each of which becomes a message to local APICs.

Specification: Intel 82093AA datasheet (290566), 3.0 "Register Description"; Intel 64 SDM
volume 3, 10.11 "Message Signalled Interrupts".
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from mmiod.device import Device, Field, IrqInputs, Region, Register

API = 1

INPUTS: Final = 24
VERSION: Final = INPUTS - 1 << 16 | 0x20
"""IOAPICVER (3.2.2); 20h is that of a chip with EOI register, an 82093AA's is 11h."""
IOAPICID, IOAPICVER, IOAPICARB, IOREDTBL = 0, 1, 2, 0x10
"""Numbers of registers behind IOWIN (3.2); IOREDTBL has two for each input."""
ID: Final = 0x0F00_0000
LOW: Final = 0xFFFF_FFFF

REDIRECTION: Final = {
    "INTVEC": Field(0, 8),
    "DELMOD": Field(8, 3),
    "DESTMOD": Field(11),
    "DELIVS": Field(12),
    "INTPOL": Field(13),
    "REMOTE_IRR": Field(14),
    "TRIGGER": Field(15),
    "MASK": Field(16),
    "DEST": Field(56, 8),
}
"""A redirection table entry (3.2.4)."""
MASK: Final = REDIRECTION["MASK"].mask
REMOTE_IRR: Final = REDIRECTION["REMOTE_IRR"].mask
LEVEL: Final = REDIRECTION["TRIGGER"].mask
READ_ONLY: Final = REMOTE_IRR | REDIRECTION["DELIVS"].mask
MESSAGE_ADDRESS: Final = 0xFEE0_0000
MESSAGE_DATA: Final = REDIRECTION["INTVEC"].mask | REDIRECTION["DELMOD"].mask | LEVEL
ASSERT: Final = 1 << 14
"""Of a level-triggered message (SDM, 10.11.2)."""


@define
class IoApicState:
    """What is behind IOWIN."""

    id: int = 0
    entries: list[int] = field(factory=lambda: [MASK] * INPUTS)


def address_of(entry: int) -> int:
    """Where a message goes: destination and its mode (SDM, 10.11.1)."""
    return MESSAGE_ADDRESS | REDIRECTION["DEST"].of(entry) << 12 | REDIRECTION["DESTMOD"].of(entry) << 2


def data_of(entry: int) -> int:
    """What it says: vector, delivery mode, trigger (SDM, 10.11.2)."""
    return entry & MESSAGE_DATA | ASSERT * bool(entry & LEVEL)


class IoApic(Device):
    """One I/O APIC with EOI register; its interrupts are messages to the hypervisor's local APICs.

    Inputs `irq0` .. `irq23`; a wire tells whether it is asserted, so INTPOL is stored and does
    nothing.  An edge at a masked input is lost (3.2.4, Interrupt Mask).  A level is sent once;
    Remote IRR holds it back until its vector is written to the EOI register: by the guest, or
    by the hypervisor for the EOI that its local APICs broadcast.  Making an input
    edge-triggered clears Remote IRR, too.  Reserved bits of entries are stored.

    Not modelled: the APIC bus (a message is accepted at once: DELIVS is 0), arbitration.

    Threat: nothing grows; one message for each access or edge and input at most.
    """

    registers = Region(0x1000, valid=(1, 4), implemented=(1, 4), stride=0x100)
    irq = IrqInputs(INPUTS)
    state: IoApicState

    ioregsel = Register(0x00, size=4, mask=0xFF, published=True, posted=True, region=registers)
    iowin = Register(0x10, size=4, whole=True, region=registers)
    eoi = Register(0x40, size=4, access="w", mask=0xFF, whole=True, region=registers)

    @irq.on_change
    def _changed(self, line: int, level: bool) -> None:
        entry = self.state.entries[line]
        if level and not entry & LEVEL and not entry & MASK:
            self._send(entry)
        self._serve(line)

    def _serve(self, line: int) -> None:
        """Send a level that is there, once."""
        entry = self.state.entries[line]
        if entry & LEVEL and self.irq[line] and not entry & (MASK | REMOTE_IRR):
            self.state.entries[line] |= REMOTE_IRR
            self._send(entry)

    def _send(self, entry: int) -> None:
        self.context.msi(address_of(entry), data_of(entry))

    @iowin.value
    def _shown(self) -> int:
        if self.ioregsel in {IOAPICID, IOAPICARB}:
            return self.state.id
        if self.ioregsel == IOAPICVER:
            return VERSION
        line, high = divmod(self.ioregsel - IOREDTBL, 2)
        return self.state.entries[line] >> 32 * high & LOW if 0 <= line < INPUTS else 0

    @iowin.on_write
    def _written(self, value: int) -> None:
        line, high = divmod(self.ioregsel - IOREDTBL, 2)
        if self.ioregsel == IOAPICID:
            self.state.id = value & ID
        elif 0 <= line < INPUTS:
            self.state.entries[line] = redirected(self.state.entries[line], value, high=bool(high))
            self._serve(line)

    @eoi.on_write
    def _ended(self, vector: int) -> None:
        for line, entry in enumerate(self.state.entries):
            if REDIRECTION["INTVEC"].of(entry) == vector:
                self.state.entries[line] &= ~REMOTE_IRR
                self._serve(line)


def redirected(entry: int, value: int, *, high: bool) -> int:
    """An entry with one half written."""
    merged = entry & LOW | value << 32 if high else entry & ~LOW | value
    merged = merged & ~READ_ONLY | entry & READ_ONLY
    return merged if merged & LEVEL else merged & ~REMOTE_IRR
