"""A raw image or a block device as the backend of a disk.

What fails (a sector behind the end, an error of the host's disk, a write to what is
read-only) is the answer to its request (`mmiod.core.backends.image`).

The image is locked as a whole by an open file description lock (fcntl(2)): for reading if
it is opened so, else for itself alone.  QEMU's own locks are on bytes of the same file, so
the two keep each other out.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

import trio
from attrs import define

from mmiod.core.backends.faces import BackendFailed, ServiceLink
from mmiod.core.backends.image import Image
from mmiod.device.block import KINDS, SECTOR, Medium

_FLOCK: Final = struct.Struct("hhqqi")
"""struct flock: type, whence, start, length (0: all), pid (0 as the kernel wants it)."""
_BUSY: Final = frozenset({errno.EAGAIN, errno.EACCES})


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
            await image.close()

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
