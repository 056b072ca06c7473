"""fw_cfg: how the hypervisor tells firmware what machine this is.

Specification: QEMU docs/specs/fw_cfg.rst; keys from QEMU include/standard-headers/linux/qemu_fw_cfg.h.

Modelled: the selector, the byte-wide data port, DMA (read, skip, select); the signature,
the ID, RAM size, numbers of CPUs and the file directory, sorted by name; `etc/e820` is
made from guest memory, so that firmware finds the RAM that the hypervisor mapped; with
`acpi` the files of the table loader (see `mmiod.device.acpi`).
Not modelled: keys that SeaBIOS does without (UUID, boot device, kernel, the x86 keys from
8000h on but two: they read 0 as all unknown ones); writes: no item allows them, a DMA write gets
the error bit (and skips, as in QEMU) and a write of the data port does nothing; the
16-bit form of the data port.

A hostile guest makes nothing grow.  A transfer moves at most 16 MiB (more gets the error
bit), so that the time in the hook is bounded whatever length the guest wrote.

`control` belongs at port 510h, `dma` at 514h.
"""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

from attrs import define, field, frozen, validators

from mmiod.device import Context, Device, Region, Register
from mmiod.device.acpi import CPUS_MAX, ECAM_LENGTH, Platform, files as acpi_files
from mmiod.values import Space

API: Final = 1

SIGNATURE: Final = 0x00
ID: Final = 0x01
RAM_SIZE: Final = 0x03
NB_CPUS: Final = 0x05
BOOT_MENU: Final = 0x0E
MAX_CPUS: Final = 0x0F
FILE_DIR: Final = 0x19
IRQ0_OVERRIDE: Final = 0x8002
"""1: the PIT is at input 2 of the I/O APIC, where there is one."""
HPET: Final = 0x8004
NO_HPET: Final = 0xFF
WRITE_CHANNEL: Final = 0x4000
"""A bit of the key that says "to write"; it selects the same item."""
FILE_FIRST: Final = 0x20
FILES_MAX: Final = 0x1000
NAME_MAX: Final = 55
"""Bytes of a file's name; its field of 56 ends with NUL."""
TRANSFER_MAX: Final = 16 << 20
"""Bytes, of a DMA transfer and of a file."""

DESCRIPTOR: Final = struct.Struct(">IIQ")
"""A DMA descriptor: control, length, address."""
ENTRY: Final = struct.Struct(">IHxx56s")
"""A file in the directory: size, key, name."""

FOUR_GIB: Final = 1 << 32
E820_RAM: Final = 1
E820_RESERVED: Final = 2


class Feature(enum.IntFlag):
    """What the ID key says."""

    TRADITIONAL = 1 << 0
    DMA = 1 << 1


class Dma(enum.IntFlag):
    """The control word of a DMA descriptor; bits 31:16 are the key to select."""

    ERROR = 1 << 0
    READ = 1 << 1
    SKIP = 1 << 2
    SELECT = 1 << 3
    WRITE = 1 << 4


