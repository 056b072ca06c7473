"""Controller registers (NVM Express 1.4, 3.1), and what a host must have set to enable it."""

from __future__ import annotations

import enum
from typing import Final

from mmiod.device.fields import Field
from mmiod.device.nvme.queues import MAX_ENTRIES, CompletionQueue, SubmissionQueue
from mmiod.device.nvme.session import Session

CAPABILITIES: Final = {
    "MQES": Field(0, 16),
    "CQR": Field(16),
    "AMS": Field(17, 2),
    "TO": Field(24, 8),
    "DSTRD": Field(32, 4),
    "NSSRS": Field(36),
    "CSS": Field(37, 8),
    "BPS": Field(45),
    "MPSMIN": Field(48, 4),
    "MPSMAX": Field(52, 4),
    "PMRS": Field(56),
    "CMBS": Field(57),
}
CAPABILITIES_VALUE: Final = (MAX_ENTRIES - 1) | 1 << 16 | 30 << 24 | 1 << 37
"""Contiguous queues, 15 s to become ready, doorbells in a row, the NVM command set, pages of 4 KiB."""
CONFIGURATION: Final = {
    "EN": Field(0),
    "CSS": Field(4, 3),
    "MPS": Field(7, 4),
    "AMS": Field(11, 3),
    "SHN": Field(14, 2),
    "IOSQES": Field(16, 4),
    "IOCQES": Field(20, 4),
}
_ENTRY_SIZES: Final = {"IOSQES": {0, 6}, "IOCQES": {0, 4}}
"""64 and 16 bytes are the only ones; a host may still owe them (7.6.1)."""
_ONLY_0: Final = ("CSS", "MPS", "AMS")
QUEUE_ATTRIBUTES: Final = {"ASQS": Field(0, 12), "ACQS": Field(16, 12)}


class Csts(enum.IntFlag):
    """Controller status (3.1.6)."""

    RDY = 1 << 0
    CFS = 1 << 1
    SHST_OCCURRING = 1 << 2
    SHST_COMPLETE = 1 << 3


def opened(cc: int, aqa: int, asq: int, acq: int) -> Session | None:
    """A session with its admin queues; None if the controller cannot be enabled so (7.6.1)."""
    submissions, completions = QUEUE_ATTRIBUTES["ASQS"].of(aqa), QUEUE_ATTRIBUTES["ACQS"].of(aqa)
    chosen = all(CONFIGURATION[name].of(cc) in sizes for name, sizes in _ENTRY_SIZES.items())
    chosen = chosen and not any(CONFIGURATION[name].of(cc) for name in _ONLY_0)
    if not (chosen and submissions and completions):
        return None
    return Session(
        submissions=[SubmissionQueue(0, asq, submissions + 1, 0)],
        completions=[CompletionQueue(0, acq, completions + 1)],
    )
