"""Reading an instruction's bytes in order, within what there is and what is legal."""

from __future__ import annotations

from typing import Final

from attrs import define, frozen

from mmiod.x86.faults import GP

MAX_LENGTH: Final = 15
"""Bytes of the longest instruction (SDM vol. 2, 2.3.11)."""


@frozen
class NeedMore:
    """The bytes end inside the instruction: at least `count` more are needed."""

    count: int


@frozen
class Undefined:
    """The architecture raises this exception for these bytes."""

    vector: int
    error_code: int | None = None


@frozen
class NotSupported:
    """Perhaps an instruction, but not one that mmiod executes on memory or ports."""


class Undecodable(Exception):
    """Decoding ends here; `outcome` says why."""

    def __init__(self, outcome: NeedMore | Undefined | NotSupported) -> None:
        super().__init__(outcome)
        self.outcome = outcome


@define
class Cursor:
    """A position in an instruction's bytes."""

    code: bytes
    position: int = 0

    def peek(self) -> int:
        """The next byte, which stays the next."""
        self._reach(self.position + 1)
        return self.code[self.position]

    def take(self, size: int) -> bytes:
        """The next `size` bytes."""
        start = self.position
        self._reach(start + size)
        self.position = start + size
        return self.code[start : self.position]

    def _reach(self, end: int) -> None:
        if end > MAX_LENGTH:
            raise Undecodable(Undefined(GP, 0))
        if end > len(self.code):
            raise Undecodable(NeedMore(end - len(self.code)))

    def byte(self) -> int:
        """The next byte."""
        return self.take(1)[0]

    def unsigned(self, size: int) -> int:
        """The next `size` bytes as a number."""
        return int.from_bytes(self.take(size), "little")

    def signed(self, size: int) -> int:
        """The next `size` bytes as a two's complement number."""
        return int.from_bytes(self.take(size), "little", signed=True)
