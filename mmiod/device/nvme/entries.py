"""Queue entries: what a host submits, and what it is told.

Numbers in comments are sections of NVM Express 1.4.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

from attrs import frozen

SUBMISSION_SIZE: Final = 64
"""Bytes of a submission queue entry: CC.IOSQES is 6 (4.2)."""
COMPLETION_SIZE: Final = 16
"""Bytes of a completion queue entry: CC.IOCQES is 4 (4.6)."""
_SUBMISSION: Final = struct.Struct("<BBHI16xQQ6I")
_COMPLETION: Final = struct.Struct("<I4xHHHH")
_FORM: Final = 0xC3
"""FUSE and PSDT of the flags: neither fused operations nor SGLs are supported, so both are 0 (4.2)."""
_PHASE: Final = 1
DO_NOT_RETRY: Final = 1 << 14
ALL_NAMESPACES: Final = 0xFFFF_FFFF


class AdminOpcode(enum.IntEnum):
    """Admin commands (5)."""

    DELETE_IO_SUBMISSION_QUEUE = 0x00
    CREATE_IO_SUBMISSION_QUEUE = 0x01
    GET_LOG_PAGE = 0x02
    DELETE_IO_COMPLETION_QUEUE = 0x04
    CREATE_IO_COMPLETION_QUEUE = 0x05
    IDENTIFY = 0x06
    ABORT = 0x08
    SET_FEATURES = 0x09
    GET_FEATURES = 0x0A
    ASYNCHRONOUS_EVENT_REQUEST = 0x0C


class Opcode(enum.IntEnum):
    """Commands of the NVM command set (6)."""

    FLUSH = 0x00
    WRITE = 0x01
    READ = 0x02
    WRITE_ZEROES = 0x08
    DATASET_MANAGEMENT = 0x09


class Status(enum.IntEnum):
    """Status code type (bits 10:8) and status code (bits 7:0) of 4.6.1."""

    SUCCESS = 0x000
    INVALID_OPCODE = 0x001
    INVALID_FIELD = 0x002
    INTERNAL_ERROR = 0x006
    ABORTED_BY_QUEUE_DELETION = 0x008
    INVALID_NAMESPACE = 0x00B
    COMMAND_SEQUENCE_ERROR = 0x00C
    INVALID_PRP_OFFSET = 0x013
    LBA_OUT_OF_RANGE = 0x080
    COMPLETION_QUEUE_INVALID = 0x100
    INVALID_QUEUE_IDENTIFIER = 0x101
    INVALID_QUEUE_SIZE = 0x102
    EVENT_REQUEST_LIMIT_EXCEEDED = 0x105
    INVALID_INTERRUPT_VECTOR = 0x108
    INVALID_LOG_PAGE = 0x109
    INVALID_QUEUE_DELETION = 0x10C
    FEATURE_NOT_SAVEABLE = 0x10D
    FEATURE_NOT_CHANGEABLE = 0x10E
    WRITE_TO_READ_ONLY_RANGE = 0x182
    WRITE_FAULT = 0x280
    UNRECOVERED_READ_ERROR = 0x281


_MAY_BE_RETRIED: Final = frozenset(
    {
        Status.SUCCESS,
        Status.INTERNAL_ERROR,
        Status.ABORTED_BY_QUEUE_DELETION,
        Status.INVALID_QUEUE_DELETION,
        Status.UNRECOVERED_READ_ERROR,
    }
)


class Refused(Exception):
    """A command ends with this status and does nothing."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


@frozen
class Submission:
    """A submission queue entry (4.2); `dwords` are 10 to 15."""

    opcode: int
    flags: int
    identifier: int
    namespace: int
    prp1: int
    prp2: int
    dwords: tuple[int, ...]

    @classmethod
    def of(cls, entry: bytes) -> Submission:
        """From its 64 bytes."""
        opcode, flags, identifier, namespace, prp1, prp2, *dwords = _SUBMISSION.unpack(entry)
        return cls(opcode, flags, identifier, namespace, prp1, prp2, tuple(dwords))

    def bytes(self) -> bytes:
        """As its 64 bytes."""
        head = (self.opcode, self.flags, self.identifier, self.namespace, self.prp1, self.prp2)
        return _SUBMISSION.pack(*head, *self.dwords)

    @property
    def low(self) -> int:
        """Bits 15:0 of dword 10: a queue, a feature, a structure."""
        return self.dwords[0] & 0xFFFF

    @property
    def high(self) -> int:
        """Bits 31:16 of dword 10."""
        return self.dwords[0] >> 16

    @property
    def lba(self) -> int:
        """First block of an I/O command: dwords 10 and 11."""
        return self.dwords[0] | self.dwords[1] << 32

    @property
    def blocks(self) -> int:
        """Blocks of an I/O command: dword 12 has one less."""
        return (self.dwords[2] & 0xFFFF) + 1

    def check(self) -> None:
        """See that it asks for nothing that its form cannot have here.

        Raises:
            Refused: it does.
        """
        if self.flags & _FORM:
            raise Refused(Status.INVALID_FIELD)


def completion(result: int, submissions: tuple[int, int], identifier: int, status: int, phase: int) -> bytes:
    """A completion queue entry (4.6): 16 bytes.

    Args:
        result: dword 0, the command's own.
        submissions: head and number of the submission queue.
        identifier: the command's.
        status: a `Status`.
        phase: the phase tag, which tells the host that the entry is new.
    """
    if status not in _MAY_BE_RETRIED:
        status |= DO_NOT_RETRY
    return _COMPLETION.pack(result, *submissions, identifier, status << 1 | phase & _PHASE)
