"""An ATA disk on the first IDE channel of a PC, by programmed I/O.

Specification: T13 1410D revision 3b (ATA/ATAPI-6): 7 "ATA interface register definitions", 8
"Command descriptions", 9 "Protocol" (PIO data-in, PIO data-out and non-data commands, device
0 alone).  In a PC: ports 1F0h-1F7h and 3F6h, IRQ 14.
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final

from attrs import define, field

from mmiod.device import Device, Field, IrqOutput, Region, Register, plain
from mmiod.device.ata import MAX_SECTORS, identity
from mmiod.device.block import SECTOR, Blocks, Medium

API = 1

Error = enum.IntFlag("Error", "AMNF NM ABRT MCR IDNF MC UNC ICRC")
Status = enum.IntFlag("Status", "ERR IDX CORR DRQ DSC DF DRDY BSY")
DeviceControl = enum.IntFlag("DeviceControl", {"nIEN": 2, "SRST": 4, "HOB": 128})
for flags in (Error, Status, DeviceControl):
    plain(flags)
DEVICE: Final = {"ADDRESS": Field(0, 4), "DEV": Field(4), "LBA": Field(6)}
DEV, LBA = 0x10, 0x40
DIAGNOSTIC: Final = 0x90
CACHE: Final = frozenset({0x02, 0x82})
"""SET FEATURES: write cache on and off; writes are the host's to keep, either way, until FLUSH CACHE."""
TRANSFER_MODE, PIO_END = 0x03, 0x10
"""SET FEATURES: what Sector Count says is a PIO mode below `PIO_END`."""
PASSED: Final = 1
"""Error register after a reset: device 0 passed its diagnostics."""
READY: Final = int(Status.DRDY | Status.DSC)


class Phase(enum.Enum):
    """Where a command stands, as bits of the status."""

    ABSENT = 0
    IDLE = READY
    DATA_IN = READY | Status.DRQ
    DATA_OUT = 0x100 | READY | Status.DRQ
    EXECUTION = int(Status.BSY)


@define
class AtaState:
    """The command under way, and the data that pass."""

    phase: Phase = Phase.EXECUTION
    failed: bool = False
    """ERR of the status."""
    intrq: bool = False
    sector: int = 0
    """Where the command began."""
    buffer: bytearray = field(factory=bytearray)
    position: int = 0
    medium: Medium = field(factory=Medium)
    identification: int = 0
    """Number of the request for `medium`."""
    awaited: int = 0
    """Number of the request that ends the command, or begins its transfer; 0 if none."""
    doubt: int = 0
    """The error if that fails."""


