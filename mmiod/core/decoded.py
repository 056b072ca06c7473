"""Exits that the hypervisor decoded: elements of one size, one by one or as a batch."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from mmiod.core.bus import Run, check_msr, transact
from mmiod.core.strings import room_of
from mmiod.machine.address_map import LENGTHS
from mmiod.machine.waist import Named
from mmiod.values import READ, DecodedExit, Fault, Forward, Space, Values
from mmiod.x86 import GuestFault

if TYPE_CHECKING:
    from mmiod.core.translation import Platform
    from mmiod.machine.machine import Machine

Reading = Generator[Named, int | None, bytes]
"""Yields the host it waits for, as `Waiting` does; returns the elements that were read."""


def run_decoded(machine: Machine, exit_: DecodedExit, platform: Platform) -> Run:
    """Make the accesses; gives VALUES, FORWARD where the hypervisor answers, FAULT for an MSR."""
    address = exit_.address & ~platform.shared_mask if exit_.space is Space.MMIO else exit_.address
    if _forwarded(machine, exit_, address):
        return Forward()
    try:
        if exit_.count == 1:
            return Values((yield from _element(machine, exit_, address, 0)))
        return Values((yield from _string(machine, exit_, address)))
    except GuestFault as fault:
        return Fault(fault.vector, fault.error_code)


def _forwarded(machine: Machine, exit_: DecodedExit, address: int) -> bool:
    """Whether any of it is the hypervisor's to answer, which then answers all of it."""
    found, length = machine.find(exit_.space, address), exit_.size
    if exit_.stride:
        length *= exit_.count
    start = address - length + exit_.size if exit_.stride < 0 else address
    if found.start <= start and start + length <= found.end:
        return found.forwards
    pieces = machine.pieces(exit_.space, start % LENGTHS[exit_.space], length)
    return any(piece.forwards for piece, _, _ in pieces)


def _element(machine: Machine, exit_: DecodedExit, address: int, index: int) -> Reading:
    """One element: what was read."""
    size, direction = exit_.size, exit_.direction
    value = int.from_bytes(exit_.data[index * size : (index + 1) * size], "little")
    if exit_.space is Space.MSR:
        check_msr(machine, address, direction, value)
    answer = yield from transact(machine, exit_.space, address, size, direction, value)
    return answer.to_bytes(size, "little") if direction == READ else b""


def _string(machine: Machine, exit_: DecodedExit, start: int) -> Reading:
    """Many elements: what was read."""
    data, index, alone = bytearray(), 0, 0
    stride = exit_.stride * exit_.size
    while index < exit_.count:
        address = start + stride * index & LENGTHS[exit_.space] - 1
        read, moved = b"", 0
        if index >= alone:
            room = _room(machine, exit_, address, index)
            read, moved = _batch(machine, exit_, address, index, room)
            # What was refused goes one by one; so does the element at which a batch stopped.
            alone = index + (moved + 1 if moved else room)
        if not moved:
            read, moved = (yield from _element(machine, exit_, address, index)), 1
        data += read
        index += moved
    return bytes(data)


def _room(machine: Machine, exit_: DecodedExit, address: int, index: int) -> int:
    """How many of the elements from `index` on are within one range."""
    found = machine.find(exit_.space, address)
    return min(exit_.count - index, room_of(address, exit_.size, exit_.stride, found))


def _batch(machine: Machine, exit_: DecodedExit, address: int, index: int, count: int) -> tuple[bytes, int]:
    """What was read, and how many elements were moved."""
    size = exit_.size
    if count < 2 or exit_.space is Space.MSR:
        return b"", 0
    if exit_.direction == READ:
        read = machine.read_batch(exit_.space, address, size, count, exit_.stride)
        return read, len(read) // size
    data = exit_.data[index * size : (index + count) * size]
    return b"", machine.write_batch(exit_.space, address, size, data, exit_.stride)
