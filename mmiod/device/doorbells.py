"""Doorbells: writes of a known value that tell a device to look, and that nobody waits for.

    notify = Register(0x50, size=4, access="w", doorbell=True, rings=(0, 1))

On KVM such a write makes no exit: the kernel signals an eventfd, and the device gets the write
when that is seen.  It comes behind all that its vCPU did before, perhaps behind some of what
that did since; several may come as one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from mmiod.device.registers import Register


@frozen
class Doorbell:
    """A write of `value`, `size` bytes at `offset` of a region."""

    region: str
    offset: int
    size: int
    value: int


def declared_doorbells(registers: Mapping[str, Register], only: str) -> Iterator[Doorbell]:
    """Those of registers that say with what they are rung; `only` is the region of those that name none."""
    for register in registers.values():
        region = register.region.name if register.region is not None else only
        for value in register.rings:
            yield Doorbell(region, register.offset, register.size, value)
