"""The 16550A UART, whatever bus it is on: `devices/legacy/uart16550.py`, `devices/pci/uart.py`.

Specification: National Semiconductor PC16550D datasheet (TI SNLS378), sections 6.0
(signals), 8.1-8.9 (registers, Table II-IV) and 8.4 (FIFO modes).
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final

from attrs import define, field

from mmiod.device import Device, Field, Region, Register, Stored, Stream, Timer

CLOCK_HZ: Final = 1_843_200
FIFO_DEPTH: Final = 16
TRIGGERS: Final = (1, 4, 8, 14)


IER = enum.IntFlag("IER", "ERBFI ETBEI ELSI EDSSI")
FCR = enum.IntFlag("FCR", "FIFO_ENABLE RCVR_FIFO_RESET XMIT_FIFO_RESET DMA_MODE D4 D5 TRIGGER0 TRIGGER1")
LCR = enum.IntFlag("LCR", "WLS0 WLS1 STB PEN EPS STICK BREAK DLAB")
MCR = enum.IntFlag("MCR", "DTR RTS OUT1 OUT2 LOOP")
LSR = enum.IntFlag("LSR", "DR OE PE FE BI THRE TEMT FIFO_ERROR")
MSR = enum.IntFlag("MSR", "DCTS DDSR TERI DDCD CTS DSR RI DCD")
"""Bit n of MSR tells that the input of bit n + 4 changed."""
IDLE: Final = int(LSR.THRE | LSR.TEMT)
RESETS: Final = int(FCR.RCVR_FIFO_RESET | FCR.XMIT_FIFO_RESET)
DELTAS: Final = int(MSR.DCTS | MSR.DDSR | MSR.TERI | MSR.DDCD)
# Ints: `&` of a flag takes longer than all the rest of a hook.
FIFO_ENABLE, OUT2, LOOP, ERBFI, ETBEI, ELSI, EDSSI = map(int, (FCR.FIFO_ENABLE, MCR.OUT2, MCR.LOOP, *IER))
MSR_FIELDS: Final = {
    str(bit.name): Field(n, access="rc" if bit & DELTAS else "r") for n, bit in enumerate(MSR)
}
CONNECTED: Final = int(MSR.CTS | MSR.DSR | MSR.DCD)
LOOPED: Final = {MCR.RTS: MSR.CTS, MCR.DTR: MSR.DSR, MCR.OUT1: MSR.RI, MCR.OUT2: MSR.DCD}
POSTED: Final = ("lcr", "ier", "thr", "dll", "dlm", "scr")
MUTE: Final = Stored(("mcr",), lambda uart: uart.gated and not uart.mcr & OUT2)
"""INTR leads nowhere: nobody waits for IER."""
QUIET: Final = Stored(
    ("ier", "mcr"), lambda uart: not uart.mcr & LOOP and (MUTE(uart) or not uart.ier & ETBEI)
)
"""THR's emptying interrupts nobody, and the character leaves."""
STEADY: Final = Stored(("msr",), lambda uart: not uart.msr & DELTAS)
Cause = enum.IntEnum("Cause", {"MODEM": 0, "NONE": 1, "THR_EMPTY": 2, "DATA": 4, "LINE": 6, "TIMEOUT": 12})
"""Bits 3:0 of IIR, Table IV."""


@define
class UartState:
    """What no register holds."""

    fifo: bytearray = field(factory=bytearray)
    """Received characters, oldest first; one at most while FIFOs are off."""
    character: int = 0
    """RBR without FIFOs: it keeps what was read."""
    overrun: bool = False
    thre_seen: bool = False
    """IIR told of the empty THR; it is not told again before the next reason."""


