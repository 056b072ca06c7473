"""A raw image or a block device as the backend of a disk.

Requests are done one at a time in a thread of the link's own, so that a disk that hangs
holds up its device and nobody else; what the host has in memory is read without that
detour.  What fails (a sector behind the end, an error of the
host's disk, a write to what is read-only) is the answer to its request.

The image is locked as a whole by an open file description lock (fcntl(2)): for reading if
it is opened so, else for itself alone.  QEMU's own locks are on bytes of the same file, so
the two keep each other out.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import stat
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio
from attrs import define, field

from mmiod.core.backends.faces import BackendFailed, RequestRefused, ServiceLink
from mmiod.core.backends.own_thread import OwnThread
from mmiod.device.block import AT, KINDS, MAX_RANGE, MAX_TRANSFER, RANGE, SECTOR, Medium

_FLOCK: Final = struct.Struct("hhqqi")
"""struct flock: type, whence, start, length (0: all), pid (0 as the kernel wants it)."""
KEEP_SIZE, PUNCH_HOLE, ZERO_RANGE = 0x01, 0x02, 0x10
"""FALLOC_FL_*, linux/falloc.h."""
_UNSUPPORTED: Final = frozenset({errno.EOPNOTSUPP, errno.ENOSYS, errno.ENODEV})
_ELSEWHERE: Final = _UNSUPPORTED | {errno.EAGAIN}
"""Not in memory, or on a file system that does not say."""
_BUSY: Final = frozenset({errno.EAGAIN, errno.EACCES})

_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)


@define(eq=False)
class Image:
    """An open image; `perform` runs in a thread."""

    descriptor: int
    medium: Medium
    _thread: OwnThread | None = None
    """From the first request that needs it."""
    _room: memoryview = field(factory=lambda: memoryview(bytearray(MAX_TRANSFER * SECTOR)))
    """For what is read at once."""

    async def perform(self, kind: str, data: bytes) -> bytes:
        """Do a request; what the host's disk says against it is a refusal."""
        try:
            found = self.at_hand(data) if kind == "read" else None
            if found is not None:
                await trio.lowlevel.checkpoint()
                return found
            self._thread = self._thread or OwnThread()
            return await self._thread.do(partial(_ACTIONS[kind], self, data))
        except OSError as error:
            raise RequestRefused(f"{kind}: {error.strerror}") from error
        except struct.error as error:
            raise RequestRefused(f"{kind}: {len(data)} bytes are no such request") from error

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

    def close(self) -> None:
        """Give it back, its lock included."""
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
        (sector,) = AT.unpack_from(data)
        count, rest = divmod(len(data) - AT.size, SECTOR)
        if rest:
            raise RequestRefused(f"write: {len(data) - AT.size} bytes are no sectors")
        offset, _ = self._extent((sector, count), MAX_TRANSFER, writes=True)
        self._put(memoryview(data)[AT.size :], offset)
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


@define(eq=False)
class BlockBackend:
    """An image file or a block device, open and locked from the first request on."""

    path: Path
    read_only: bool = False
    kinds = frozenset(KINDS)
    keeping = None

    @property
    def owns(self) -> str:
        """The image, if it is to be written."""
        return "" if self.read_only else f"block:{self.path}"

    def check(self) -> None:
        """Look before anything starts.

        Raises:
            ValueError: there is no such image, or its size is none of a disk; naming it.
        """
        try:
            mode = self.path.stat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
                raise ValueError(f"{self.path} is neither a file nor a block device")
            if stat.S_ISREG(mode):
                _sectors(self.path, self.path.stat().st_size)
        except OSError as error:
            raise ValueError(f"{self.path}: {error.strerror}") from error

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ServiceLink]:
        """Open and lock it."""
        image = await trio.to_thread.run_sync(self._open)
        try:
            yield image
        finally:
            image.close()

    def _open(self) -> Image:
        flags = os.O_RDONLY if self.read_only else os.O_RDWR
        descriptor = os.open(self.path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            _lock(self.path, descriptor, fcntl.F_RDLCK if self.read_only else fcntl.F_WRLCK)
            sectors = _sectors(self.path, os.lseek(descriptor, 0, os.SEEK_END))
            return Image(descriptor, Medium(sectors, self.read_only))
        except (OSError, BackendFailed):
            os.close(descriptor)
            raise
        except ValueError as error:
            os.close(descriptor)
            raise BackendFailed(str(error)) from error


def _sectors(path: Path, length: int) -> int:
    sectors, rest = divmod(length, SECTOR)
    if rest or not sectors:
        raise ValueError(f"{path} has {length} bytes, which are no sectors of {SECTOR}")
    return sectors


def _lock(path: Path, descriptor: int, kind: int) -> None:
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno in _BUSY:
            raise BackendFailed(f"{path} is locked: another program has it open") from error
        raise
