"""One access of a vCPU to devices: routed, cut where another range begins, waited for.

A device that makes an access wait yields its host: see `mmiod.core.run`.  So does a break its
stop (`mmiod.machine.breaks`), before the access is made.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING

from mmiod.device import Pending
from mmiod.machine.address_map import MSR_BYTES
from mmiod.machine.waist import Busy, Named
from mmiod.values import WRITE, Completion, Direction, Forward, Space, ones
from mmiod.x86 import GuestFault, Suspend
from mmiod.x86.faults import GP

if TYPE_CHECKING:
    from mmiod.machine.address_map import Range
    from mmiod.machine.machine import Machine

Waiting = Generator[Named, int | None, int]
"""Yields the host or the stop it waits for, is sent what that answered, returns a value."""
Run = Generator[Named, int | None, Completion]
"""The same of a whole exit."""


def transact(
    machine: Machine,
    space: Space,
    address: int,
    size: int,
    direction: Direction,
    value: int,
    *,
    stops: bool = True,
) -> Waiting:
    """One access, low to high where it covers several ranges; gives the value of a read.

    Without `stops` it is one that was held up already, and does not stop.
    """
    whole = machine.find(space, address)
    if address + size <= whole.end:
        return (yield from access(machine, whole, address, size, direction, value, stops=stops))
    total = 0
    for found, at, taken in machine.pieces(space, address, size):
        shift = 8 * (at - address)
        piece = value >> shift & ones(taken)
        part = yield from access(machine, found, at, taken, direction, piece, stops=stops)
        total |= part << shift
    return total


def access(
    machine: Machine,
    found: Range,
    address: int,
    size: int,
    direction: Direction,
    value: int,
    *,
    stops: bool = True,
) -> Waiting:
    """One access within one range."""
    wanted = stops and machine.breaks.wishes
    if wanted and (stop := machine.breaks.meet(found, address, size, direction, value)):
        yield stop
        if stop.answer is not None:
            return machine.breaks.answered(stop)
        found = machine.find(found.space, address)
        if address + size > found.end:
            return (yield from transact(machine, found.space, address, size, direction, value, stops=False))
    answer = machine.access(found, address, size, direction, value)
    while not isinstance(answer, int):
        assert found.claim is not None, "only a device makes anybody wait"
        settled = yield found.claim.host
        if isinstance(answer, Pending):
            assert settled is not None, "a device that owes an answer settles with one"
            return settled
        found = machine.find(found.space, address)  # the map may have moved meanwhile
        if address + size > found.end:
            return (yield from transact(machine, found.space, address, size, direction, value, stops=False))
        answer = machine.access(found, address, size, direction, value)
    return answer


def enqueue(machine: Machine, found: Range, address: int, command: bytes) -> Waiting:
    """Offer a command to a device until it owes nothing else; gives whether it was taken."""
    value = int.from_bytes(command, "little")
    if machine.breaks.wishes and (stop := machine.breaks.meet(found, address, len(command), WRITE, value)):
        yield stop
        if stop.answer is not None:
            machine.breaks.answered(stop)
            return int(stop.answer != 0)
        found = machine.find(found.space, address)
    while isinstance(taken := machine.enqueue(found, address, command), Busy):
        assert found.claim is not None, "only a device makes anybody wait"
        yield found.claim.host
        found = machine.find(found.space, address)
    return int(taken)


def check_msr(machine: Machine, number: int, direction: Direction, value: int) -> None:
    """Raise what an access of an MSR that is not here comes to, or is the hypervisor's."""
    found = machine.find(Space.MSR, number)
    if found.forwards:
        raise Suspend(Forward())
    if not machine.has_msr(number, direction, value):
        if found.claim is None:
            machine.access(found, number, MSR_BYTES, direction, value)  # for the record
        raise GuestFault(GP, 0)
