"""What is kept of a vCPU: its last exit with the answer, and the number of its last posted write."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Told = tuple[Callable[..., tuple[bytes, bytes]], *tuple[Any, ...]]
"""What makes the bytes of an exit and of its reply, and from what: nearly no exit comes again."""


class Book:
    """One vCPU's.  A plain class: `mmiod.compiled` makes a C structure of it."""

    def __init__(self) -> None:
        self.sequence = 0
        self.in_flight = False
        self.posted = 0
        self._body = b""
        self._reply = b""
        self._told: Told | None = None

    @property
    def body(self) -> bytes:
        """Of the last exit."""
        self._make()
        return self._body

    @property
    def reply(self) -> bytes:
        """To it; nothing while it is in flight, and if a reset dropped it."""
        self._make()
        return self._reply

    def enter(self, sequence: int, body: bytes, reply: bytes, *, in_flight: bool) -> None:
        """Keep an exit, and what it was answered."""
        self.sequence, self._body, self._reply, self.in_flight = sequence, body, reply, in_flight
        self._told = None

    def tell(self, sequence: int, told: Told) -> None:
        """Keep an exit that was answered, to be put into bytes when it comes again."""
        self.sequence, self._told = sequence, told

    def complete(self, reply: bytes) -> None:
        """Keep the reply of the exit in flight."""
        self._reply, self.in_flight = reply, False

    def _make(self) -> None:
        if self._told is not None:
            make, *arguments = self._told
            self._body, self._reply = make(*arguments)
            self._told = None
