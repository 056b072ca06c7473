"""AMD SEV-ES and SEV-SNP: the page in which a guest's #VC handler describes its access.

Body: the GHCB page, and the u64 of its guest-physical address (which tells a scratch
area within the page from one outside).  The guest moves all registers itself; what the
guest got wrong goes back to it as a malformed request.

Specification: AMD 56421, SEV-ES Guest-Hypervisor Communication Block Standardization,
2.6 (layout), 4.1 (events), 4.1.7.1 (replies); codes: Linux asm/svm.h.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mmiod.protocol.exit import Answer, Reply, SourceExit
from mmiod.protocol.sources.layout import View, layout
from mmiod.protocol.sources.registers import direction_of, event, msr_access, port_access, put_result
from mmiod.protocol.sources.source import Memory, Settle, access, guest_bytes
from mmiod.values import (
    READ,
    WRITE,
    Completion,
    DecodedExit,
    Direction,
    Exit,
    Fault,
    Forward,
    Space,
    Values,
)

GHCB: Final = layout(
    "ghcb",
    """
    0x1f8  u64 rax
    0x308  u64 rcx
    0x310  u64 rdx
    0x390  u64 sw_exit_code
    0x398  u64 sw_exit_info_1
    0x3a0  u64 sw_exit_info_2
    0x3a8  u64 sw_scratch
    0x3f0  u64[2] valid_bitmap
    0xffc  u32 usage
    0x1000 u64 gpa
    """,
)
PAGE: Final = 0x1000
BUFFER: Final = range(0x800, 0xFF0)
"""The shared buffer within the page."""
MAX_SCRATCH: Final = 0x4000
"""Bytes of a scratch area outside the page, which have to fit an answer; KVM's bound is 64 KiB."""

OK, EXCEPTION, MALFORMED = range(3)
"""Low half of sw_exit_info_1 in a reply."""
USAGE, SCRATCH, MISSING, INVALID, EVENT = range(2, 7)
"""Reasons of MALFORMED; 1, a GHCB that is not registered, is for the hypervisor to find."""
INJECTABLE: Final = frozenset({6, 13})
"""Exceptions that a guest takes from a reply: #UD and #GP."""

STRING: Final = 1 << 2
IO_SIZES: Final = {0x10: 1, 0x20: 2, 0x40: 4}
"""Bits 6:4 of an IOIO event."""
MMIO_SIZES: Final = frozenset(range(1, 9))
SPECIFIED: Final = frozenset(
    {0x27, 0x37, 0x6E, 0x6F, 0x72, 0x76, 0x81, 0x87, 0x89, 0x8A, 0x8B, 0x8000_FFFD, 0x8000_FFFE, 0x8000_FFFF}
    | set(range(0x8000_0003, 0x8000_0020))
)
"""Events that are somebody else's."""


def read(arrived: SourceExit, memory: Memory) -> Exit:
    """The access that the page describes."""
    page = GHCB.view(arrived.body)
    _demand(page, page["usage"] == 0, USAGE)
    _demand_valid(page, "sw_exit_code", "sw_exit_info_1", "sw_exit_info_2")
    code = page["sw_exit_code"]
    if code in SPECIFIED:
        raise Settle(Forward())
    _demand(page, code in _EVENTS, EVENT)
    return _EVENTS[code](arrived, page, memory)


def answer(arrived: SourceExit, exit_: Exit, completion: Completion) -> Answer:
    """The page with the result, or with the exception that the guest is to take."""
    page = GHCB.view(arrived.body)
    if isinstance(completion, Values) and isinstance(exit_, DecodedExit):
        return _done(page, exit_, completion.data)
    if isinstance(completion, Fault) and completion.vector in INJECTABLE:
        return _reply(page, EXCEPTION, event(completion.vector, completion.error_code))
    return completion


# --- replies -------------------------------------------------------------------------


