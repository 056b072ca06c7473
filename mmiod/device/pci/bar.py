"""Base address registers (6.2.5): regions that the guest places.

Numbers in comments are sections of the PCI Local Bus Specification 3.0.
"""

from __future__ import annotations

from attrs import define, field

from mmiod.device.declarations import Region
from mmiod.device.fields import Field
from mmiod.device.pci.capability import Function
from mmiod.device.pci.header import Command
from mmiod.device.policy import Stored
from mmiod.device.registers import Register
from mmiod.errors import DeclarationError
from mmiod.values import Space


@define(eq=False)
class Bar(Region):
    """A region that the guest places through base address register `number` (6.2.5).

    `length` is a power of two, at least 4 for I/O and 16 for memory; `wide` takes two
    registers for a 64-bit address.
    """

    number: int = field(default=0, kw_only=True)
    io: bool = field(default=False, kw_only=True)
    wide: bool = field(default=False, kw_only=True)
    prefetchable: bool = field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Check what a BAR can express."""
        super().__attrs_post_init__()
        if self.length & (self.length - 1) or self.length < (4 if self.io else 16):
            raise DeclarationError(
                f"BAR {self.number}: {self.length:#x} bytes is no power of two it can express"
            )
        if not 0 <= self.number <= (4 if self.wide else 5) or (self.io and (self.wide or self.prefetchable)):
            raise DeclarationError(f"BAR {self.number}: no such base address register")

    @property
    def space(self) -> Space:
        """Where the BAR decodes."""
        return Space.PIO if self.io else Space.MMIO

    @property
    def flags(self) -> int:
        """The read-only low bits (6.2.5.1)."""
        return int(self.io) | self.wide << 2 | self.prefetchable << 3

    def registers(self) -> list[Register]:
        """The one or two configuration registers."""
        low = 2 if self.io else 4
        first = max(self.length.bit_length() - 1, low)
        fields = {"TYPE": Field(0, low, access="r")}
        if first < 32:
            fields["ADDRESS"] = Field(first, 32 - first, access="rw")
        halves = [self._register(self.number, fields, self.flags)]
        if self.wide:
            first = max(first - 32, 0)
            halves.append(
                self._register(self.number + 1, {"ADDRESS": Field(first, 32 - first, access="rw")}, 0)
            )
        return halves

    @property
    def _enable(self) -> int:
        return int(Command.IO_SPACE if self.io else Command.MEMORY_SPACE)

    def _register(self, number: int, fields: dict[str, Field], reset: int) -> Register:
        """Nobody waits for it while it does not decode, as while it is being sized."""
        enable = self._enable
        silent = Stored(("command",), lambda function: not function.values["command"] & enable)
        register = Register(
            0x10 + 4 * number,
            size=4,
            access="reserved",
            fields=fields,
            reset=reset,
            posted=silent,
            echoed=True,
        )
        register.name = f"bar{number}"
        register.writer = "place_regions"
        return register

    def address(self, function: Function) -> int | None:
        """Where the guest placed the BAR, None if it does not decode."""
        if not function.values["command"] & self._enable:
            return None
        base = function.values[f"bar{self.number}"] & ~(3 if self.io else 15)
        if self.wide:
            base |= function.values[f"bar{self.number + 1}"] << 32
        # While it is being sized it holds all ones: beyond the ports, or up to the last byte
        # of memory.  It may not decode there.
        limit = 1 << 16 if self.io else (1 << 64 if self.wide else 1 << 32) - 1
        return base if base > 0 and base + self.length <= limit else None
