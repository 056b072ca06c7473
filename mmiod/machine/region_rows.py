"""The rows of a device: of its regions, where they are placed now.

A row is a register that its author declared so (`mmiod.device.policy`), where its region is
placed now; a word of a region that is published as a whole; or a window into another space.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Final

from mmiod.device import Register
from mmiod.device.dispatch import RegisterAnswerer
from mmiod.device.policy import Copies
from mmiod.machine.rows import Kind, Row
from mmiod.machine.sizes import split
from mmiod.values import READ, WRITE, Direction, Space

if TYPE_CHECKING:
    from mmiod.device import Device, Region
    from mmiod.machine.address_map import Claim

MAX_POSTED: Final = 64
"""Registers of one device to which writes are posted: as many as a row's AFFECTED has bits."""
SIZES: Final = (1, 2, 4, 8)

Claims = Mapping[tuple[str, str], tuple[Space, "Claim"]]
"""Which region is where, by device and region."""
Parted = tuple[list[Row], list[Row], list[Row]]
"""A region's: writes that are posted, writes that are lost, and all others."""
Made = dict[str, tuple["Device", Space, int, Parted]]
"""A device's rows by region, and what they were made for: making them takes longer than entering them."""


def rows_of(device: Device, name: str, claims: Claims, made: Made) -> list[Row]:
    """What a device lets pass, posted writes first: at most `MAX_POSTED` of those that somebody waits for."""
    writes, lost, others = list[Row](), list[Row](), list[Row]()
    for (owner, region), (space, claim) in claims.items():
        if owner == name and claim.width == 1:
            parted = rows_at(device, device.regions[region], space, claim.base, made)
            writes += parted[0]
            lost += parted[1]
            others += parted[2]
    return writes[:MAX_POSTED] + lost + others


def has_rows(device: Device, region: Region, made: Made) -> bool:
    """Whether a region has rows, wherever it is."""
    known = made.get(region.name)
    if known is None or known[0] is not device:
        return any(rows_at(device, region, Space.MMIO, 0, made))
    return any(known[3])


def rows_at(device: Device, region: Region, space: Space, base: int, made: Made) -> Parted:
    """A region's, as they were made before, if nothing has moved."""
    known = made.get(region.name)
    if known is None or known[0] is not device or known[1:3] != (space, base):
        parted: Parted = ([], [], [])
        for row in _of_region(device, region, space, base):
            parted[2 if row.kind is not Kind.WRITE else 0 if row.parts else 1].append(row)
        known = made[region.name] = (device, space, base, parted)
    return known[3]


def _of_region(device: Device, region: Region, space: Space, base: int) -> Iterator[Row]:
    window = region.window
    if window is not None and window.latch:
        latch = ((0, device.declared[window.latch]),)
        yield Row(Kind.CONFIG_WINDOW, space, base, 8, latch, length=region.length, target=window.space)
    elif window is not None:
        yield Row(Kind.WINDOW, space, base, 8, hole=window.base, length=region.length, target=window.space)
    answerer = device.answerers.get(region.name)
    if isinstance(answerer, RegisterAnswerer):
        for register in device.declared.values():
            if register.region is None or register.region.name == region.name:
                yield from _single(answerer, register, space, base)
        yield from _words(answerer, region.length, space, base)


def _single(answerer: RegisterAnswerer, register: Register, space: Space, base: int) -> Iterator[Row]:
    """Rows of a register that is declared so, one for each copy of it."""
    region, size = answerer.region, register.size
    whole = size in SIZES and split(region, register.offset, size) == [(register.offset, size)]
    if not whole or size < region.implemented[0]:
        return
    hole = int.from_bytes(bytes((region.hole,)) * size, "little")
    for kind in _kinds(register):
        least = _least(answerer, register, WRITE if kind is Kind.WRITE else READ)
        parts = ((0, register),) if kind is Kind.WRITE or register.allows(READ) else ()
        for copy in range(_copies(register, region)):
            at = base + copy * region.stride + register.offset
            yield Row(kind, space, at, size, parts, hole, least, copy)


def _copies(register: Register, region: Region) -> int:
    there = region.length // region.stride if region.stride else 1
    return min(there, register.when.number) if isinstance(register.when, Copies) else there


def _kinds(register: Register) -> Iterator[Kind]:
    if register.posted is not False:
        yield Kind.WRITE
    if register.published is not False or (register.counter is not None and not register.reads_change):
        yield Kind.READ


def _least(answerer: RegisterAnswerer, register: Register, direction: Direction) -> int:
    """The size of the parts that the region lets through; its own size if others share its bytes."""
    shared = any(
        found.whole
        for offset in range(register.offset, register.end)
        for found in answerer.candidates(offset, direction)
    )
    return register.size if shared else min(register.size, _smallest(answerer.region))


def _smallest(region: Region) -> int:
    return max(region.valid[0], region.implemented[0])


def _words(answerer: RegisterAnswerer, length: int, space: Space, base: int) -> Iterator[Row]:
    """Rows of a region that is published in words; where no register takes a write, it is lost."""
    region = answerer.region
    size = region.published
    hole = int.from_bytes(bytes((region.hole,)) * size, "little")
    for offset in range(0, length, size) if size else ():
        found = {each: None for at in range(offset, offset + size) for each in answerer.candidates(at, READ)}
        parts = tuple((each.offset - offset, each) for each in found if isinstance(each, Register))
        if len(parts) == len(found) and not any(each.reads_change or each.whole for _, each in parts):
            yield Row(Kind.READ, space, base + offset, size, parts, hole, _smallest(region), word=True)
        if not any(answerer.candidates(at, WRITE) for at in range(offset, offset + size)):
            yield Row(Kind.WRITE, space, base + offset, size, (), hole, _smallest(region), word=True)
