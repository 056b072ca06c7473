"""A TPM 2.0 with the FIFO interface, known as TIS.

Specification: TCG PC Client Platform TPM Profile (PTP) for TPM 2.0, version 1.05 revision
14, "FIFO Interface": registers TPM_ACCESS to TPM_RID, its state diagram; in ACPI it is
start method 6 (TCG ACPI Specification, "TPM2 Table").
"""

from __future__ import annotations

import enum
from typing import Final

from attrs import define, field

from mmiod.device import Buffer, Field, Region, Register, plain
from mmiod.device.tpm import (
    DEVICE_ID,
    HEADER_LENGTH,
    LOCALITIES,
    PAGE,
    VENDOR_ID,
    Phase,
    Tpm,
    TpmState,
    length_of,
)
from mmiod.values import ones

API = 1

ACCESS = enum.IntFlag(
    "ACCESS",
    "tpmEstablishment requestUse pendingRequest Seize beenSeized activeLocality reserved tpmRegValidSts",
)
plain(ACCESS)
FIFO_LENGTH: Final = 4096
"""Bytes of the longest command or response."""
STS: Final = {
    "responseRetry": Field(1),
    "selfTestDone": Field(2),
    "Expect": Field(3),
    "dataAvail": Field(4),
    "tpmGo": Field(5),
    "commandReady": Field(6),
    "stsValid": Field(7),
    "burstCount": Field(8, 16),
    "commandCancel": Field(24),
    "resetEstablishmentBit": Field(25),
    "tpmFamily": Field(26, 2),
}
HARDWARE: Final = 4
"""The locality of the processor's own measurements."""
RESPONSE_RETRY, TPM_GO, COMMAND_READY, COMMAND_CANCEL = 1 << 1, 1 << 5, 1 << 6, 1 << 24
EXPECT, DATA_AVAIL, STS_VALID, FAMILY_2_0 = 1 << 3, 1 << 4, 1 << 7, 1 << 26
INTF_CAPABILITY: Final = {"DataTransferSizeSupport": Field(9, 2), "InterfaceVersion": Field(28, 3)}
INTERFACE_ID: Final = {
    "InterfaceType": Field(0, 4, "r"),
    "CapLocality": Field(8, 1, "r"),
    "CapFIFO": Field(13, 1, "r"),
    "InterfaceSelector": Field(17, 2, "r"),
    "IntfSelLock": Field(19, 1, "w1s"),
}


@define
class TisState(TpmState):
    """The interface, and the FIFO as far as it is filled."""

    fifo: bytearray = field(factory=bytearray)
    position: int = 0
    """Of a response: bytes that were read."""


