"""What all TPM 2.0 interfaces of a PC share: who may use it, the command under way, its end.

Specification: TCG PC Client Platform TPM Profile (PTP) for TPM 2.0, version 1.05 revision
14: "Locality", "FIFO Interface" and "CRB Interface" with their state diagrams.

The TPM itself is behind service `tpm`.  Request `execute` is a byte of locality and the
command, its reply the response; request `initialize` is what a reset does (_TPM_INIT).
A TPM that its backend lost stays in failure mode until the next reset: what it had
measured is gone, and a guest must not be able to measure it anew.  So does one that was
restored without what its backend kept.
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final

from attrs import define, field

from mmiod.device.declarations import Effect, Requests
from mmiod.device.device import Device

BASE: Final = 0xFED4_0000
"""GPA of locality 0, fixed for PCs (PTP, "Register Space")."""
LOCALITIES: Final = 5
PAGE: Final = 0x1000
"""Bytes of a locality's registers."""
BUFFER_LENGTH: Final = 0xF80
"""Bytes of the buffer that the rest of a locality has room for."""
HEADER_LENGTH: Final = 10
"""Tag, length and code of a command or response (TPM 2.0 Library, Part 1, "Command/Response Structure")."""
VENDOR_ID: Final = 0x1014
"""The vendor of the TPM that swtpm runs, in the TCG's registry."""
DEVICE_ID: Final = 0x0001

RC_FAILURE: Final = 0x101
RC_COMMAND_SIZE: Final = 0x142
_NO_SESSIONS: Final = 0x8001


class Phase(enum.Enum):
    """States of the interface, as PTP's state diagrams name them."""

    IDLE = "idle"
    READY = "ready"
    RECEPTION = "command reception"
    EXECUTION = "command execution"
    COMPLETION = "command completion"


@define
class Arbiter:
    """Which locality has the TPM (PTP, "Locality"); sets of localities are bit masks."""

    active: int | None = None
    pending: int = 0
    seized: int = 0
    """Localities that lost the TPM to a higher one."""

    def request(self, locality: int) -> None:
        """Take the TPM if it is free, or wait for it."""
        if self.active is None:
            self._activate(locality)
        elif self.active != locality:
            self.pending |= 1 << locality

    def relinquish(self, locality: int) -> bool:
        """Give it up, or no longer wait: the highest that waits has it next.  Whether it was active."""
        self.pending &= ~(1 << locality)
        if self.active != locality:
            return False
        self.active = None
        if self.pending:
            self._activate(self.pending.bit_length() - 1)
        return True

    def seize(self, locality: int) -> bool:
        """Take it from a lower locality; whether that was so."""
        if self.active is not None and self.active >= locality:
            return False
        seizes = self.active is not None
        if self.active is not None:
            self.seized |= 1 << self.active
        self._activate(locality)
        return seizes

    def _activate(self, locality: int) -> None:
        self.active = locality
        self.pending &= ~(1 << locality)


@define
class TpmState:
    """Between a command's first byte and the end of its response."""

    arbiter: Arbiter = field(factory=Arbiter)
    phase: Phase = Phase.IDLE
    initialization: int = 0
    """Number of the request that the last reset made."""
    awaited: int = 0
    """Number of the request whose reply is the response; 0 if none."""
    failed: bool = False
    """Failure mode: no command reaches the TPM before a reset."""


class Tpm(Device):
    """The part of an interface that is no register; a subclass says `completed`."""

    longest: ClassVar[int] = BUFFER_LENGTH
    """Bytes of the longest command or response."""
    tpm = Requests({"initialize": Effect.IDEMPOTENT, "execute": Effect.AT_MOST_ONCE})
    state: TpmState

    def on_reset(self) -> None:
        """_TPM_INIT: what was under way ends unheard."""
        if self.tpm.number:
            self.tpm.cancel(self.tpm.number)
        self.state.initialization = self.tpm.send("initialize")

    def on_restore(self) -> None:
        """Without the TPM's own state what it had measured is not there."""
        if not self.tpm.restored:
            self._fail("the TPM's own state was not saved with the VM's")

    def completed(self, response: bytes) -> None:
        """Override to show the guest a response, of `HEADER_LENGTH` to `longest` bytes."""
        raise NotImplementedError

    def execute(self, command: bytes) -> None:
        """Send what was received to the TPM; bytes behind the command's own length do not count."""
        length = length_of(command)
        self.state.phase = Phase.EXECUTION
        if self.state.failed:
            self._complete(error(RC_FAILURE))
        elif not HEADER_LENGTH <= length <= len(command):
            self._complete(error(RC_COMMAND_SIZE))
        else:
            locality = self.state.arbiter.active or 0
            self.state.awaited = self.tpm.send("execute", bytes((locality,)) + command[:length])

    def cancel(self) -> None:
        """End the command under way early; it still has a response."""
        if self.state.awaited:
            self.tpm.cancel(self.state.awaited)

    def abandon(self) -> None:
        """End the command under way; nobody waits for its response any more."""
        self.cancel()
        self.state.awaited = 0
        self.state.phase = Phase.IDLE

    @tpm.on_reply
    def _replied(self, number: int, response: bytes) -> None:
        if number != self.state.awaited:
            return
        if HEADER_LENGTH <= len(response) <= self.longest:
            self._complete(response)
        else:
            self._fail(f"a response of {len(response)} bytes")

    @tpm.on_failure
    def _failed(self, number: int, reason: str) -> None:
        if number in {self.state.awaited, self.state.initialization}:
            self._fail(reason)

    def _fail(self, reason: str) -> None:
        if not self.state.failed:
            self.state.failed = True
            self.context.notify("tpm_failed", reason=reason)
        if self.state.awaited:
            self._complete(error(RC_FAILURE))

    def _complete(self, response: bytes) -> None:
        self.state.awaited = 0
        self.state.phase = Phase.COMPLETION
        self.completed(response)


def length_of(command: bytes | bytearray) -> int:
    """What a command or response says of its own length; 0 while it has no header yet."""
    return int.from_bytes(command[2:6], "big") if len(command) >= HEADER_LENGTH else 0


def error(code: int) -> bytes:
    """A response that is a header with a response code."""
    return _NO_SESSIONS.to_bytes(2, "big") + HEADER_LENGTH.to_bytes(4, "big") + code.to_bytes(4, "big")
