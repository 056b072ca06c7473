"""Numbers, bytes and choices drawn from a fuzzer's input, and what is drawn from it written back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

from attrs import define

T = TypeVar("T")


@define
class Reader:
    """An input, read from its beginning; behind its end there are zeros."""

    data: bytes
    at: int = 0

    @property
    def more(self) -> bool:
        """Whether any of it is left."""
        return self.at < len(self.data)

    def take(self, length: int) -> bytes:
        """The next bytes."""
        found = self.data[self.at : self.at + length]
        self.at += length
        return found.ljust(length, b"\0")

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(max(0, len(self.data) - self.at))

    def number(self, size: int = 1) -> int:
        """The next `size` bytes, little-endian."""
        return int.from_bytes(self.take(size), "little")

    def pick(self, choices: Sequence[T]) -> T:
        """One of at most 256 choices."""
        return choices[self.number() % len(choices)]

    def times(self, most: int) -> Iterator[int]:
        """Counts up for as long as there is input, at most to `most`."""
        for turn in range(most):
            if not self.more:
                return
            yield turn


def written(*parts: int | bytes | tuple[int, int]) -> bytes:
    """What a `Reader` draws as these: a byte, bytes, or (number, size)."""
    return b"".join(
        part
        if isinstance(part, bytes)
        else part[0].to_bytes(part[1], "little")
        if isinstance(part, tuple)
        else bytes([part])
        for part in parts
    )
