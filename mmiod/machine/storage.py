"""The bytes of devices' storage, where they stay while devices come and go.

All storage of one region is one memfd, at the region's own offsets, sealed against changes of
its length, so that whoever maps it is never surprised.  Pages that nobody wrote take no memory.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import weakref
import zlib
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Final

from attrs import define, field, frozen

from mmiod.device import Device
from mmiod.device.storage import MAX_STORAGE, PAGE, Area, areas_of
from mmiod.errors import MachineError, RestoreError

SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
ZEROS: Final = bytes(PAGE)
LEVEL: Final = 1
"""Of compression: a daemon that saves serves nobody meanwhile."""


@frozen
class Extent:
    """Bytes of a storage: what is between extents is zeros."""

    offset: int
    """Within the storage."""
    length: int
    data: str
    """Compressed (zlib), in base64: base85, which Python has no C for, takes seconds for megabytes."""

    @classmethod
    def of(cls, offset: int, content: bytes) -> Extent:
        """Those bytes."""
        return cls(offset, len(content), b64encode(zlib.compress(content, LEVEL)).decode())

    def content(self) -> bytes:
        """The bytes.

        Raises:
            RestoreError: they are not `length` bytes.
        """
        inflate = zlib.decompressobj()
        try:
            content = inflate.decompress(b64decode(self.data, validate=True), self.length + 1)
        except (zlib.error, ValueError) as error:
            raise RestoreError(f"data: {error}") from error
        if len(content) != self.length or not inflate.eof or inflate.unused_data:
            raise RestoreError(f"data: not {self.length} bytes")
        return content


@define(eq=False)
class Backing:
    """All storage of one region of one device."""

    areas: tuple[Area, ...]
    descriptor: int
    _view: mmap.mmap = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Map it, here too; when nobody needs it any more it ends, but for who has it mapped."""
        weakref.finalize(self, os.close, self.descriptor)
        self._view = mmap.mmap(self.descriptor, self.length)

    @classmethod
    def make(cls, areas: tuple[Area, ...]) -> Backing:
        """Zeros."""
        descriptor = os.memfd_create("mmiod-storage", os.MFD_ALLOW_SEALING | os.MFD_CLOEXEC)
        os.ftruncate(descriptor, sum(areas[-1]))
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, SEALS)
        return cls(areas, descriptor)

    @property
    def length(self) -> int:
        """Up to the end of the last area."""
        return sum(self.areas[-1])

    def holds(self, offset: int, length: int) -> bool:
        """Whether all of it is storage."""
        return any(start <= offset and offset + length <= start + size for start, size in self.areas)

    def read(self, offset: int, length: int) -> bytes:
        """Bytes at an offset of the region."""
        return self._view[offset : offset + length]

    def write(self, offset: int, data: bytes) -> None:
        """Store bytes at an offset of the region."""
        self._view[offset : offset + len(data)] = data

    def clear(self, offset: int, length: int) -> None:
        """Give whole pages back: they are zeros, for all who have them mapped."""
        self._view.madvise(mmap.MADV_REMOVE, offset, length)

    def extents(self, area: Area) -> Iterator[Extent]:
        """What is in an area, without pages of zeros; the same bytes give the same extents."""
        start, size = area
        for begin, end in self._written(start, start + size):
            for used, pages in groupby(range(begin, end, PAGE), self._used):
                if used:
                    found = list(pages)
                    content = self._view[found[0] : found[-1] + PAGE]
                    yield Extent.of(found[0] - start, content)

    def _used(self, page: int) -> bool:
        return self._view[page : page + PAGE] != ZEROS

    def _written(self, at: int, end: int) -> Iterator[Area]:
        """Begin and end of runs of pages that there are."""
        while at < end:
            try:
                begin = os.lseek(self.descriptor, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            at = min(os.lseek(self.descriptor, begin, os.SEEK_HOLE), end)
            if begin < at:
                yield begin, at


Backings = dict[str, Backing]
"""Those of a device, by region."""


def backings_of(device: Device) -> Backings:
    """New ones for a device: zeros."""
    regions = dict.fromkeys(device.storage_homes.values())
    return {region: Backing.make(areas_of(device, region)) for region in regions}


def areas(device: Device | type[Device]) -> dict[str, tuple[Area, ...]]:
    """Where a device has storage, by region."""
    return {region: areas_of(device, region) for region in device.storage_homes.values()}


def check_total(storages: Mapping[str, Backings]) -> None:
    """See that all storage of a machine fits a saved state.

    Raises:
        MachineError: it does not.
    """
    total = sum(
        size for backings in storages.values() for backing in backings.values() for _, size in backing.areas
    )
    if total > MAX_STORAGE:
        raise MachineError(f"devices have {total:#x} bytes of storage; at most {MAX_STORAGE:#x} are saved")


# --- in a saved state ------------------------------------------------------------------------


Kept = dict[str, list[Extent]]
"""What a device has stored, by storage."""
Content = dict[str, list[tuple[int, bytes]]]
"""The same in the clear: offsets within the storage, and bytes."""


def kept(device: Device, backings: Backings) -> Kept:
    """What a device has stored."""
    return {
        name: list(backings[device.storage_homes[name]].extents((storage.offset, storage.size)))
        for name, storage in device.storages.items()
    }


def content(kind: type[Device], saved: Mapping[str, list[Extent]], place: str) -> Content:
    """What was stored; a storage that is not in the document is zeros.

    Raises:
        RestoreError: the class has no such storage, or it has no such bytes.
    """
    for name in saved:
        if name not in kind.storages:
            raise RestoreError(f"{place}.{name}: the device has none")
    return {
        name: list(_content(saved.get(name, []), storage.size, f"{place}.{name}"))
        for name, storage in kind.storages.items()
    }


def _content(extents: list[Extent], size: int, place: str) -> Iterator[tuple[int, bytes]]:
    end = 0
    for number, extent in enumerate(extents):
        if not (end <= extent.offset and 0 < extent.length <= size - extent.offset):
            what = f"{extent.length:#x} bytes at {extent.offset:#x}"
            raise RestoreError(f"{place}[{number}]: {what}, behind {end:#x} and within {size:#x}")
        end = extent.offset + extent.length
        try:
            yield extent.offset, extent.content()
        except RestoreError as error:
            raise RestoreError(f"{place}[{number}].{error}") from error


def put_back(device: Device, backings: Backings, stored: Content) -> None:
    """Let a device's storage be what was stored."""
    for name, found in stored.items():
        storage, backing = device.storages[name], backings[device.storage_homes[name]]
        backing.clear(storage.offset, storage.size)
        for offset, data in found:
            backing.write(storage.offset + offset, data)
