"""Random accesses for both interfaces of a TPM, by drivers that follow the PTP's state diagrams.

Between the steps of a command everything is read and written that the step leaves as it
is.  A command's length is what was sent: QEMU waits for the rest of others for ever.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from random import Random
from typing import Final

from tests.qemu import differences as rows
from tests.qemu.sides import Access

Steps = Iterator[Iterable[Access]]
BASE: Final = 0xFED40000
PAGE: Final = 0x1000
MAX_LENGTH: Final = 200


def get(offset: int, size: int = 4) -> Access:
    """A read."""
    return Access("mmio", BASE + offset, size)


def put(offset: int, value: int, size: int = 4) -> Access:
    """A write."""
    return Access("mmio", BASE + offset, size, value)


def until(offset: int, value: int, mask: int) -> Access:
    """Reads until these bits have come."""
    return Access("until", BASE + offset, 4, value, ~mask & 0xFFFF_FFFF)


# --- commands -----------------------------------------------------------------------------------


def _command(code: int, body: bytes, tag: int = 0x8001) -> bytes:
    return struct.pack(">HII", tag, 10 + len(body), code) + body


def _extend(random: Random) -> bytes:
    password = struct.pack(">IHBH", 0x4000_0009, 0, 0, 0)
    digest = struct.pack(">IH", 1, 0x000B) + random.randbytes(32)
    pcr = struct.pack(">II", random.randrange(16), len(password))
    return _command(0x182, pcr + password + digest, 0x8002)


def _read_pcr(random: Random) -> bytes:
    return _command(0x17E, struct.pack(">IHB", 1, 0x000B, 3) + random.randbytes(1) + b"\0\0")


def command(random: Random) -> bytes:
    """A TPM 2.0 command without randomness in its response, or none at all."""
    draw = random.random()
    if draw < 0.2:
        return _command(0x144, bytes(2))
    if draw < 0.4:
        return _extend(random)
    if draw < 0.6:
        return _read_pcr(random)
    if draw < 0.8:
        return _command(0x17A, struct.pack(">III", random.choice((0, 5)), 0, random.randrange(8)))
    return _command(random.getrandbits(32), random.randbytes(random.randrange(100)), random.getrandbits(16))


def pieces(random: Random, data: bytes) -> Iterator[tuple[int, int, int]]:
    """Offset, size and value of writes that make up some bytes, in order."""
    at = 0
    while at < len(data):
        size = random.choice([size for size in (1, 2, 4) if not at % size and at + size <= len(data)])
        yield at, size, int.from_bytes(data[at : at + size], "little")
        at += size


# --- CRB ----------------------------------------------------------------------------------------


LOC_STATE, LOC_CTRL, INTF_ID, REQ, STS, CANCEL, START, BUFFER = 0, 8, 0x30, 0x40, 0x44, 0x48, 0x4C, 0x80
CAPABILITIES: Final = 0x80300
READ_ONLY: Final = (0x00, 0x0C, 0x34, 0x44, 0x58, 0x5C, 0x60, 0x64, 0x68, 0x6C)


def _look_at_crb(random: Random) -> Access:
    size = random.choice((1, 2, 4))
    offset = random.randrange(0, 0x80, size)
    if offset & ~3 == INTF_ID:
        return rows.CRB_STATES.excuses(get(offset, size), CAPABILITIES >> 8 * (offset & 3))
    if offset & ~3 == CANCEL:
        return rows.CRB_STATES.excuses(get(offset, size))
    return get(offset, size)


def _nothing_to_crb(random: Random) -> Access:
    """A write that changes nothing."""
    return random.choice(
        (
            put(random.choice(READ_ONLY), random.getrandbits(32)),
            put(INTF_ID, random.getrandbits(32)),
            put(CANCEL, random.getrandbits(32)),
            put(LOC_CTRL, random.choice((0, 1, 3, 4, 5, 6, 7, 8, 0xF)), random.choice((1, 4))),
            put(REQ, random.choice((0, 3))),
            put(START, random.choice((0, 2, 0xFFFFFFFE))),
        )
    )


def _around_crb(random: Random) -> list[Access]:
    return [random.choice((_look_at_crb, _nothing_to_crb))(random) for _ in range(random.randrange(4))]


def crb(random: Random) -> Steps:
    """Commands of locality 0, cmdReady before each; the buffer is memory in between."""
    while True:
        yield [put(LOC_CTRL, 1, random.choice((1, 4))), get(LOC_STATE), put(REQ, 1), get(STS)]
        yield _around_crb(random)
        data = command(random)
        for offset, size, value in pieces(random, data):
            yield [put(BUFFER + offset, value, size)]
            if random.random() < 0.2:
                yield _around_crb(random)
        yield [get(BUFFER + offset, size) for offset, size, _ in pieces(random, data)]
        yield [put(START, 1), until(START, 0, 1)]
        yield _around_crb(random)
        response = bytes(random.randrange(10, MAX_LENGTH))
        yield [get(BUFFER + offset, size) for offset, size, _ in pieces(random, response)]
        if random.random() < 0.5:
            yield [put(REQ, 2), get(STS), *_around_crb(random)]
        if random.random() < 0.3:
            yield [put(LOC_CTRL, 2), get(LOC_STATE), get(0x0C)]


# --- FIFO ---------------------------------------------------------------------------------------


ACCESS, TIS_STS, FIFO, INTERFACE_ID, XFIFO = 0x00, 0x18, 0x24, 0x30, 0x80
READY, GO, RETRY, CANCEL_BIT = 0x40, 0x20, 0x02, 1 << 24
DATA_AVAIL: Final = 0x10
INTERRUPTS: Final = (0x08, 0x0C, 0x10, 0x14)


def _look_at_tis(random: Random, locality: int) -> Access:
    """Any register of a locality but the FIFO, which gives bytes."""
    size = random.choice((1, 2, 4))
    offset = random.choice((0x00, 0x18, 0x30, 0xF00, 0xF04, *INTERRUPTS, random.randrange(0, 0x1000, 4)))
    if offset == FIFO or XFIFO <= offset < XFIFO + 0x40:
        offset = TIS_STS
    access = get(locality * PAGE + offset + random.randrange(0, 4, size), size)
    if offset in INTERRUPTS:
        return rows.TIS_LOCALITY.excuses(access)
    if offset == TIS_STS and size == 1:
        return rows.TIS_LOCALITY.excuses(access, 0xFF * (access.address & 3 in {1, 2}))
    return access


def _nothing_to_tis(random: Random, active: int) -> Access:
    """A write that changes nothing."""
    page = active * PAGE
    return random.choice(
        (
            put(page + TIS_STS, random.choice((0, READY | GO, READY | RETRY, GO | RETRY, CANCEL_BIT))),
            put(page + random.choice((0x14, 0xF00, 0xF04, 0x40)), random.getrandbits(32)),
            put(page + INTERFACE_ID, random.choice((0, 0x20000, 0x80000))),
            put(page + ACCESS, random.choice((0x00, 0x01, 0x02, 0x04, 0x08, 0x80)), random.choice((1, 4))),
            put((active + 1) % 5 * PAGE + TIS_STS, random.getrandbits(32)),
            put((active + 1) % 5 * PAGE + FIFO, random.getrandbits(32)),
            put(4 * PAGE + random.choice((ACCESS, TIS_STS, FIFO)), random.getrandbits(8), 1),
        )
    )


def _around_tis(random: Random, active: int) -> list[Access]:
    other = random.randrange(5)
    looks = [_look_at_tis(random, random.choice((active, active, other))) for _ in range(random.randrange(3))]
    return looks + [_nothing_to_tis(random, active)] * random.getrandbits(1)


def _localities(random: Random) -> list[Access]:
    """Requests of all, seen from all; in the end one is active and none waits."""
    run = []
    for _ in range(random.randrange(10)):
        page = random.randrange(5) * PAGE
        request = random.choice((0x02, 0x02, 0x08, 0x10, 0x20, random.getrandbits(8)))
        run.append(put(page + ACCESS, request, 1))
        run += [get(locality * PAGE + ACCESS, random.choice((1, 4))) for locality in range(5)]
    run += [put(locality * PAGE + ACCESS, 0x30, 1) for locality in range(5)]
    return run + [get(locality * PAGE + ACCESS, 1) for locality in range(5)]


def _fifo(random: Random) -> int:
    return random.choice((FIFO, random.randrange(XFIFO, XFIFO + 0x40, 4)))


def tis(random: Random, *, several: bool) -> Steps:
    """Commands of one locality, or of all in turn; commandReady after each change."""
    while True:
        active = random.randrange(4) if several else 0
        if several:
            yield _localities(random)
        page = active * PAGE
        yield [put(page + ACCESS, 0x02, 1), get(page + ACCESS, 1), put(page + TIS_STS, READY)]
        yield _around_tis(random, active)
        for _, size, value in pieces(random, command(random)):
            yield [put(page + _fifo(random), value, size), get(page + TIS_STS)]
            if random.random() < 0.2:
                yield _around_tis(random, active)
        if random.random() < 0.1:
            yield [put(page + TIS_STS, READY), get(page + TIS_STS)]
            continue
        yield [put(page + TIS_STS, GO), until(page + TIS_STS, DATA_AVAIL, DATA_AVAIL)]
        for _ in range(random.choice((1, 1, 2))):
            for _ in range(random.randrange(MAX_LENGTH // 2)):
                size = random.choice((1, 2, 4))
                yield [get(page + _fifo(random), size), get(page + TIS_STS)]
            yield [put(page + TIS_STS, RETRY), *_around_tis(random, active)]
        yield [get(page + TIS_STS)]
        if random.random() < 0.5:
            yield [put(page + TIS_STS, READY), get(page + TIS_STS)]
