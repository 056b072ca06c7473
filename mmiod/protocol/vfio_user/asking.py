"""What this server asks of its client: guest memory that the client does not share.

DMA_READ and DMA_WRITE go the other way than all other commands, on the same connection, and
their ids are this side's.  QEMU before 11 answers a write by a header alone, and one more
recent by header, address and count: both are taken.

Specification: QEMU docs/interop/vfio-user.rst, "VFIO_USER_DMA_READ", "VFIO_USER_DMA_WRITE".
"""

from __future__ import annotations

import errno
from typing import Final

from attrs import define, field, frozen

from mmiod.errors import ProtocolError
from mmiod.protocol.vfio_user import table
from mmiod.protocol.vfio_user.frames import Message
from mmiod.protocol.vfio_user.table import HEADER, LAYOUTS

MAX_ASKED: Final = 16
"""Messages that are not answered, at most."""
IDS: Final = 1 << 16


@frozen
class Answer:
    """The client's answer to one message; `data` is None if it failed."""

    id: int
    data: bytes | None


@define(eq=False)
class Asked:
    """The messages that the client has not answered."""

    waiting: dict[int, tuple[int, int]] = field(factory=dict)
    """Command and count, by id."""
    _last: int = 0

    @property
    def full(self) -> bool:
        """Whether no more may be asked now."""
        return len(self.waiting) >= MAX_ASKED

    def read(self, address: int, count: int) -> tuple[int, bytes]:
        """A new message's id, and the message."""
        return self._ask(table.DMA_READ, address, count, b"")

    def write(self, address: int, data: bytes | bytearray) -> tuple[int, bytes]:
        """A new message's id, and the message."""
        return self._ask(table.DMA_WRITE, address, len(data), data)

    def _ask(self, command: int, address: int, count: int, data: bytes | bytearray) -> tuple[int, bytes]:
        assert not self.full
        while True:
            self._last = (self._last + 1) % IDS
            if self._last not in self.waiting:
                break
        self.waiting[self._last] = command, count
        payload = LAYOUTS["dma_access"].pack(address=address, count=count) + data
        size = HEADER.size + len(payload)
        return self._last, HEADER.pack(id=self._last, command=command, size=size) + payload

    def answered(self, message: Message) -> Answer:
        """Understand a reply.

        Raises:
            ProtocolError: nothing was asked by this id; close.
        """
        header, fixed = message.header, LAYOUTS["dma_access"].size
        command, count = self.waiting.get(header["id"], (0, 0))
        if command != header["command"]:
            reason = f"a reply to command {header['command']}, which was not asked"
            raise ProtocolError(errno.EINVAL, "header.id", header["id"], reason)
        del self.waiting[header["id"]]
        payload = bytes(message.payload)
        expected = {fixed + count} if command == table.DMA_READ else {0, fixed}
        if header["flags"] & table.ERROR or len(payload) not in expected:
            return Answer(header["id"], None)
        return Answer(header["id"], payload[fixed:])
