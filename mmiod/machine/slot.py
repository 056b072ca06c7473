"""A slot of guest memory, and how its bytes are reached.

A slot's descriptor is mapped only if it is a memfd sealed against shrinking, because a
mapping whose file shrinks kills the process that touches it; any other descriptor is
used by pread and pwrite.  A slot without descriptor is RAM that only messages reach, if a
messenger is there.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from typing import Protocol

from attrs import define, field

from mmiod.errors import MachineError


class Storage(Protocol):
    """How the bytes of a slot are reached; offsets are within the slot."""

    def read(self, offset: int, length: int) -> bytes: ...  # noqa: D102
    def write(self, offset: int, data: bytes) -> None: ...  # noqa: D102
    def close(self) -> None: ...  # noqa: D102


@define(eq=False)
class Mapped:
    """A sealed memfd, mapped from `offset` on; the descriptor stays open for who has to map it anew."""

    view: mmap.mmap
    descriptor: int
    offset: int
    memory: memoryview = field(init=False)
    """All of it where it lies; no part of this outlives the call that took it."""

    def __attrs_post_init__(self) -> None:
        """Look at it."""
        self.memory = memoryview(self.view)

    def read(self, offset: int, length: int) -> bytes:  # noqa: D102
        return self.view[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:  # noqa: D102
        self.view[offset : offset + len(data)] = data

    def close(self) -> None:  # noqa: D102
        self.memory.release()
        self.view.close()
        os.close(self.descriptor)


@define(eq=False)
class ByDescriptor:
    """Any other file: what cannot be read reads as ones; `lost` counts writes that failed."""

    descriptor: int
    offset: int
    lost: int = 0

    def read(self, offset: int, length: int) -> bytes:  # noqa: D102
        try:
            data = os.pread(self.descriptor, length, self.offset + offset)
        except OSError:
            data = b""
        return data + b"\xff" * (length - len(data))

    def write(self, offset: int, data: bytes) -> None:  # noqa: D102
        try:
            os.pwrite(self.descriptor, data, self.offset + offset)
        except OSError:
            self.lost += 1  # its owner shrank or sealed it: the bytes are the owner's loss

    def close(self) -> None:  # noqa: D102
        os.close(self.descriptor)


@define(eq=False)
class Gone:
    """What was a slot's storage, for an access that found the slot and then waited for a device."""

    def read(self, offset: int, length: int) -> bytes:  # noqa: ARG002, D102
        return b"\xff" * length

    def write(self, offset: int, data: bytes) -> None:  # noqa: D102
        pass

    def close(self) -> None:  # noqa: D102
        pass


@define(eq=False)
class Slot:
    """`length` bytes of guest-physical space from `gpa`; without storage only messages reach it."""

    number: int
    gpa: int
    length: int
    read_only: bool
    storage: Storage | None
    end: int = field(init=False)
    """First address behind."""

    def __attrs_post_init__(self) -> None:
        """A slot never changes its place: a moved one is another."""
        self.end = self.gpa + self.length


def storage_of(descriptor: int, offset: int, length: int, *, read_only: bool) -> Storage:
    """Take over a descriptor (it is closed, or closed later by the storage).

    Raises:
        MachineError: there is no such part of the file, or it cannot be used.
    """
    try:
        size = os.fstat(descriptor).st_size
        if not 0 < length <= size - offset:
            raise MachineError(f"the descriptor has {size:#x} bytes, the slot is {length:#x} at {offset:#x}")
        mode = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
        if mode == os.O_WRONLY:
            raise MachineError("the descriptor is write-only")
        if mode == os.O_RDONLY and not read_only:
            raise MachineError("the descriptor is read-only, the slot is not")
        if not _sealed(descriptor) or offset % mmap.ALLOCATIONGRANULARITY:
            return ByDescriptor(os.dup(descriptor), offset)
        access = mmap.ACCESS_READ if read_only else mmap.ACCESS_WRITE
        view = mmap.mmap(descriptor, length, access=access, offset=offset)
        return Mapped(view, os.dup(descriptor), offset)
    except OSError as error:
        raise MachineError(f"the descriptor cannot be used: {error}") from error
    finally:
        os.close(descriptor)


def _sealed(descriptor: int) -> bool:
    try:
        return bool(fcntl.fcntl(descriptor, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK)
    except OSError:
        return False  # not a memfd
