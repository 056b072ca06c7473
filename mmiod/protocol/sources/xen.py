"""Xen: an ioreq of the synchronous page, or the whole page of buffered ones.

Body: struct ioreq, 32 bytes; or struct buffered_iopage, 4096 bytes, whose writes nobody
waits for.  The answer to an ioreq has the data and state IORESP_READY, that to the
page has read_pointer moved on.  Event channels, the barrier between data and state, and
the atomic change of Xen's own read_pointer, stay the device model's.

Specification: Xen, xen/include/public/hvm/ioreq.h.
"""

from __future__ import annotations

from typing import Final

from mmiod.protocol.exit import Answer, Reply, SourceExit
from mmiod.protocol.exit.codec import check
from mmiod.protocol.exit.exits import SPACE_BITS
from mmiod.protocol.sources.layout import View, layout
from mmiod.protocol.sources.source import Memory, Settle, Settled, access, guest_bytes
from mmiod.values import READ, WRITE, Access, Completion, DecodedExit, Direction, Exit, Forward, Space, Values

IOREQ: Final = layout(
    "ioreq",
    """
    0  u64 addr
    8  u64 data
    16 u32 count
    20 u32 size
    30 u8  bits
    31 u8  type
    """,
)
BUFFERED: Final = layout("buffered_iopage", "0 u32 read_pointer\n4 u32 write_pointer", length=0x1000)

STATE: Final = 0xF
RESPONSE_READY: Final = 3
DATA_IS_PTR, DIR_READ, DOWN = 1 << 4, 1 << 5, 1 << 6
"""Of `bits`, above the state."""
SIZES: Final = frozenset({1, 2, 4, 8})
SPACES: Final = {0: Space.PIO, 1: Space.MMIO, 2: Space.PCI_CONFIG}
"""IOREQ_TYPE_PIO, _COPY, _PCI_CONFIG."""

SLOTS: Final = 511
SLOT_SIZE: Final = 8
MAX_BYTES: Final = 0x4000
"""Of the elements of one ioreq: Xen's end with a page, and they fit an answer."""
AT_ONCE: Final = 128
"""Slots of a buffered page that one exit takes; the rest is the next one's."""


def read(arrived: SourceExit, memory: Memory) -> Exit | Settled:
    """The access, or the writes, that are requested."""
    if len(arrived.body) >= BUFFERED.length:
        return _buffered(arrived)
    request = IOREQ.view(arrived.body)
    space = SPACES.get(request["type"])
    if space is None or (space == Space.PCI_CONFIG and request["addr"] >> 48):
        raise Settle(Forward())
    size, count = request["size"], request["count"]
    check(size in SIZES, "ioreq.size", size, "1, 2, 4 or 8")
    check(1 <= count <= MAX_BYTES // size, "ioreq.count", count, f"1..{MAX_BYTES // size}")
    if request["bits"] & DATA_IS_PTR:
        _lowest(request)
    direction = READ if request["bits"] & DIR_READ else WRITE
    data = _written(arrived, request, memory) if direction == WRITE else b""
    stride = 0 if space != Space.MMIO else -1 if request["bits"] & DOWN else 1
    return access(arrived, space, direction, _address(space, request), size, data, count=count, stride=stride)


def answer(arrived: SourceExit, exit_: Exit, completion: Completion) -> Answer:
    """The request, done."""
    if not (isinstance(completion, Values) and isinstance(exit_, DecodedExit)):
        return completion
    request = IOREQ.view(arrived.body)
    memory = []
    if exit_.direction == READ and request["bits"] & DATA_IS_PTR:
        memory = [_in_memory(request, completion.data)]
    elif exit_.direction == READ:
        request["data"] = int.from_bytes(completion.data[-exit_.size :], "little")
    request["bits"] = request["bits"] & ~STATE | RESPONSE_READY
    return Reply(bytes(request.data), memory)


# --- synchronous requests ------------------------------------------------------------


def _address(space: Space, request: View) -> int:
    address = request["addr"]
    if space == Space.PCI_CONFIG:  # bus 47:40, device 39:35, function 34:32, register 31:0
        check(address & 0xFFFF_F000 == 0, "ioreq.addr", address, "a register has 12 bits")
        return address >> 32 << 12 | address & 0xFFF
    bits = SPACE_BITS[space]
    check(address < 1 << bits, "ioreq.addr", address, f"a {space.name} address has {bits} bits")
    return address


def _lowest(request: View) -> int:
    """Where in guest memory the elements begin: of descending ones the first is the highest."""
    size, count, at = request["size"], request["count"], request["data"]
    start = at - (count - 1) * size if request["bits"] & DOWN else at
    check(0 <= start <= (1 << 64) - size * count, "ioreq.data", at, "the elements leave the address space")
    return start


def _turned(request: View, data: bytes) -> bytes:
    """Elements from the order of memory to that of the accesses, or back."""
    if not request["bits"] & DOWN:
        return data
    size = request["size"]
    return b"".join(data[at : at + size] for at in range(len(data) - size, -1, -size))


def _written(arrived: SourceExit, request: View, memory: Memory) -> bytes:
    size, count = request["size"], request["count"]
    if request["bits"] & DATA_IS_PTR:
        return _turned(request, guest_bytes(arrived, memory, _lowest(request), size * count))
    return request.octets("data")[:size] * count


def _in_memory(request: View, data: bytes) -> tuple[int, bytes]:
    return _lowest(request), _turned(request, data)


# --- buffered writes -----------------------------------------------------------------


def _buffered(arrived: SourceExit) -> Settled:
    page = BUFFERED.view(arrived.body)
    writes: list[Access] = []
    at, end = page["read_pointer"], page["write_pointer"]
    waiting = end - at & 0xFFFF_FFFF
    check(waiting <= SLOTS, "buffered_iopage.write_pointer", end, f"at most {SLOTS} ahead of {at:#x}")
    stop = at + min(waiting, AT_ONCE)
    while at < stop:
        slot = _slot(page, at)
        size, value = 1 << (slot >> 10 & 3), slot >> 32
        if size == 8:
            check(waiting >= 2, "buffered_iopage.write_pointer", end, "a write of 8 bytes has two slots")
            value |= _slot(page, at + 1) >> 32 << 32
        used = 2 if size == 8 else 1
        at, waiting = at + used, waiting - used
        writes.append(_posted(slot, size, value))
    page["read_pointer"] = at & 0xFFFF_FFFF
    return Settled(arrived.vcpu, arrived.sequence, Reply(bytes(page.data)), tuple(writes))


def _slot(page: View, number: int) -> int:
    at = SLOT_SIZE * (number % SLOTS + 1)
    return int.from_bytes(page.data[at : at + SLOT_SIZE], "little")


def _posted(slot: int, size: int, value: int) -> Access:
    """Bits: type 7:0, direction 9, size 11:10 as a power of two, address 31:12, data 63:32."""
    space, address = SPACES.get(slot & 0xFF), slot >> 12 & 0xF_FFFF
    check(space in {Space.PIO, Space.MMIO}, "buf_ioreq.type", slot & 0xFF, "0 PIO, 1 COPY")
    check(not slot >> 9 & 1, "buf_ioreq.dir", 1, "what is buffered is written")
    assert space is not None
    check(address < 1 << SPACE_BITS[space], "buf_ioreq.addr", address, f"a {space.name} address")
    return Access(space, Direction.WRITE, address, size, value & (1 << 8 * size) - 1)
