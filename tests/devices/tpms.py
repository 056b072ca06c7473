"""A TPM for tests of its interfaces: it answers what the device has asked, when told to."""

from __future__ import annotations

import struct
from typing import Any

from attrs import define

from mmiod.testing.harness import Harness

SERVICE = "tpm"
STARTUP = bytes.fromhex("80010000000c000001440000")
"""TPM2_Startup(TPM_SU_CLEAR)."""
FAILURE = bytes.fromhex("80010000000a00000101")
"""A response with TPM_RC_FAILURE."""
COMMAND_SIZE = bytes.fromhex("80010000000a00000142")
"""A response with TPM_RC_COMMAND_SIZE."""


def command(payload: bytes = b"") -> bytes:
    """A command with a right header."""
    return struct.pack(">HII", 0x8001, 10 + len(payload), 0x17B) + payload


def response(payload: bytes = b"") -> bytes:
    """A response with a right header."""
    return struct.pack(">HII", 0x8001, 10 + len(payload), 0) + payload


@define
class FakeTpm:
    """The far end of service `tpm`."""

    harness: Harness[Any]

    @property
    def asked(self) -> list[tuple[str, bytes]]:
        """Kind and data of all requests so far."""
        return [(kind, data) for _, _, kind, data in self.harness.context.asked]

    @property
    def number(self) -> int:
        """Of the last request."""
        return self.harness.context.asked[-1][1]

    def answer(self, data: bytes) -> None:
        """Reply to the last request."""
        self.harness.reply(SERVICE, self.number, data)

    def die(self) -> None:
        """Fail the last request."""
        self.harness.fail(SERVICE, self.number, "swtpm exited")
