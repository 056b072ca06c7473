"""A TPM 2.0 with the command response buffer interface.

Specification: TCG PC Client Platform TPM Profile (PTP) for TPM 2.0, version 1.05 revision
14, "CRB Interface": registers TPM_LOC_* and TPM_CRB_*, its state diagram; in ACPI it is
start method 7 (TCG ACPI Specification, "TPM2 Table").
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final

from attrs import define, field

from mmiod.device import Buffer, Field, Region, Register, plain
from mmiod.device.tpm import (
    BASE,
    BUFFER_LENGTH,
    LOCALITIES,
    PAGE,
    VENDOR_ID,
    Phase,
    Tpm,
    TpmState,
)
from mmiod.values import Space, ones

API = 1

DATA_BUFFER: Final = 0x80

LOC_STATE: Final = {
    "tpmEstablished": Field(0),
    "locAssigned": Field(1),
    "activeLocality": Field(2, 3),
    "tpmRegValidSts": Field(7),
}
LOC_CTRL = enum.IntFlag("LOC_CTRL", "requestAccess relinquish seize resetEstablishmentBit")
LOC_STS = enum.IntFlag("LOC_STS", "granted beenSeized")
INTF_ID: Final = {
    "InterfaceType": Field(0, 4, "r"),
    "InterfaceVersion": Field(4, 4, "r"),
    "CapLocality": Field(8, 1, "r"),
    "CapCRBIdleBypass": Field(9, 1, "r"),
    "CapDataXferSizeSupport": Field(11, 2, "r"),
    "CapFIFO": Field(13, 1, "r"),
    "CapCRB": Field(14, 1, "r"),
    "InterfaceSelector": Field(17, 2, "r"),
    "IntfSelLock": Field(19, 1, "w1s"),
}
CRB: Final = 1
CAPABILITIES: Final = 1 << 17 | 1 << 14 | 3 << 11 | 1 << 9 | 1 << 8 | CRB << 4 | CRB
"""CRB is what there is and is selected; transfers of up to 64 bytes, no need to pass Idle, 5 localities."""
CTRL_REQ = enum.IntFlag("CTRL_REQ", "cmdReady goIdle")
CTRL_STS = enum.IntFlag("CTRL_STS", "tpmSts tpmIdle")
for flags in (LOC_CTRL, LOC_STS, CTRL_REQ, CTRL_STS):
    plain(flags)


@define
class CrbState(TpmState):
    """The interface, its buffer, and what it let pass."""

    buffer: bytearray = field(factory=lambda: bytearray(BUFFER_LENGTH))
    early_commands: int = 0
    """Commands that began in Idle, without cmdReady."""


class TpmCrb(Tpm):
    """TPM 2.0 with CRB interface, five localities.

    Against the specification a command may begin in Idle: stock SeaBIOS sends its first one
    without cmdReady.  It is counted in `early_commands`, and the first one is an event.
    Other steps that the state diagram does not have (a start before a command, cmdReady
    during execution, more than one request in a write) do nothing.  State changes are
    immediate, so CTRL_REQ reads 0.

    Not modelled: interrupts (INT_ENABLE and INT_STS read 0), the H-CRTM interface of
    locality 4 and with it resetEstablishmentBit (tpmEstablished reads 1: no dynamic
    launch), FIFO as the other interface behind InterfaceSelector.

    Threat: `buffer` has a fixed size; one command is under way, and each reset is one request
    to the backend, which bounds them.  The command's bytes are the TPM's to judge.
    """

    localities = Region(LOCALITIES * PAGE, stride=PAGE, valid=(1, 64), implemented=(1, 64), mapped=True)
    state: CrbState

    loc_state = Register(0x00, size=4, access="r", fields=LOC_STATE, published=True)
    loc_ctrl = Register(
        0x08, size=4, access="singlepulse", mask=0xF, fields=LOC_CTRL, published=True, posted=True
    )
    loc_sts = Register(0x0C, size=4, access="r", fields=LOC_STS, published=True)
    intf_id = Register(0x30, size=4, access="r", reset=CAPABILITIES, fields=INTF_ID, published=True)
    vid = Register(0x34, size=2, access="r", reset=VENDOR_ID, published=True)
    did = Register(0x36, size=2, access="r", published=True)
    ctrl_req = Register(
        0x40, size=4, access="singlepulse", mask=0x3, fields=CTRL_REQ, published=True, posted=True
    )
    ctrl_sts = Register(0x44, size=4, access="r", fields=CTRL_STS, published=True)
    ctrl_cancel = Register(0x48, size=4, mask=0x1, published=True, posted=True)
    ctrl_start = Register(0x4C, size=4, access="singlepulse", mask=0x1, published=True, posted=True)
    cmd_size = Register(0x58, size=4, access="r", reset=BUFFER_LENGTH, published=True)
    cmd_laddr = Register(0x5C, size=4, access="r", published=True, constant=True)
    cmd_haddr = Register(0x60, size=4, access="r", published=True)
    rsp_size = Register(0x64, size=4, access="r", reset=BUFFER_LENGTH, published=True)
    rsp_addr = Register(0x68, size=8, access="r", published=True, constant=True)
    data_buffer = Buffer(DATA_BUFFER, BUFFER_LENGTH, published=True)

    def announced(self) -> Mapping[str, tuple[Space, int]]:
        """The addresses of the buffers are the PC's, wherever the machine file places the device."""
        return {"data_buffer": (Space.MMIO, BASE + DATA_BUFFER)}

    # --- localities

    @property
    def _owns(self) -> bool:
        """Whether the access comes by the page of the active locality: others change nothing."""
        return self.state.arbiter.active == self.copy

    @loc_state.value
    def _locality_state(self) -> int:
        active = self.state.arbiter.active
        return 0x81 if active is None else 0x83 | active << 2

    @loc_ctrl.on_write
    def _locality_controlled(self, value: int) -> None:
        arbiter, locality = self.state.arbiter, self.copy
        if value == LOC_CTRL.relinquish and arbiter.relinquish(locality):
            self.abandon()
        elif value == LOC_CTRL.requestAccess:
            arbiter.seized &= ~(1 << locality)
            arbiter.request(locality)
        elif value == LOC_CTRL.seize and locality and arbiter.seize(locality):
            self.abandon()

    @loc_sts.value
    def _locality_status(self) -> int:
        seized = self.state.arbiter.seized >> self.copy & 1
        return (LOC_STS.granted if self._owns else 0) | (LOC_STS.beenSeized if seized else 0)

    # --- the command

    @ctrl_req.on_write
    def _requested(self, value: int) -> None:
        if self._owns and self.state.phase is not Phase.EXECUTION:
            if value == CTRL_REQ.goIdle:
                self.state.phase = Phase.IDLE
            elif value == CTRL_REQ.cmdReady:
                self.state.phase = Phase.READY

    @ctrl_sts.value
    def _control_status(self) -> int:
        idle = self.state.phase is Phase.IDLE
        return (CTRL_STS.tpmSts if self.state.failed else 0) | (CTRL_STS.tpmIdle if idle else 0)

    @ctrl_cancel.on_write
    def _cancelled(self, value: int) -> None:
        if value and self._owns:
            self.cancel()

    @ctrl_start.value
    def _started(self) -> int:
        return int(self.state.phase is Phase.EXECUTION)

    @ctrl_start.on_write
    def _start(self, value: int) -> None:
        if value and self._owns and self.state.phase is Phase.RECEPTION:
            self.execute(bytes(self.state.buffer))

    def completed(self, response: bytes) -> None:
        """The response takes the command's place."""
        self.state.buffer[: len(response)] = response

    # --- the buffer, for commands and responses

    @cmd_laddr.value
    def _command_address(self) -> int:
        return BASE + self.copy * PAGE + DATA_BUFFER

    @rsp_addr.value
    def _response_address(self) -> int:
        return BASE + self.copy * PAGE + DATA_BUFFER

    @data_buffer.on_read
    def _data_read(self, offset: int, size: int) -> int:
        if not self._owns:
            return ones(size)
        return int.from_bytes(self.state.buffer[offset : offset + size], "little")

    @data_buffer.on_write
    def _data_written(self, offset: int, size: int, value: int) -> None:
        if not self._owns or self.state.phase is Phase.EXECUTION:
            return
        if self.state.phase is Phase.IDLE:
            self._begin_early()
        self.state.phase = Phase.RECEPTION
        self.state.buffer[offset : offset + size] = value.to_bytes(size, "little")

    def _begin_early(self) -> None:
        self.state.early_commands += 1
        if self.state.early_commands == 1:
            self.context.notify("tpm_command_early", reason="a command began in Idle, without cmdReady")