class TpmTis(Tpm):
    """TPM 2.0 with FIFO interface, five localities.

    State changes are immediate, and commandReady leads to Ready at once from everywhere.
    A locality that is not active reads ones from TPM_STS and the FIFO.  Where the
    specification leaves it open the device does what QEMU's does: burstCount in states in
    which nothing is to be transferred, more than one request in a write, holes.

    Not modelled: interrupts (TPM_INTF_CAPABILITY has none, TPM_INT_* read 0), locality 4, which is hardware's
    alone (its registers take no writes), and with it resetEstablishmentBit
    (tpmEstablishment reads 1: no dynamic launch), selfTestDone, CRB as the other interface
    behind InterfaceSelector.

    Threat: `fifo` holds `FIFO_LENGTH` bytes; one command is under way, and each reset is
    one request to the backend, which bounds them.  The command's bytes are the TPM's to judge.
    """

    localities = Region(LOCALITIES * PAGE, stride=PAGE, valid=(1, 4), implemented=(1, 4), hole=0xFF)
    longest = FIFO_LENGTH
    state: TisState

    access = Register(
        0x00, size=4, access="singlepulse", mask=0x3A, fields=ACCESS, published=True, posted=True
    )
    int_enable = Register(0x08, size=4, access="r", published=True)
    int_vector = Register(0x0C, size=4, access="r", published=True)
    int_status = Register(0x10, size=4, access="r", published=True)
    intf_capability = Register(
        0x14, size=4, access="r", reset=3 << 28 | 3 << 9, fields=INTF_CAPABILITY, published=True
    )
    sts = Register(
        0x18,
        size=4,
        access="singlepulse",
        mask=RESPONSE_RETRY | TPM_GO | COMMAND_READY | COMMAND_CANCEL,
        fields=STS,
        published=True,
        posted=True,
    )
    data_fifo = Buffer(0x24, 4)
    interface_id = Register(
        0x30, size=4, access="r", reset=1 << 13 | 1 << 8, fields=INTERFACE_ID, published=True
    )
    xdata_fifo = Buffer(0x80, 0x40)
    vid = Register(0xF00, size=2, access="r", reset=VENDOR_ID, published=True)
    did = Register(0xF02, size=2, access="r", reset=DEVICE_ID, published=True)
    rid = Register(0xF04, size=4, access="r", reset=1, published=True)

    # --- localities

    @property
    def _active(self) -> bool:
        return self.state.arbiter.active == self.copy

    @access.value
    def _access_status(self) -> int:
        arbiter, own = self.state.arbiter, 1 << self.copy
        return (
            ACCESS.tpmRegValidSts
            | ACCESS.tpmEstablishment
            | (ACCESS.activeLocality if self._active else 0)
            | (ACCESS.beenSeized if arbiter.seized & own else 0)
            | (ACCESS.pendingRequest if arbiter.pending & ~own else 0)
            | (ACCESS.requestUse if arbiter.pending & own else 0)
        )

    @access.on_write
    def _access_controlled(self, value: int) -> None:
        arbiter, locality = self.state.arbiter, self.copy
        if locality == HARDWARE:
            return
        if value & ACCESS.beenSeized:
            arbiter.seized &= ~(1 << locality)
        if value & ACCESS.Seize:
            if arbiter.seize(locality):
                self.abandon()
            return
        relinquishes = bool(value & ACCESS.activeLocality) and arbiter.relinquish(locality)
        if relinquishes:
            self.abandon()
        if value & ACCESS.requestUse and not (relinquishes and arbiter.active is None):
            arbiter.request(locality)

    # --- the command

    @property
    def _expects(self) -> bool:
        """Whether the command is not whole yet."""
        received = len(self.state.fifo)
        return received < max(HEADER_LENGTH, min(length_of(self.state.fifo), FIFO_LENGTH))

    @property
    def _burst(self) -> int:
        """What may be read or written at once: of a response the rest, else what there is room for."""
        if self.state.phase is Phase.COMPLETION:
            return self._rest or FIFO_LENGTH - self.state.position
        return FIFO_LENGTH - len(self.state.fifo)

    @property
    def _rest(self) -> int:
        return len(self.state.fifo) - self.state.position

    @sts.value
    def _status(self) -> int:
        if not self._active:
            return ones(4)
        phase = self.state.phase
        return (
            FAMILY_2_0
            | self._burst << 8
            | (0 if phase in {Phase.IDLE, Phase.READY} else STS_VALID)
            | (COMMAND_READY if phase is Phase.READY else 0)
            | (EXPECT if phase is Phase.RECEPTION and self._expects else 0)
            | (DATA_AVAIL if phase is Phase.COMPLETION and self._rest else 0)
        )

    @sts.on_write
    def _controlled(self, value: int) -> None:
        if not self._active:
            return
        if value & COMMAND_CANCEL:
            self.cancel()
        request = value & (RESPONSE_RETRY | COMMAND_READY | TPM_GO)
        if request == RESPONSE_RETRY and self.state.phase is Phase.COMPLETION:
            self.state.position = 0
        elif request == COMMAND_READY:
            self.abandon()
            self.state.phase = Phase.READY
        elif request == TPM_GO and self.state.phase is Phase.RECEPTION and not self._expects:
            self.execute(bytes(self.state.fifo))

    def abandon(self) -> None:
        """The FIFO is empty then."""
        super().abandon()
        self._fill(b"")

    def completed(self, response: bytes) -> None:
        """The response is what the FIFO gives now."""
        self._fill(response)

    def _fill(self, data: bytes) -> None:
        self.state.fifo[:] = data
        self.state.position = 0

    # --- the FIFO

    @data_fifo.on_read
    @xdata_fifo.on_read
    def _fifo_read(self, _offset: int, size: int) -> int:
        if not self._active or self.state.phase is not Phase.COMPLETION:
            return ones(size)
        start = self.state.position
        data = self.state.fifo[start : start + size]
        self.state.position += len(data)
        return int.from_bytes(data.ljust(size, b"\xff"), "little")

    @data_fifo.on_write
    @xdata_fifo.on_write
    def _fifo_written(self, _offset: int, size: int, value: int) -> None:
        if not self._active or self.state.phase not in {Phase.READY, Phase.RECEPTION}:
            return
        self.state.phase = Phase.RECEPTION
        for byte in value.to_bytes(size, "little"):
            if self._expects:
                self.state.fifo.append(byte)