@frozen
class File:
    """What a file holds, given in one way: hex digits, a text, a path, or an integer of `width` bytes."""

    hex: str | None = None
    text: str | None = None
    path: Path | None = None
    integer: int | None = None
    width: int = 4
    data: bytes = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Read the content: what is wrong with it must show before the machine starts."""
        given = [name for name in ("hex", "text", "path", "integer") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"a file needs one of hex, text, path, integer; it has {given or 'none'}")
        data = self._content()
        if len(data) > TRANSFER_MAX:
            raise ValueError(f"more than {TRANSFER_MAX} bytes")
        object.__setattr__(self, "data", data)

    def _content(self) -> bytes:
        if self.hex is not None:
            return bytes.fromhex(self.hex)
        if self.text is not None:
            return self.text.encode()
        if self.path is not None:
            return _read(self.path)
        value = self.integer or 0
        try:
            return value.to_bytes(self.width, "little", signed=value < 0)
        except OverflowError:
            raise ValueError(f"integer {value} does not fit width {self.width}") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(TRANSFER_MAX + 1)
    except OSError as error:
        raise ValueError(f"{path}: {error.strerror}") from error


@frozen
class FwCfgConfig:
    """The machine's CPUs and files; without `e820` firmware asks CMOS for the RAM's size.

    With `acpi`, the rest of the machine as ACPI tables tell it.
    """

    cpus: int = field(default=1, validator=validators.and_(validators.ge(1), validators.lt(1 << 16)))
    boot_menu: bool = False
    e820: bool = True
    acpi: Platform | None = field(default=None)
    files: Mapping[str, File] = field(factory=dict)

    @acpi.validator
    def _check_acpi(self, _: object, acpi: Platform | None) -> None:
        if acpi is not None and self.cpus > CPUS_MAX:
            raise ValueError(f"{self.cpus} CPUs; ACPI tables have room for {CPUS_MAX}")

    @files.validator
    def _check_files(self, _: object, files: Mapping[str, File]) -> None:
        if len(files) > FILES_MAX:
            raise ValueError(f"{len(files)} files; the directory has room for {FILES_MAX}")
        for name in files:
            if not 0 < len(name.encode()) <= NAME_MAX:
                raise ValueError(f"{name!r}: a file's name has 1 to {NAME_MAX} bytes")


@define
class FwCfgState:
    """The selected key, and how many bytes of it were read."""

    key: int = 0
    position: int = 0


class FwCfg(Device):
    """The I/O port form, as PCs have it."""

    config: FwCfgConfig
    state: FwCfgState

    control = Region(2)
    dma = Region(8)

    selector = Register(0, size=2, access="w", whole=True, posted=True, region=control)
    data = Register(1, access="r", region=control)
    data_low = Register(0, access="r", region=control)
    """QEMU answers bytes at both ports (hw/nvram/fw_cfg.c, `fw_cfg_comb_read`)."""
    # Big-endian, so the low half is the second; writing it starts the transfer.  The guest waits for that
    # in memory, where the descriptor's control word tells the end.
    dma_address_high = Register(0, size=4, access="w", whole=True, posted=True, region=dma)
    dma_address_low = Register(4, size=4, access="w", whole=True, posted=True, region=dma)
    dma_signature = Register(0, size=8, access="r", reset=int.from_bytes(b"QEMU CFG", "little"), region=dma)

    def __init__(self, context: Context, config: object | None = None) -> None:
        """Make an instance; its items follow when the guest asks, as memory must be there."""
        super().__init__(context, config)
        self._items: dict[int, bytes] = {}

    def on_reset(self) -> None:
        """Memory may have changed."""
        self._items = {}

    def announced(self) -> Mapping[str, tuple[Space, int]]:
        """Where the ACPI tables say that devices are."""
        places = self.config.acpi.announced() if self.config.acpi else {}
        return {f"acpi.{name}": place for name, place in places.items()}

    # --- selector and data port ------------------------------------------------------

    @selector.on_write
    def _select(self, key: int) -> None:
        self.state = FwCfgState(key & ~WRITE_CHANNEL)

    @data.value
    def _next(self) -> int:
        item, position = self._item(), self.state.position
        return item[position] if position < len(item) else 0

    @data.on_read
    def _advance(self) -> None:
        self._skip(1)

    @data.on_read_batch
    def _read_many(self, count: int) -> bytes:
        position = self.state.position
        part = self._item()[position : position + count]
        self._skip(count)
        return part.ljust(count, b"\0")

    data_low.value(_next)
    data_low.on_read(_advance)
    data_low.on_read_batch(_read_many)

    def _skip(self, length: int) -> None:
        self.state.position = min(self.state.position + length, len(self._item()))

    # --- DMA -------------------------------------------------------------------------

    @dma_address_low.on_write
    def _transfer(self, low: int) -> None:
        high, self.dma_address_high = self.dma_address_high, 0
        gpa = int.from_bytes(high.to_bytes(4, "little") + low.to_bytes(4, "little"), "big")
        if not self.memory.holds(gpa, DESCRIPTOR.size):
            return
        control, length, target = DESCRIPTOR.unpack(self.memory.read(gpa, DESCRIPTOR.size))
        if control & Dma.SELECT:
            self._select(control >> 16)
        failed = self._move(control, length, target)
        self.memory.write(gpa, (Dma.ERROR if failed else 0).to_bytes(4, "big"))

    def _move(self, control: int, length: int, target: int) -> bool:
        """Do what the descriptor says; of READ, WRITE and SKIP the first wins.  True: it failed."""
        if not control & (Dma.READ | Dma.WRITE | Dma.SKIP):
            return False
        if control & Dma.READ:
            if length > TRANSFER_MAX:
                return True
            position = self.state.position
            part = self._item()[position : position + length]
            self.memory.write(target, part.ljust(length, b"\0"))
            failed = not self.memory.holds(target, length)
        else:
            failed = bool(control & Dma.WRITE and length)
        self._skip(length)
        return failed

    # --- items -----------------------------------------------------------------------

    def _item(self) -> bytes:
        if not self._items:
            self._items = dict(self._numbers()) | dict(self._files())
        return self._items.get(self.state.key, b"")

    def _numbers(self) -> Iterator[tuple[int, bytes]]:
        """The items that have a key of their own."""
        yield SIGNATURE, b"QEMU"
        yield ID, (Feature.TRADITIONAL | Feature.DMA).to_bytes(4, "little")
        yield RAM_SIZE, (self.memory.below_4g + self.memory.above_4g).to_bytes(8, "little")
        yield NB_CPUS, self.config.cpus.to_bytes(2, "little")
        yield MAX_CPUS, self.config.cpus.to_bytes(2, "little")
        yield IRQ0_OVERRIDE, (1).to_bytes(4, "little")
        yield HPET, bytes((NO_HPET,))
        yield BOOT_MENU, int(self.config.boot_menu).to_bytes(2, "little")

    def _files(self) -> Iterator[tuple[int, bytes]]:
        """The files, and the directory that tells their keys."""
        files = {name: file.data for name, file in self.config.files.items()}
        if self.config.e820:
            files = {"etc/e820": self._e820()} | files
        if self.config.acpi:
            files = acpi_files(self.config.acpi, self.config.cpus, self.memory.below_4g) | files
        directory = len(files).to_bytes(4, "big")
        for key, name in enumerate(sorted(files), FILE_FIRST):
            directory += ENTRY.pack(len(files[name]), key, name.encode())
            yield key, files[name]
        yield FILE_DIR, directory

    def _e820(self) -> bytes:
        """RAM, and what is reserved, as e820 entries: u64 address, u64 length, u32 type."""
        ranges = [
            (0, self.memory.below_4g, E820_RAM),
            (FOUR_GIB, self.memory.above_4g, E820_RAM),
        ]
        if self.config.acpi and self.config.acpi.ecam is not None:
            ranges.append((self.config.acpi.ecam, ECAM_LENGTH, E820_RESERVED))
        return b"".join(struct.pack("<QQI", *found) for found in ranges if found[1])
