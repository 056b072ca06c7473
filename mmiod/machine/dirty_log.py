"""Which pages of guest memory this side has written: a bit for each, as whoever migrates a guest asks."""

from __future__ import annotations

from typing import Final

from attrs import define, field

PAGE: Final = 1 << 12
CHUNK: Final = 1 << 15
"""Pages whose bits are kept together: 128 MiB of guest memory."""
MAX_CHUNKS: Final = 1 << 13
"""1 TiB; a guest that has more written than that has everything reported."""
_BYTES: Final = CHUNK // 8
_PAIRS: Final = bytes(sum(1 << bit for bit in range(4) if byte >> 2 * bit & 3) for byte in range(256))
"""Of 8 pages, 4 that are twice as large."""


@define(eq=False)
class DirtyLog:
    """Pages that were written since they were last reported; memory is taken where there are any."""

    _chunks: dict[int, bytearray] = field(factory=dict)
    _overflowed: bool = False

    def mark(self, gpa: int, length: int) -> None:
        """Bytes were written."""
        for page in range(gpa // PAGE, (gpa + length - 1) // PAGE + 1):
            chunk = self._chunks.get(page // CHUNK)
            if chunk is None:
                chunk = self._begin(page // CHUNK)
            chunk[page % CHUNK >> 3] |= 1 << (page & 7)

    def _begin(self, number: int) -> bytearray:
        chunk = bytearray(_BYTES)
        if len(self._chunks) < MAX_CHUNKS:
            self._chunks[number] = chunk
        else:
            self._overflowed = True
        return chunk

    def take(self, gpa: int, length: int, page_size: int) -> bytes:
        """The written ones of the pages from `gpa` on, which are not written any more from now on.

        Args:
            gpa: a multiple of `page_size`.
            length: bytes of guest memory, at least 1.
            page_size: a power of two from `PAGE` on.

        Returns:
            A bit for each page, lowest first, in whole words of 64 bits.
        """
        factor = page_size // PAGE
        words = -(-length // (64 * page_size))
        if self._overflowed:
            pages = -(-length // page_size)
            return ((1 << pages) - 1).to_bytes(8 * words, "little")
        found = self._cut(gpa // PAGE, -(-length // PAGE))
        bits = found.to_bytes(8 * words * factor, "little")
        while factor > 1:
            bits, factor = _halved(bits), factor // 2
        return bits

    def _cut(self, first: int, count: int) -> int:
        """Take `count` pages' bits out."""
        last = first + count - 1
        numbers = range(first // CHUNK, last // CHUNK + 1)
        if self._chunks.keys().isdisjoint(numbers):
            return 0
        whole = int.from_bytes(b"".join(self._chunks.get(number, _CLEAN) for number in numbers), "little")
        shift = first % CHUNK
        wanted = (1 << count) - 1 << shift
        left = (whole & ~wanted).to_bytes(len(numbers) * _BYTES, "little")
        for place, number in enumerate(numbers):
            self._put_back(number, left[place * _BYTES : (place + 1) * _BYTES])
        return (whole & wanted) >> shift

    def _put_back(self, number: int, bits: bytes) -> None:
        if number in self._chunks:
            if bits == _CLEAN:
                del self._chunks[number]
            else:
                self._chunks[number][:] = bits


_CLEAN: Final = bytes(_BYTES)


def _halved(bits: bytes) -> bytes:
    """The bits of pages that are twice as large."""
    fours = bits.translate(_PAIRS)
    low, high = int.from_bytes(fours[::2], "little"), int.from_bytes(fours[1::2], "little")
    return (low | high << 4).to_bytes(len(bits) // 2, "little")