def _reply(page: View, code: int, info: int = 0, returned: tuple[str, ...] = ()) -> Reply:
    page["sw_exit_info_1"], page["sw_exit_info_2"] = code, info
    names = ("sw_exit_info_1", "sw_exit_info_2", *returned)
    page["valid_bitmap"] = sum(1 << GHCB.fields[name][0] // 8 for name in names)
    return Reply(bytes(page.data))


def _demand(page: View, holds: bool, reason: int) -> None:
    if not holds:
        raise Settle(_reply(page, MALFORMED, reason))


def _demand_valid(page: View, *names: str) -> None:
    bits = page["valid_bitmap"]
    _demand(page, all(bits >> GHCB.fields[name][0] // 8 & 1 for name in names), MISSING)


def _done(page: View, exit_: DecodedExit, data: bytes) -> Reply:
    if not _uses_scratch(page, exit_):
        return _reply(page, OK, returned=put_result(page, exit_, data))
    if not data:
        return _reply(page, OK)
    at = page["sw_scratch"]
    offset = at - page["gpa"]
    if not _inside(page, at):
        reply = _reply(page, OK)
        reply.memory.append((at, data))
        return reply
    page.data[offset : offset + len(data)] = data
    return _reply(page, OK)


# --- events --------------------------------------------------------------------------


def _port(arrived: SourceExit, page: View, memory: Memory) -> Exit:
    """IOIO: sw_exit_info_1 is EXITINFO1 of the intercept (APM vol. 2, 15.10.2)."""
    info = page["sw_exit_info_1"]
    direction = direction_of(not info & 1)
    _demand(page, info & 0x70 in IO_SIZES, INVALID)
    size, port = IO_SIZES[info & 0x70], info >> 16 & 0xFFFF
    if not info & STRING:
        _demand_valid(page, *(["rax"] if direction == WRITE else []))
        return port_access(arrived, page, direction, port, size)
    count = page["sw_exit_info_2"]
    _demand(page, count > 0, INVALID)
    data = _scratch(arrived, page, memory, direction, count * size)
    return access(arrived, Space.PIO, direction, port, size, data, count=count)


def _mmio(direction: Direction) -> Callable[[SourceExit, View, Memory], Exit]:
    def read_mmio(arrived: SourceExit, page: View, memory: Memory) -> Exit:
        size = page["sw_exit_info_2"]
        _demand(page, size in MMIO_SIZES, INVALID)
        data = _scratch(arrived, page, memory, direction, size)
        return access(arrived, Space.MMIO, direction, page["sw_exit_info_1"], size, data)

    return read_mmio


def _msr(arrived: SourceExit, page: View, _memory: Memory) -> Exit:
    info = page["sw_exit_info_1"]
    _demand(page, info <= 1, INVALID)
    _demand_valid(page, "rcx", *(["rax", "rdx"] if info else []))
    return msr_access(arrived, page, direction_of(info), page["rcx"] & 0xFFFF_FFFF)


_EVENTS: Final[dict[int, Callable[[SourceExit, View, Memory], Exit]]] = {
    0x7B: _port,
    0x7C: _msr,
    0x8000_0001: _mmio(READ),
    0x8000_0002: _mmio(WRITE),
}


# --- the scratch area ----------------------------------------------------------------


def _uses_scratch(page: View, exit_: DecodedExit) -> bool:
    return exit_.space == Space.MMIO or (exit_.space == Space.PIO and bool(page["sw_exit_info_1"] & STRING))


def _inside(page: View, gpa: int) -> bool:
    return gpa // PAGE == page["gpa"] // PAGE


def _scratch(arrived: SourceExit, page: View, memory: Memory, direction: Direction, length: int) -> bytes:
    """The bytes of a write, once it is sure that the area has room."""
    _demand_valid(page, "sw_scratch")
    at = page["sw_scratch"]
    offset = at - page["gpa"]
    if _inside(page, at):
        _demand(page, BUFFER.start <= offset and offset + length <= BUFFER.stop, SCRATCH)
        return bytes(page.data[offset : offset + length])
    _demand(page, length <= MAX_SCRATCH and at + length <= 1 << 64, SCRATCH)
    return guest_bytes(arrived, memory, at, length) if direction == WRITE else b""