class Uart(Device):
    """16550A; what it is on drives INTR from IIR in `on_settle`, and may have other `ports`.

    A character leaves at once: LSR always says THRE and TEMT.  The THRE interrupt still
    keeps its rules (8.5, Table IV): it goes when IIR names it or THR is written, and comes
    with the next emptying, with ETBEI going high and with a reset of the transmitter FIFO;
    each write of THR is a falling and a rising edge of the interrupt where nothing else
    holds it up.  Received bytes fill the FIFO as fast as it is emptied; the others wait in
    the backend, in loopback all of them.  The character timeout counts four character times
    of the programmed line (8.4, FIFO interrupt mode).  In loopback CTS, DSR, RI and DCD
    follow RTS, DTR, OUT1 and OUT2.

    Not modelled: line errors and break (a byte stream has none, so PE, FE, BI and LSR bit 7
    stay 0 and LCR's BREAK and parity change no data), words shorter than 8 bits, DMA mode
    pins, writes to LSR and MSR (factory test).  CTS, DSR and DCD are always on.

    Without a message: the settings are read; LSR while no error would go with it, MSR while
    no change would; a character is sent while nothing follows from it for the guest.

    Threat: `fifo` holds 16 bytes; what comes without room is an overrun.  Output is the
    guest's rate of writes, and the backend's to bound.
    """

    ports = Region(8, implemented=(1, 1))
    serial = Stream()
    silence = Timer()
    state: UartState

    gated: ClassVar[bool] = False
    """OUT2 gates the interrupt: while it is low nobody waits for IER."""

    lcr = Register(3, fields=LCR, published=True, posted=True, unaffected_by=POSTED[1:], region=ports)
    off, on = lcr.lacks(LCR.DLAB), lcr.has(LCR.DLAB)
    rbr = Register(0, access="r", when=off, region=ports)
    thr = Register(0, access="w", when=off, posted=QUIET, unaffected_by=POSTED[1:], region=ports)
    dll = Register(0, reset=12, when=on, published=True, posted=True, region=ports)
    ier = Register(
        1, mask=15, fields=IER, when=off, published=True, posted=MUTE, echoed=True, unaffected_by=POSTED[2:],
        region=ports,
    )  # fmt: skip
    dlm = Register(1, when=on, published=True, posted=True, region=ports)
    iir = Register(2, access="r", fields={"CAUSE": Field(0, 4), "FIFOS": Field(6, 2)}, region=ports)
    fcr = Register(2, access="singlepulse", fields=FCR, region=ports)
    mcr = Register(4, mask=0x1F, fields=MCR, published=True, unaffected_by=POSTED, region=ports)
    lsr = Register(
        5, access="r", fields=LSR, published=lambda u: not u.state.overrun, unaffected_by=POSTED, region=ports
    )
    msr = Register(6, access="r", reset=CONNECTED, fields=MSR_FIELDS, published=STEADY, region=ports)
    scr = Register(7, published=True, posted=True, echoed=True, unaffected_by=POSTED[:-1], region=ports)

    # --- receiver

    @property
    def depth(self) -> int:
        """Characters that the receiver holds."""
        return FIFO_DEPTH if self.fcr & FIFO_ENABLE else 1

    @serial.room
    def _room(self) -> int:
        return 0 if self.mcr & LOOP else max(0, self.depth - len(self.state.fifo))

    @serial.on_receive
    def _arrived(self, data: bytes) -> None:
        for character in data:
            self.state.overrun |= len(self.state.fifo) == self.depth
            if self.depth == 1:
                self.state.fifo[:] = (character,)  # 8.3: the new character destroys the one in RBR
                self.state.character = character
            elif len(self.state.fifo) < self.depth:
                self.state.fifo.append(character)
        self._fifo_changed()

    def _fifo_changed(self) -> None:
        """There may be room; the silence of four characters is counted anew, if any are there."""
        self.serial.ready()
        self.silence.cancel()
        if self.state.fifo and self.depth > 1:
            lcr, divisor = self.lcr, (self.dlm << 8 | self.dll) or 0x10000
            bits = 7 + (lcr & 3) + bool(lcr & LCR.STB) + bool(lcr & LCR.PEN)
            self.silence.set(self.clock.now_ns + 4 * bits * 16 * divisor * 1_000_000_000 // CLOCK_HZ)

    @rbr.value
    def _oldest(self) -> int:
        return self.state.character if self.depth == 1 else next(iter(self.state.fifo), 0)

    @rbr.on_read
    def _oldest_was_read(self) -> None:
        del self.state.fifo[:1]
        self._fifo_changed()

    # --- transmitter

    @thr.on_write
    def _transmit(self, character: int) -> None:
        self.state.thre_seen = True
        self.on_settle()  # the falling edge
        leave = self._arrived if self.mcr & LOOP else self.serial.send
        leave(bytes((character,)))
        self.state.thre_seen = False

    # --- control

    @fcr.on_write
    def _fifos_controlled(self, value: int) -> None:
        # 8.4: the other settings count only with bit 0, whose change resets both FIFOs.
        resets = RESETS if (value ^ self.fcr) & FIFO_ENABLE else value
        self.fcr = value & ~RESETS if value & FIFO_ENABLE else 0
        if resets & FCR.RCVR_FIFO_RESET:
            self.state.fifo.clear()
            self._fifo_changed()
        self.state.thre_seen &= not resets & FCR.XMIT_FIFO_RESET

    @ier.on_write
    def _interrupts_enabled(self, value: int) -> None:
        self.state.thre_seen &= bool(value & ETBEI)  # enabled again, an empty THR is a reason again

    @mcr.on_write
    def _modem_controlled(self, value: int) -> None:
        looped = sum(line for output, line in LOOPED.items() if value & output)
        levels = looped if value & LOOP else CONNECTED
        changed = (self.msr ^ levels) & ~(DELTAS | levels & MSR.RI)  # TERI is for the trailing edge only
        self.msr = int(levels | self.msr & DELTAS | changed >> 4)
        self.serial.ready()

    # --- status

    @lsr.value
    def _line_status(self) -> int:
        return IDLE | (LSR.DR if self.state.fifo else 0) | (LSR.OE if self.state.overrun else 0)

    @lsr.on_read
    def _errors_were_read(self) -> None:
        self.state.overrun = False

    @iir.value
    def _identification(self) -> int:
        """The pending interrupt of the highest priority, Table IV."""
        fifo, many, ier = self.state.fifo, self.depth > 1, self.ier
        reasons = (
            (ELSI, self.state.overrun, Cause.LINE),
            (ERBFI, many and fifo and self.silence.deadline_ns is None, Cause.TIMEOUT),
            (ERBFI, len(fifo) >= (TRIGGERS[self.fcr >> 6] if many else 1), Cause.DATA),
            (ETBEI, not self.state.thre_seen, Cause.THR_EMPTY),
            (EDSSI, self.msr & DELTAS, Cause.MODEM),
        )
        return next((cause for bit, there, cause in reasons if there and ier & bit), Cause.NONE) | 0xC0 * many

    @iir.on_read
    def _identification_was_read(self) -> None:
        self.state.thre_seen |= self.iir & 0xF == Cause.THR_EMPTY
