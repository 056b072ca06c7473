"""vfio-user: every number and structure on the wire, in one table.

Specification: QEMU docs/interop/vfio-user.rst, version 0.1.  Integers have the host's byte
order, little-endian here; offsets and sizes are in bytes.  A message is a `header` and a
payload; a payload may be longer than its fixed part here, which `tail` says.
"""

from __future__ import annotations

import struct
from typing import Final

from attrs import frozen

MAJOR: Final = 0
MINOR: Final = 1

TABLE: Final = """
header          id u16, command u16, size u32, flags u32, error u32
version         major u16, minor u16, tail
dma_map         argsz u32, flags u32, offset u64, address u64, size u64, tail
dma_unmap       argsz u32, flags u32, address u64, size u64, tail
device_info     argsz u32, flags u32, regions u32, irqs u32, tail
region_info     argsz u32, flags u32, index u32, cap_offset u32, size u64, offset u64, tail
sparse_mmap     id u16, version u16, next u32, areas u32, reserved u32, tail
region_area     offset u64, size u64
region_io_fds   argsz u32, flags u32, index u32, count u32, tail
irq_info        argsz u32, flags u32, index u32, count u32, tail
set_irqs        argsz u32, flags u32, index u32, start u32, count u32, tail
region_access   offset u64, region u32, count u32, tail
write_multi     count u64, tail
dma_access      address u64, count u64, tail
one_write       offset u64, region u32, count u32, data u64
feature         argsz u32, flags u32, tail
migration       flags u64
device_state    state u32, data_fd u32
log_control     page_size u64, ranges u32, reserved u32, tail
log_range       iova u64, length u64
log_report      iova u64, length u64, page_size u64
mig_data        argsz u32, size u32, tail
nothing
"""
"""Name and members of each structure; `tail`: bytes may follow."""

_CODES: Final = {"u16": "H", "u32": "I", "u64": "Q"}


@frozen
class Layout:
    """One structure: its members by name, its bytes."""

    name: str
    members: tuple[str, ...]
    struct: struct.Struct
    tail: bool

    @property
    def size(self) -> int:
        """Bytes of the fixed part."""
        return self.struct.size

    def read(self, data: bytes | bytearray) -> dict[str, int]:
        """The members of a structure that is at the beginning of `data`."""
        return dict(zip(self.members, self.struct.unpack_from(data), strict=True))

    def pack(self, **values: int) -> bytes:
        """A structure; members that are not named are 0."""
        return self.struct.pack(*(values.pop(name, 0) for name in self.members))


def _layout(line: str) -> Layout:
    name, _, rest = line.partition(" ")
    words = [word.split() for word in rest.split(",") if word.strip()]
    tail = ["tail"] in words
    members = [word for word in words if word != ["tail"]]
    codes = "".join(_CODES[kind] for _, kind in members)
    return Layout(name, tuple(member for member, _ in members), struct.Struct(f"<{codes}"), tail)


LAYOUTS: Final = {found.name: found for found in map(_layout, TABLE.strip().splitlines())}
HEADER: Final = LAYOUTS["header"]


@frozen
class Command:
    """One command that a client sends: its request's structure, and how many descriptors may come."""

    number: int
    name: str
    request: Layout
    descriptors: int


MAX_DESCRIPTORS: Final = 64
"""Descriptors that one message may bring: clients send up to 16, whatever we offer."""

_COMMANDS: Final = """
 1 VERSION         version         0
 2 DMA_MAP         dma_map         1
 3 DMA_UNMAP       dma_unmap       0
 4 GET_INFO        device_info     0
 5 GET_REGION_INFO region_info     0
 6 GET_IO_FDS      region_io_fds   0
 7 GET_IRQ_INFO    irq_info        0
 8 SET_IRQS        set_irqs       64
 9 REGION_READ     region_access   0
10 REGION_WRITE    region_access   0
13 RESET           nothing         0
15 WRITE_MULTI     write_multi     0
16 DEVICE_FEATURE  feature         0
17 MIG_DATA_READ   mig_data        0
18 MIG_DATA_WRITE  mig_data        0
"""
"""Number, name, structure of the request, descriptors at most; the server's own are below."""
DMA_READ: Final = 11
DMA_WRITE: Final = 12


def _command(line: str) -> Command:
    number, name, layout, descriptors = line.split()
    return Command(int(number), name, LAYOUTS[layout], int(descriptors))


COMMANDS: Final = {found.number: found for found in map(_command, _COMMANDS.strip().splitlines())}
NUMBERS: Final = {found.name: found.number for found in COMMANDS.values()}

# header.flags
TYPE: Final = 0xF
REPLY: Final = 1
NO_REPLY: Final = 0x10
ERROR: Final = 0x20

# dma_map.flags; 4 and 8 say how the client wants to be accessed
MAP_READ: Final = 1
MAP_WRITE: Final = 2
MAP_FLAGS: Final = 0xF
UNMAP_ALL: Final = 2

# device_info.flags
DEVICE_RESET: Final = 1
DEVICE_PCI: Final = 2

# region_info.flags
REGION_READ: Final = 1
REGION_WRITE: Final = 2
REGION_MMAP: Final = 4
REGION_CAPABILITIES: Final = 8

SPARSE_MMAP: Final = 1
"""The id of the capability that says which parts of a region can be mapped."""

# set_irqs.flags
DATA_NONE: Final = 1
DATA_BOOL: Final = 2
DATA_EVENTFD: Final = 4
ACTION_MASK: Final = 8
ACTION_UNMASK: Final = 0x10
ACTION_TRIGGER: Final = 0x20

BARS: Final = 6
CONFIG_REGION: Final = 7
REGIONS: Final = 9
"""BAR 0-5, expansion ROM, configuration space, VGA."""

INTX: Final = 0
MSI: Final = 1
MSIX: Final = 2
IRQS: Final = 5
"""INTx, MSI, MSI-X, errors, requests."""
IRQ_FLAGS: Final = (7, 1, 1, 1, 1)
"""irq_info.flags: eventfd; INTx is maskable and masks itself.  Without NORESIZE QEMU assigns
MSI-X vectors one by one, where it else turns all of them off first."""

# feature.flags: a number, and what is wanted with it
FEATURE_NUMBER: Final = 0xFFFF
FEATURE_GET: Final = 0x1_0000
FEATURE_SET: Final = 0x2_0000
FEATURE_PROBE: Final = 0x4_0000

MIGRATION: Final = 1
DEVICE_STATE: Final = 2
LOGGING_START: Final = 6
LOGGING_STOP: Final = 7
LOGGING_REPORT: Final = 8

# migration.flags
STOP_COPY: Final = 1
PRE_COPY: Final = 4
