"""From a stream of bytes and descriptors to whole messages.

Linux glues bytes that came without descriptors in front of a message that has some, never
behind it: what a `recvmsg` gives ends in the message to which its descriptors belong.  So
they go to the last message that begins in a chunk.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Iterable

from attrs import define, field

from mmiod.errors import ProtocolError
from mmiod.protocol.vfio_user.table import HEADER


@define(eq=False)
class Message:
    """A message, as far as it has come; `header` is there once its 16 bytes are."""

    data: bytearray = field(factory=bytearray)
    header: dict[str, int] = field(factory=dict)
    descriptors: list[int] = field(factory=list)

    @property
    def missing(self) -> int:
        """Bytes that have not come yet."""
        return self.header.get("size", HEADER.size) - len(self.data)

    @property
    def payload(self) -> bytearray:
        """What follows the header."""
        return self.data[HEADER.size :]


@define(eq=False)
class Frames:
    """The receiving end of a connection; a message has at most `limit` bytes."""

    limit: int
    ready: deque[Message] = field(factory=deque)
    _last: Message | None = None
    """The one that is not whole."""

    def feed(self, chunk: bytes, descriptors: list[int]) -> None:
        """Take what one `recvmsg` gave; the descriptors are ours unless an error says otherwise.

        Raises:
            ProtocolError: a message has an impossible size, or descriptors came inside of one.
        """
        begun: Message | None = None
        place = 0
        while place < len(chunk):
            if self._last is None:
                self._last = begun = Message()
            place += self._extend(self._last, chunk[place : place + self._last.missing])
        if descriptors and begun is None:
            raise ProtocolError(errno.EINVAL, "descriptors", len(descriptors), "inside of a message")
        if begun is not None:
            begun.descriptors = descriptors

    def _extend(self, message: Message, data: bytes) -> int:
        message.data += data
        if not message.missing and not message.header:
            message.header = HEADER.read(message.data)
            if not HEADER.size <= message.header["size"] <= self.limit:
                reason = f"a message has {HEADER.size} to {self.limit} bytes"
                raise ProtocolError(errno.EINVAL, "header.size", message.header["size"], reason)
        if not message.missing:
            self.ready.append(message)
            self._last = None
        return len(data)

    @property
    def empty(self) -> bool:
        """Whether nothing has come that nobody has taken, not even in part."""
        return self._last is None and not self.ready

    @property
    def received(self) -> list[Message]:
        """What nobody has taken; the last one may have come in part."""
        return [*self.ready, *([self._last] if self._last else [])]

    def resume(self, received: Iterable[Message]) -> None:
        """Go on with what another one of these had received."""
        for message in received:
            self.feed(bytes(message.data), message.descriptors)

    def clear(self) -> list[int]:
        """Forget everything; the descriptors that nobody has taken."""
        messages = self.received
        self.ready.clear()
        self._last = None
        return [descriptor for message in messages for descriptor in message.descriptors]
