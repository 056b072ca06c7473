"""The 16550A UART, whatever bus it is on: `devices/legacy/uart16550.py`, `devices/pci/uart.py`.

Specification: National Semiconductor PC16550D datasheet (TI SNLS378), sections 6.0
(signals), 8.1-8.9 (registers, Table II-IV) and 8.4 (FIFO modes).
"""

from __future__ import annotations

import enum
from typing import Final

from attrs import define, field

from mmiod.device.declarations import Region, Stream, Timer
from mmiod.device.device import Device
from mmiod.device.fields import Field
from mmiod.device.registers import Register

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
RESETS: Final = FCR.RCVR_FIFO_RESET | FCR.XMIT_FIFO_RESET
DELTAS: Final = MSR.DCTS | MSR.DDSR | MSR.TERI | MSR.DDCD
CONNECTED: Final = MSR.CTS | MSR.DSR | MSR.DCD
LOOPED: Final = {MCR.RTS: MSR.CTS, MCR.DTR: MSR.DSR, MCR.OUT1: MSR.RI, MCR.OUT2: MSR.DCD}


class Cause(enum.IntEnum):
    """Bits 3:0 of IIR, Table IV."""

    MODEM_STATUS = 0x0
    NONE = 0x1
    THR_EMPTY = 0x2
    RECEIVED_DATA = 0x4
    LINE_STATUS = 0x6
    CHARACTER_TIMEOUT = 0xC


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
    """16550A; what it is on overrides `interrupt`, and perhaps `ports`.

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

    Threat: `fifo` holds 16 bytes; what comes without room is an overrun.  Output is the
    guest's rate of writes, and the backend's to bound.
    """

    ports = Region(8, implemented=(1, 1))
    serial = Stream()
    silence = Timer()
    state: UartState

    lcr = Register(3, fields=LCR, region=ports)
    rbr = Register(0, access="r", when=lcr.lacks(LCR.DLAB), region=ports)
    thr = Register(0, access="w", when=lcr.lacks(LCR.DLAB), region=ports)
    dll = Register(0, reset=12, when=lcr.has(LCR.DLAB), region=ports)
    ier = Register(1, mask=0x0F, fields=IER, when=lcr.lacks(LCR.DLAB), region=ports)
    dlm = Register(1, when=lcr.has(LCR.DLAB), region=ports)
    iir = Register(2, access="r", fields={"CAUSE": Field(0, 4), "FIFOS": Field(6, 2)}, region=ports)
    fcr = Register(2, access="singlepulse", fields=FCR, region=ports)
    mcr = Register(4, mask=0x1F, fields=MCR, region=ports)
    lsr = Register(5, access="r", fields=LSR, region=ports)
    msr = Register(6, access="r", reset=CONNECTED, fields=MSR, region=ports)
    scr = Register(7, region=ports)

    def interrupt(self, level: bool) -> None:
        """The level of the INTR pin: drive an interrupt line."""
        raise NotImplementedError

    # --- receiver

    @property
    def depth(self) -> int:
        """Characters that the receiver holds."""
        return FIFO_DEPTH if self.fcr & FCR.FIFO_ENABLE else 1

    @serial.room
    def _room(self) -> int:
        return 0 if self.mcr & MCR.LOOP else max(0, self.depth - len(self.state.fifo))

    @serial.on_receive
    def _arrived(self, data: bytes) -> None:
        for character in data:
            self._shift_in(character)
        self._drive()

    def _shift_in(self, character: int) -> None:
        fifo = self.state.fifo
        self.state.overrun |= len(fifo) == self.depth
        if self.depth == 1:
            fifo[:] = (character,)  # 8.3: the new character destroys the one in RBR
            self.state.character = character
        elif len(fifo) < self.depth:
            fifo.append(character)
        self._listen()

    def _make_room(self) -> None:
        self.serial.ready()
        self._drive()

    def _listen(self) -> None:
        """Count the silence of four characters anew; an empty FIFO cannot time out."""
        self.silence.cancel()
        if self.state.fifo and self.depth > 1:
            lcr, divisor = self.lcr, (self.dlm << 8 | self.dll) or 0x10000
            bits = 7 + (lcr & 3) + bool(lcr & LCR.STB) + bool(lcr & LCR.PEN)
            self.silence.set(self.clock.now_ns + 4 * bits * 16 * divisor * 1_000_000_000 // CLOCK_HZ)

    @rbr.value
    def _oldest(self) -> int:
        if self.depth == 1:
            return self.state.character
        return self.state.fifo[0] if self.state.fifo else 0

    @rbr.on_read
    def _oldest_was_read(self) -> None:
        del self.state.fifo[:1]
        self._listen()
        self._make_room()

    # --- transmitter

    @thr.on_write
    def _transmit(self, character: int) -> None:
        self.state.thre_seen = True
        self._drive()
        if self.mcr & MCR.LOOP:
            self._shift_in(character)
        else:
            self.serial.send(bytes((character,)))
        self.state.thre_seen = False
        self._drive()

    # --- control

    @fcr.on_write
    def _fifos_controlled(self, value: int) -> None:
        # 8.4: the other settings count only with bit 0, whose change resets both FIFOs.
        resets = RESETS if (value ^ self.fcr) & FCR.FIFO_ENABLE else value
        self.fcr = value & ~RESETS if value & FCR.FIFO_ENABLE else 0
        if resets & FCR.RCVR_FIFO_RESET:
            self.state.fifo.clear()
            self.silence.cancel()
        if resets & FCR.XMIT_FIFO_RESET:
            self.state.thre_seen = False
        self._make_room()

    @ier.on_write
    def _interrupts_enabled(self, value: int) -> None:
        if not value & IER.ETBEI:
            self.state.thre_seen = False  # enabled again, an empty THR is a reason again
        self._drive()

    @mcr.on_write
    def _modem_controlled(self, value: int) -> None:
        looped = sum(line for output, line in LOOPED.items() if value & output)
        levels = looped if value & MCR.LOOP else int(CONNECTED)
        changed = (self.msr ^ levels) & ~DELTAS
        if levels & MSR.RI:
            changed &= ~MSR.RI  # TERI is for the trailing edge only
        self.msr = levels | self.msr & DELTAS | changed >> 4
        self._make_room()

    # --- status

    @lsr.value
    def _line_status(self) -> int:
        return IDLE | (LSR.DR if self.state.fifo else 0) | (LSR.OE if self.state.overrun else 0)

    @lsr.on_read
    def _errors_were_read(self) -> None:
        if self.state.overrun:
            self.state.overrun = False
            self._drive()

    @msr.on_read
    def _changes_were_read(self) -> None:
        self.msr &= ~DELTAS
        self._drive()

    @property
    def cause(self) -> Cause:
        """The pending interrupt of the highest priority, Table IV."""
        fifo, many = self.state.fifo, self.depth > 1
        timed_out = bool(fifo) and many and self.silence.deadline_ns is None
        available = len(fifo) >= (TRIGGERS[self.fcr >> 6] if many else 1)
        reasons = (
            (IER.ELSI, self.state.overrun, Cause.LINE_STATUS),
            (IER.ERBFI, timed_out, Cause.CHARACTER_TIMEOUT),
            (IER.ERBFI, available, Cause.RECEIVED_DATA),
            (IER.ETBEI, not self.state.thre_seen, Cause.THR_EMPTY),
            (IER.EDSSI, bool(self.msr & DELTAS), Cause.MODEM_STATUS),
        )
        return next((cause for enable, there, cause in reasons if there and self.ier & enable), Cause.NONE)

    @iir.value
    def _identification(self) -> int:
        return self.cause | (0xC0 if self.depth > 1 else 0)

    @iir.on_read
    def _identification_was_read(self) -> None:
        if self.cause is Cause.THR_EMPTY:
            self.state.thre_seen = True
            self._drive()

    @silence.on_fire
    def _drive(self) -> None:
        self.interrupt(self.cause is not Cause.NONE)
