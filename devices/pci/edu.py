"""The educational PCI device of QEMU, on which driver courses are built.

Specification: QEMU docs/specs/edu.rst.
"""

from __future__ import annotations

import enum
import math
from typing import Final

from attrs import define, field, frozen, validators

from mmiod.device import MemoryRead, MemoryWrite, Moves, Register, Timer, Work
from mmiod.device.pci import Bar, Command, Identity, Msi, PciFunction

API = 1

WORD: Final = 0xFFFF_FFFF
NS_PER_MS: Final = 1_000_000
DMA_MS: Final = 100
BUFFER, BUFFER_LENGTH = 0x40000, 4096
DMA_MASK: Final = (1 << 28) - 1
VANISHES: Final = 34
"""From here on a factorial is a multiple of 2^32."""


class Computation(enum.IntFlag):
    """Register 20h, the status of a factorial."""

    COMPUTING = 1 << 0
    RAISE_INTERRUPT = 1 << 7


class Dma(enum.IntFlag):
    """Register 98h, the command."""

    START = 1 << 0
    TO_RAM = 1 << 1
    RAISE_INTERRUPT = 1 << 2


class Cause(enum.IntFlag):
    """What the device itself raises in register 24h."""

    FACTORIAL = 1 << 0
    DMA = 1 << 8


@frozen
class EduConfig:
    """How long a factorial takes; with 0 no guest ever sees COMPUTING."""

    computing_ns: int = field(default=10_000, validator=validators.ge(0))


@define
class EduState:
    """What is in no register."""

    buffer: bytearray = field(factory=lambda: bytearray(BUFFER_LENGTH))


class Edu(PciFunction):
    """Identification, liveness, factorial, interrupts and DMA; all in BAR 0.

    Registers below 80h have 4 bytes, those from there on 4 or 8, of which 4 clear the rest;
    anything else reads ones.  Interrupts are INTx, or MSI where the guest enabled it.  A DMA
    takes 100 ms, its addresses are cut to 28 bits; one that is not within the buffer at
    40000h, or finds bus mastering off, moves nothing, and ends as any other.

    Not modelled: the time that large factorials take, the mask as an option.

    Threat: nothing grows; a DMA moves 4 KiB at most, once in 100 ms.
    """

    identity = Identity(0x1234, 0x11E8, 0x00FF00, revision=0x10, subsystem_vendor=0x1AF4, subsystem=0x1100)
    interrupt_pin_number = 1
    registers = Bar(1 << 20, number=0, valid=(4, 8), implemented=(4, 8), hole=0xFF)
    msi = Msi(0x40)
    computed = Timer()
    moved = Timer()
    moving = Work()
    state: EduState
    config: EduConfig

    identification = Register(0, size=4, whole=True, access="r", reset=0x0100_00ED, region=registers)
    liveness = Register(0x04, size=4, whole=True, access="r", region=registers)
    factorial = Register(0x08, size=4, whole=True, access="r", region=registers)
    computation = Register(0x20, size=4, whole=True, access="r", fields=Computation, region=registers)
    interrupt_status = Register(0x24, size=4, whole=True, access="r", fields=Cause, region=registers)
    interrupt_raise = Register(0x60, size=4, whole=True, access="w", region=registers)
    interrupt_acknowledge = Register(0x64, size=4, whole=True, access="w", region=registers)

    dma_source = Register(0x80, size=8, whole=True, access="r", region=registers)
    dma_source_word = Register(0x80, size=4, region=registers)
    dma_destination = Register(0x88, size=8, whole=True, access="r", region=registers)
    dma_destination_word = Register(0x88, size=4, region=registers)
    dma_count = Register(0x90, size=8, whole=True, access="r", region=registers)
    dma_count_word = Register(0x90, size=4, region=registers)
    dma_command = Register(0x98, size=8, whole=True, access="r", fields=Dma, region=registers)
    dma_command_word = Register(0x98, size=4, fields=Dma, region=registers)

    @liveness.on_write
    def _invert(self, value: int) -> None:
        self.liveness = value ^ WORD

    # --- factorial

    @factorial.on_write
    def _compute(self, value: int) -> None:
        if self.computation & Computation.COMPUTING:
            return
        self.factorial = value
        self.computation |= Computation.COMPUTING
        if self.config.computing_ns:
            self.computed.set(self.clock.now_ns + self.config.computing_ns)
        else:
            self._computed()

    @computed.on_fire
    def _computed(self) -> None:
        self.factorial = math.factorial(self.factorial) & WORD if self.factorial < VANISHES else 0
        self.computation &= ~Computation.COMPUTING
        if self.computation & Computation.RAISE_INTERRUPT:
            self._raise(Cause.FACTORIAL)

    @computation.on_write
    def _computation_written(self, value: int) -> None:
        self.computation = self.computation & Computation.COMPUTING | value & Computation.RAISE_INTERRUPT

    # --- interrupts

    @interrupt_raise.on_write
    def _raise(self, causes: int) -> None:
        self.interrupt_status |= causes
        if self.interrupt_status and not self.send_message():
            self.set_intx(True)

    @interrupt_acknowledge.on_write
    def _acknowledge(self, causes: int) -> None:
        self.interrupt_status &= ~causes
        if not self.interrupt_status:
            self.set_intx(False)

    # --- DMA

    def _set(self, name: str, value: int) -> None:
        if not self.dma_command & Dma.START:
            self.values[name] = value

    @dma_source.on_write
    @dma_source_word.on_write
    def _set_source(self, value: int) -> None:
        self._set("dma_source", value)

    @dma_destination.on_write
    @dma_destination_word.on_write
    def _set_destination(self, value: int) -> None:
        self._set("dma_destination", value)

    @dma_count.on_write
    @dma_count_word.on_write
    def _set_count(self, value: int) -> None:
        self._set("dma_count", value)

    @dma_command.on_write
    @dma_command_word.on_write
    def _start(self, value: int) -> None:
        if value & Dma.START and not self.dma_command & Dma.START:
            self.dma_command = value
            self.moved.set((self.clock.now_ns // NS_PER_MS + DMA_MS) * NS_PER_MS)

    @dma_source_word.value
    def _source(self) -> int:
        return self.dma_source & WORD

    @dma_destination_word.value
    def _destination(self) -> int:
        return self.dma_destination & WORD

    @dma_count_word.value
    def _count(self) -> int:
        return self.dma_count & WORD

    @dma_command_word.value
    def _command_word(self) -> int:
        return self.dma_command & WORD

    @moved.on_fire
    def _due(self) -> None:
        self.moving.start()

    @moving.on_run
    def _run(self) -> Moves:
        if self.dma_command & Dma.TO_RAM:
            start, end = self._part(self.dma_source)
            yield MemoryWrite(self.dma_destination & DMA_MASK, bytes(self.state.buffer[start:end]))
        else:
            start, end = self._part(self.dma_destination)
            data = yield MemoryRead(self.dma_source & DMA_MASK, end - start)
            self.state.buffer[start:end] = data
        self.dma_command &= ~Dma.START
        if self.dma_command & Dma.RAISE_INTERRUPT:
            self._raise(Cause.DMA)

    def _part(self, inside: int) -> tuple[int, int]:
        """Where a DMA begins and ends in the buffer: nowhere, if it may not move anything."""
        start, end = inside - BUFFER, inside - BUFFER + self.dma_count
        allowed = 0 <= start <= end <= BUFFER_LENGTH and self.command & Command.BUS_MASTER
        return (start, end) if allowed else (0, 0)
