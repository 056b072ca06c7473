"""Regions: what of an address space belongs to a device, and who answers there."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import define, field

from mmiod.device.hooks import name_of
from mmiod.device.policy import Window
from mmiod.errors import DeclarationError

if TYPE_CHECKING:
    from mmiod.device.device import Device
    from mmiod.device.faces import Pending

OffsetReader = TypeVar("OffsetReader", bound=Callable[[Any, int, int], "int | Pending"])
OffsetWriter = TypeVar("OffsetWriter", bound=Callable[[Any, int, int, int], "Pending | None"])
QueueHook = TypeVar("QueueHook", bound=Callable[[Any, int, bytes], bool])
BatchReader = TypeVar("BatchReader", bound=Callable[[Any, int, int, int, int], bytes])
BatchWriter = TypeVar("BatchWriter", bound=Callable[[Any, int, int, bytes, int], "int | None"])


@define(eq=False)
class Region:
    """`length` bytes of an address space that belong to the device.

    `valid` are the smallest and largest access sizes that the region answers; what the
    guest does outside of them is split (larger) or reads ones (smaller, unaligned).
    `implemented` are the sizes that hooks see: the bus widens and splits accordingly.
    Both follow QEMU's memory core (docs/devel/memory.rst, "MMIO Operations").  In the space
    of MSRs every 8 bytes are one of them, and where no register is the guest gets #GP.  `hole`
    is what each byte reads where no register is.  With a `stride` the registers are there
    again every so many bytes; a hook finds in `self.copy` which of them is meant.
    `published` is the size of the words in which the region is published, as far as reads have
    no side effect; `mapped` that its pages may be shown in the guest's memory, where all of one is
    published: what an input changes appears there part by part, buffers first, then registers in
    the order of their declaration; `window` says which other space's reads those of the region are.
    """

    length: int
    valid: tuple[int, int] = field(default=(1, 8), kw_only=True)
    implemented: tuple[int, int] = field(default=(1, 8), kw_only=True)
    unaligned: bool = field(default=False, kw_only=True)
    hole: int = field(default=0, kw_only=True)
    stride: int = field(default=0, kw_only=True)
    published: int = field(default=0, kw_only=True)
    mapped: bool = field(default=False, kw_only=True)
    window: Window | None = field(default=None, kw_only=True)
    name: str = field(default="", init=False)
    reader: str | None = field(default=None, init=False)
    writer: str | None = field(default=None, init=False)
    batch_reader: str | None = field(default=None, init=False)
    batch_writer: str | None = field(default=None, init=False)
    queue: str | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        """Check what the author wrote."""
        if self.length <= 0:
            raise DeclarationError(f"a region of {self.length} bytes")
        for name, (low, high) in {"valid": self.valid, "implemented": self.implemented}.items():
            if not (low <= high and low in _SIZES and high in _SIZES):
                raise DeclarationError(
                    f"{name}={low, high}: access sizes are two ascending powers of two up to 64"
                )

    def on_read(self, hook: OffsetReader) -> OffsetReader:
        """Decorate `hook(self, offset, size) -> int`: it answers all reads of the region."""
        self.reader = name_of(self, hook)
        return hook

    def on_write(self, hook: OffsetWriter) -> OffsetWriter:
        """Decorate `hook(self, offset, size, value)`: it takes all writes of the region."""
        self.writer = name_of(self, hook)
        return hook

    def on_read_batch(self, hook: BatchReader) -> BatchReader:
        """Decorate `hook(self, offset, size, count, stride) -> bytes`: many reads in one call.

        It stands for up to `count` reads of `size` bytes, at `offset` (stride 0), or from
        there upwards (1) or downwards (-1), and gives the elements in that order; the rest
        come one by one, so a device that would have to wait gives those before.
        """
        self.batch_reader = name_of(self, hook)
        return hook

    def on_write_batch(self, hook: BatchWriter) -> BatchWriter:
        """Decorate `hook(self, offset, size, data, stride)`: many writes in one call.

        It returns how many elements it took, or None for all of them.
        """
        self.batch_writer = name_of(self, hook)
        return hook

    def on_enqueue(self, hook: QueueHook) -> QueueHook:
        """Decorate `hook(self, offset, command) -> bool`: ENQCMD brings a command of 64 bytes.

        True: it was taken.  False: the guest is told to try again; nothing may have changed.
        """
        self.queue = name_of(self, hook)
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name


_SIZES = (1, 2, 4, 8, 16, 32, 64)
