"""An open disk image: requests for sectors, one at a time.

What the host has in memory is read at once, and what its file system takes without waiting is
written so.  All else is done in a thread of the link's own: a disk that hangs holds up its device
and nobody else.  Most writes end there soon, as the host copies them to memory and no more; the
core waits a moment for that, as coming back to it later takes longer.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import ClassVar, Final

import trio
from attrs import define, field

from mmiod.core.backends.faces import RequestRefused
from mmiod.core.backends.own_thread import OwnThread
from mmiod.device.block import AT, MAX_RANGE, MAX_TRANSFER, RANGE, SECTOR, Medium

KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
"""FALLOC_FL_*, linux/falloc.h."""
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})
_ELSEWHERE: Final = _UNSUPPORTED | {errno.EAGAIN}
"""Not in memory, or on a file system that does not say."""
AT_ONCE: Final = 256 << 10
"""Bytes of a write that the core copies itself: what takes longer holds up others."""

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@define(eq=False)
class Image:
    """An open image; `perform` runs in a thread."""

    quick: ClassVar[frozenset[str]] = frozenset({"read", "write"})

    descriptor: int
    medium: Medium
    _thread: OwnThread | None = None
    """From the first request that needs it."""
    _room: memoryview = field(factory=lambda: memoryview(bytearray(MAX_TRANSFER * SECTOR)))
    """For what is read at once."""
    _takes: bool = True
    """Whether the file system knows writes that do not wait: xfs and btrfs do, ext4 does not."""

    async def perform(self, kind: str, data: bytes) -> bytes:
        """Do a request, or go on with the one that `at_once` has begun."""
        thread = self._under_way
        if thread is None:
            await trio.lowlevel.checkpoint_if_cancelled()
            found = self.at_once(kind, data)
            if found is not None:
                await trio.lowlevel.cancel_shielded_checkpoint()
                return found
            thread = self._under_way
        assert thread is not None
        try:
            return await thread.end()
        except (OSError, struct.error) as error:
            raise _refusal(kind, data, error) from error

    def at_once(self, kind: str, data: bytes) -> bytes | None:
        """What needs no waiting is done; all else begins, of which a write may end in time, too."""
        try:
            found = self.at_hand(data) if kind == "read" else self.taken(data) if kind == "write" else None
            if found is None:
                self._thread = self._thread or OwnThread()
                self._thread.begin(partial(_ACTIONS[kind], self, data))
                found = self._thread.soon() if kind == "write" else None
        except (OSError, struct.error) as error:
            raise _refusal(kind, data, error) from error
        return found

    @property
    def _under_way(self) -> OwnThread | None:
        """The thread, if it has a call."""
        return self._thread if self._thread is not None and self._thread.busy else None

    async def query(self, kind: str, data: bytes) -> bytes | None:  # noqa: ARG002
        """Every kind is idempotent: nobody asks."""
        await trio.lowlevel.checkpoint()
        return None

    async def cancel(self) -> None:
        """Nothing that has begun is ended early."""
        await trio.lowlevel.checkpoint()

    async def watch(self) -> None:
        """An image does not die."""
        await trio.sleep_forever()

    async def close(self) -> None:
        """Give it back, its lock included, behind a request that has begun."""
        if self._under_way is not None:
            with suppress(OSError, RequestRefused):
                await self._under_way.end()
        if self._thread is not None:
            self._thread.close()
        os.close(self.descriptor)

    def at_hand(self, data: bytes) -> bytes | None:
        """Sectors that are in the host's memory: reading them never waits (preadv2(2), RWF_NOWAIT)."""
        offset, length = self._extent(RANGE.unpack(data), MAX_TRANSFER)
        found = self._room[:length]
        try:
            taken = os.preadv(self.descriptor, [found], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno in _ELSEWHERE:
                return None
            raise
        return bytes(found) if taken == length else None

    def taken(self, data: bytes) -> bytes | None:
        """Write to the host's memory, if that takes all of it without waiting (RWF_NOWAIT again)."""
        if len(data) > AT.size + AT_ONCE or not self._takes:
            return None
        content, offset = self._content(data)
        try:
            written = os.pwritev(self.descriptor, [content], offset, os.RWF_NOWAIT)
        except OSError as error:
            if error.errno not in _ELSEWHERE:
                raise
            self._takes = error.errno not in _UNSUPPORTED
            return None
        return b"" if written == len(content) else None

    # --- in the thread ---------------------------------------------------------------------

    def identify(self, _data: bytes) -> bytes:
        """What there is."""
        return self.medium.reply()

    def read(self, data: bytes) -> bytes:
        """Sectors; a file that others have cut meanwhile has them no more."""
        offset, length = self._extent(RANGE.unpack(data), MAX_TRANSFER)
        found = bytearray()
        while len(found) < length:
            part = os.pread(self.descriptor, length - len(found), offset + len(found))
            if not part:
                raise RequestRefused(f"read: the image ends at {offset + len(found):#x} now")
            found += part
        return bytes(found)

    def write(self, data: bytes) -> bytes:
        """Sectors, the last of them as a whole."""
        self._put(*self._content(data))
        return b""

    def flush(self, _data: bytes) -> bytes:
        """To the host's medium."""
        os.fdatasync(self.descriptor)
        return b""

    def discard(self, data: bytes) -> bytes:
        """Give the space back, where the file system can; it may be ignored."""
        offset, length = self._extent(RANGE.unpack(data), MAX_RANGE, writes=True)
        self._allocate(PUNCH_HOLE | KEEP_SIZE, offset, length)
        return b""

    def write_zeroes(self, data: bytes) -> bytes:
        """Zeroes that keep their space; written one by one where the file system does not know them."""
        offset, length = self._extent(RANGE.unpack(data), MAX_RANGE, writes=True)
        if not self._allocate(ZERO_RANGE | KEEP_SIZE, offset, length):
            zeroes = memoryview(bytes(MAX_TRANSFER * SECTOR))
            for at in range(offset, offset + length, len(zeroes)):
                self._put(zeroes[: offset + length - at], at)
        return b""

    def _content(self, data: bytes) -> tuple[memoryview, int]:
        """What a write has for the image, and where."""
        (sector,) = AT.unpack_from(data)
        count, rest = divmod(len(data) - AT.size, SECTOR)
        if rest:
            raise RequestRefused(f"write: {len(data) - AT.size} bytes are no sectors")
        offset, _ = self._extent((sector, count), MAX_TRANSFER, writes=True)
        return memoryview(data)[AT.size :], offset

    def _extent(self, asked: tuple[int, ...], most: int, *, writes: bool = False) -> tuple[int, int]:
        """Offset and length in bytes."""
        sector, count = asked
        if writes and self.medium.read_only:
            raise RequestRefused("the image is read-only")
        if not 1 <= count <= most:
            raise RequestRefused(f"{count} sectors; a request has 1 to {most}")
        if sector + count > self.medium.sectors:
            raise RequestRefused(f"sectors {sector}+{count} of {self.medium.sectors}")
        return sector * SECTOR, count * SECTOR

    def _put(self, data: memoryview, offset: int) -> None:
        while data:
            written = os.pwrite(self.descriptor, data, offset)
            data, offset = data[written:], offset + written

    def _allocate(self, mode: int, offset: int, length: int) -> bool:
        """Whether the file system can do that."""
        if not _fallocate(self.descriptor, mode, offset, length):
            return True
        number = ctypes.get_errno()
        if number in _UNSUPPORTED:
            return False
        raise OSError(number, os.strerror(number))


_ACTIONS: Final[Mapping[str, Callable[[Image, bytes], bytes]]] = {
    "identify": Image.identify,
    "read": Image.read,
    "write": Image.write,
    "flush": Image.flush,
    "discard": Image.discard,
    "write_zeroes": Image.write_zeroes,
}


def _refusal(kind: str, data: bytes, error: OSError | struct.error) -> RequestRefused:
    """What the host's disk says against a request, or that it is none."""
    said = error.strerror if isinstance(error, OSError) else f"{len(data)} bytes are no such request"
    return RequestRefused(f"{kind}: {said}")
