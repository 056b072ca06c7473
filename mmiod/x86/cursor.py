"""Reading an instruction's bytes in order, within what there is and what is legal."""

from __future__ import annotations

from typing import Final, NoReturn

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


@define(eq=False)
class Cursor:
    """A position in an instruction's bytes."""

    code: bytes
    position: int = 0

    def byte(self) -> int:
        """The next byte."""
        position = self.position
        if position >= len(self.code) or position >= MAX_LENGTH:
            self._end(position + 1)
        self.position = position + 1
        return self.code[position]

    def unsigned(self, size: int) -> int:
        """The next `size` bytes as a number."""
        return int.from_bytes(self._take(size), "little")

    def signed(self, size: int) -> int:
        """The next `size` bytes as a two's complement number."""
        return int.from_bytes(self._take(size), "little", signed=True)

    def _take(self, size: int) -> bytes:
        start = self.position
        end = self.position = start + size
        if end > len(self.code) or end > MAX_LENGTH:
            self._end(end)
        return self.code[start:end]

    def _end(self, end: int) -> NoReturn:
        if end > MAX_LENGTH:
            raise Undecodable(Undefined(GP, 0))
        raise Undecodable(NeedMore(end - len(self.code)))