class AtaDisk(Device):
    """Device 0 of a channel; there is no device 1.

    READ and WRITE SECTOR(S) by LBA28, FLUSH CACHE, IDENTIFY DEVICE, SET FEATURES (transfer
    mode, write cache), EXECUTE DEVICE DIAGNOSTIC, software reset; all other commands are
    aborted.  Whatever waits for the image shows as BSY; without an image, or when the host
    cannot open it, the channel looks empty (status 0) until the next reset of the machine.

    Not modelled: CHS addresses (obsolete since ATA-6), DMA, READ and WRITE MULTIPLE, LBA48,
    READ VERIFY, power management, 32-bit access to Data, BSY between the sectors of a
    transfer.  Registers can be read while BSY.

    Threat: the buffer has at most 256 sectors; one command is under way, and each reset leaves at
    most one request behind, of which the backend bounds the number.
    """

    command_block = Region(8, valid=(1, 2))
    control_block = Region(1)
    intrq = IrqOutput()
    disk = Blocks()
    state: AtaState

    data = Register(0, size=2, whole=True, region=command_block)
    error = Register(1, access="r", reset=PASSED, fields=Error, region=command_block)
    features = Register(1, access="w", region=command_block)
    sector_count = Register(2, reset=1, region=command_block)
    lba_low = Register(3, reset=1, region=command_block)
    lba_mid = Register(4, region=command_block)
    lba_high = Register(5, region=command_block)
    device = Register(6, fields=DEVICE, region=command_block)
    status = Register(7, access="r", fields=Status, region=command_block)
    command = Register(7, access="w", region=command_block)
    alternate_status = Register(0, access="r", fields=Status, region=control_block)
    device_control = Register(0, access="w", fields=DeviceControl, region=control_block)

    def on_reset(self) -> None:
        """BSY until the image has said what it is."""
        self.state.identification = self.disk.identify()

    def on_restore(self) -> None:
        """The image may be another one here."""
        self.state.identification = self.disk.identify()

    # --- status and interrupt

    @property
    def _selected(self) -> bool:
        return not self.device & DEV

    @status.value
    def _status(self) -> int:
        shown = self.state.phase.value & 0xFF if self._selected else 0
        return shown | Status.ERR if shown and self.state.failed else shown

    @alternate_status.value
    def _alternate_status(self) -> int:
        return self._status()

    @status.on_read
    def _status_was_read(self) -> None:
        self._interrupt(False)

    def _interrupt(self, pending: bool) -> None:
        self.state.intrq = pending
        self._drive()

    def _drive(self) -> None:
        enabled = not self.device_control & DeviceControl.nIEN and self._selected
        self.intrq.set_level(self.state.intrq and enabled)

    @device.on_write
    def _device_selected(self, _value: int) -> None:
        self._drive()

    @device_control.on_write
    def _controlled(self, value: int) -> None:
        if value & DeviceControl.SRST and self.state.phase is not Phase.ABSENT:
            self._sign()
            self.state.phase, self.state.intrq = Phase.EXECUTION, False
        elif self.state.phase is Phase.EXECUTION and not self.state.awaited and self.state.medium.sectors:
            self.state.phase = Phase.IDLE
        self._drive()

    def _sign(self) -> None:
        """The signature of a disk (9.12); what was under way ends unheard."""
        self.error, self.sector_count, self.lba_low = PASSED, 1, 1
        self.lba_mid = self.lba_high = self.device = 0
        self.state.failed, self.state.awaited = False, 0

    # --- commands

    @command.on_write
    def _commanded(self, value: int) -> None:
        if self.state.phase in {Phase.ABSENT, Phase.EXECUTION} or not (self._selected or value == DIAGNOSTIC):
            return
        self.state.failed, self.error = False, 0
        self._interrupt(False)
        self._commands.get(value, AtaDisk._abort)(self)

    def _end(self, error: int = 0) -> None:
        self.error, self.state.failed = error, bool(error)
        self.state.phase, self.state.awaited = Phase.IDLE, 0
        self._interrupt(True)

    def _abort(self) -> None:
        self._end(Error.ABRT)

    def _await(self, number: int, doubt: int = Error.ABRT) -> None:
        self.state.phase, self.state.awaited, self.state.doubt = Phase.EXECUTION, number, int(doubt)

    def _transfer(self, phase: Phase, data: bytes) -> None:
        self.state.phase, self.state.awaited = phase, 0
        self.state.buffer, self.state.position = bytearray(data), 0

    def _offer(self, data: bytes) -> None:
        self._transfer(Phase.DATA_IN, data)
        self._interrupt(True)

    def _addressed(self) -> int:
        """How many sectors the command is for, from `state.sector` on; 0 if it ended with an error."""
        count = self.sector_count or 256
        high = self.device & 0xF
        self.state.sector = self.lba_low | self.lba_mid << 8 | self.lba_high << 16 | high << 24
        if self.device & LBA and self.state.sector + count <= self.state.medium.sectors:
            return count
        self._end(Error.IDNF if self.device & LBA else Error.ABRT)
        return 0

    def _read_sectors(self) -> None:
        if count := self._addressed():
            self._await(self.disk.read(self.state.sector, count), Error.UNC)

    def _write_sectors(self) -> None:
        if self.state.medium.read_only:
            self._abort()
        elif count := self._addressed():
            self._transfer(Phase.DATA_OUT, bytes(count * SECTOR))

    def _flush_cache(self) -> None:
        self._await(self.disk.flush())

    def _identify_device(self) -> None:
        self._offer(identity(self.state.medium.sectors))

    def _set_features(self) -> None:
        known = self.features in CACHE or (self.features == TRANSFER_MODE and self.sector_count < PIO_END)
        self._end(0 if known else Error.ABRT)

    def _execute_diagnostic(self) -> None:
        self._sign()
        self.state.phase = Phase.IDLE
        self._interrupt(True)

    _commands: ClassVar = {
        0x20: _read_sectors,
        0x21: _read_sectors,
        0x30: _write_sectors,
        0x31: _write_sectors,
        DIAGNOSTIC: _execute_diagnostic,
        0xE7: _flush_cache,
        0xEC: _identify_device,
        0xEF: _set_features,
    }

    # --- data

    @data.value
    def _word(self) -> int:
        position = self.state.position
        return int.from_bytes(self.state.buffer[position : position + 2], "little")

    @data.on_read
    def _word_was_read(self) -> None:
        self._words_read(1)

    @data.on_read_batch
    def _words_read(self, count: int) -> bytes:
        if self.state.phase is not Phase.DATA_IN:
            return b""
        begin = self.state.position
        data = bytes(self.state.buffer[begin : begin + self._within_sector(2 * count)])
        if self._passed(len(data)):
            self.state.phase = Phase.IDLE
        return data

    @data.on_write
    def _word_written(self, value: int) -> None:
        self._words_written(value.to_bytes(2, "little"))

    @data.on_write_batch
    def _words_written(self, data: bytes) -> int:
        if self.state.phase is not Phase.DATA_OUT:
            return 0
        begin, size = self.state.position, self._within_sector(len(data))
        self.state.buffer[begin : begin + size] = data[:size]
        if self._passed(size):
            self._await(self.disk.write(self.state.sector, bytes(self.state.buffer)))
        return size // 2

    def _within_sector(self, size: int) -> int:
        """How many of the next bytes are in the same sector: behind it comes an interrupt."""
        return min(size, SECTOR - self.state.position % SECTOR)

    def _passed(self, size: int) -> bool:
        """Bytes have passed; after each sector but the last comes an interrupt.  Whether all have."""
        self.state.position += size
        ended = self.state.position == len(self.state.buffer)
        if not ended and not self.state.position % SECTOR:
            self._interrupt(True)
        return ended

    @disk.on_reply
    def _replied(self, number: int, data: bytes) -> None:
        if number == self.state.identification:
            found = Medium.of(data)
            self.state.medium = Medium(min(found.sectors, MAX_SECTORS), found.read_only)
            held = self.device_control & DeviceControl.SRST  # 9.2: BSY for as long
            if not self.state.awaited and self.state.phase is Phase.EXECUTION and not held:
                self.state.phase = Phase.IDLE
        elif number == self.state.awaited:
            self._offer(data) if data else self._end()

    @disk.on_failure
    def _failed(self, number: int, reason: str) -> None:
        if number in {self.state.identification, self.state.awaited}:
            self.context.notify("disk_failed", reason=reason)
        if number == self.state.identification:
            self.state.phase = Phase.ABSENT
        elif number == self.state.awaited:
            self._end(self.state.doubt)
