"""What PCI functions share: a type 0 configuration header, BARs and INTx.

Follows the PCI Local Bus Specification 3.0, chapter 6.  Numbers in comments are its
sections.  Not here yet: capabilities, an expansion ROM, BIST.

    class Edu(PciFunction):
        identity = Identity(vendor=0x1234, device=0x11E8, class_code=0x00FF00)
        interrupt_pin_number = 1
        registers = Bar(0x100, number=0)
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final

from attrs import define, field, frozen

from mmiod.device.declarations import IrqOutput, Region
from mmiod.device.device import Device
from mmiod.device.registers import Field, Register
from mmiod.errors import DeclarationError
from mmiod.values import Space

CONFIG_LENGTH: Final = 256


@frozen
class Identity:
    """What a function calls itself (6.2.1): IDs, 24-bit class code, revision, subsystem."""

    vendor: int
    device: int
    class_code: int
    revision: int = 0
    subsystem_vendor: int = 0
    subsystem: int = 0


class Command(enum.IntFlag):
    """The command register (6.2.2)."""

    IO_SPACE = 1 << 0
    MEMORY_SPACE = 1 << 1
    BUS_MASTER = 1 << 2
    SPECIAL_CYCLES = 1 << 3
    WRITE_INVALIDATE = 1 << 4
    PALETTE_SNOOP = 1 << 5
    PARITY_RESPONSE = 1 << 6
    SERR_ENABLE = 1 << 8
    FAST_BACK_TO_BACK = 1 << 9
    INTERRUPT_DISABLE = 1 << 10


_IMPLEMENTED_COMMAND: Final = (
    Command.IO_SPACE
    | Command.MEMORY_SPACE
    | Command.BUS_MASTER
    | Command.PARITY_RESPONSE
    | Command.SERR_ENABLE
    | Command.INTERRUPT_DISABLE
)


class Status(enum.IntFlag):
    """The status register (6.2.3); the error bits are cleared by writing 1."""

    INTERRUPT = 1 << 3
    CAPABILITIES = 1 << 4
    FAST_BACK_TO_BACK = 1 << 7
    MASTER_PARITY_ERROR = 1 << 8
    DEVSEL_MEDIUM = 1 << 9
    SIGNALED_TARGET_ABORT = 1 << 11
    RECEIVED_TARGET_ABORT = 1 << 12
    RECEIVED_MASTER_ABORT = 1 << 13
    SIGNALED_SYSTEM_ERROR = 1 << 14
    DETECTED_PARITY_ERROR = 1 << 15


_ERRORS: Final = Field(11, 5, access="w1c")


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
        halves = [_bar_register(self.number, fields, self.flags)]
        if self.wide:
            first = max(first - 32, 0)
            halves.append(
                _bar_register(self.number + 1, {"ADDRESS": Field(first, 32 - first, access="rw")}, 0)
            )
        return halves

    def address(self, function: PciFunction) -> int | None:
        """Where the guest placed the BAR, None if it does not decode."""
        enable = Command.IO_SPACE if self.io else Command.MEMORY_SPACE
        if not function.command & enable:
            return None
        base = function.values[f"bar{self.number}"] & ~(3 if self.io else 15)
        if self.wide:
            base |= function.values[f"bar{self.number + 1}"] << 32
        # While it is being sized it holds all ones: beyond the ports, or up to the last byte
        # of memory.  It may not decode there.
        limit = 1 << 16 if self.io else (1 << 64 if self.wide else 1 << 32) - 1
        return base if base > 0 and base + self.length <= limit else None


def _bar_register(number: int, fields: dict[str, Field], reset: int) -> Register:
    register = Register(0x10 + 4 * number, size=4, access="reserved", fields=fields, reset=reset)
    register.__set_name__(PciFunction, f"bar{number}")
    register.writer = "place_regions"
    return register


class PciFunction(Device):
    """A PCI function; the machine file gives its slot, a host bridge calls `config_space`."""

    identity: ClassVar[Identity] = Identity(0xFFFF, 0xFFFF, 0)
    multifunction: ClassVar[bool] = False
    """Set in function 0 of a device that has further functions."""
    interrupt_pin_number: ClassVar[int] = 0
    """1..4 for INTA..INTD, 0 without an interrupt."""

    config_space = Region(CONFIG_LENGTH, valid=(1, 4), implemented=(1, 4))
    intx = IrqOutput()

    vendor_id = Register(0x00, size=2, access="r", region=config_space)
    device_id = Register(0x02, size=2, access="r", region=config_space)
    command = Register(0x04, size=2, mask=int(_IMPLEMENTED_COMMAND), fields=Command, region=config_space)
    status = Register(
        0x06,
        size=2,
        access="r",
        fields={
            "INTERRUPT": Field(3),
            "CAPABILITIES": Field(4),
            "MASTER_PARITY_ERROR": Field(8, access="w1c"),
            "DEVSEL": Field(9, 2),
            "ERRORS": _ERRORS,
        },
        region=config_space,
    )
    revision_id = Register(0x08, access="r", region=config_space)
    class_code = Register(0x09, size=3, access="r", region=config_space)
    cache_line_size = Register(0x0C, region=config_space)
    latency_timer = Register(0x0D, region=config_space)
    header_type = Register(0x0E, access="r", region=config_space)
    bist = Register(0x0F, access="r", region=config_space)
    subsystem_vendor_id = Register(0x2C, size=2, access="r", region=config_space)
    subsystem_id = Register(0x2E, size=2, access="r", region=config_space)
    interrupt_line = Register(0x3C, region=config_space)
    interrupt_pin = Register(0x3D, access="r", region=config_space)

    bars: ClassVar[tuple[Bar, ...]] = ()

    def __init_subclass__(cls, **rest: object) -> None:
        """Give every declared BAR its configuration registers."""
        bars = [value for value in vars(cls).values() if isinstance(value, Bar)]
        cls.bars = (*cls.bars, *bars)
        for bar in bars:
            for register in bar.registers():
                if register.name in vars(cls):
                    raise DeclarationError(f"two BARs of {cls.__name__} use {register.name}")
                register.region = PciFunction.config_space
                setattr(cls, register.name, register)
        super().__init_subclass__(**rest)

    @vendor_id.value
    def _vendor_id(self) -> int:
        return self.identity.vendor

    @device_id.value
    def _device_id(self) -> int:
        return self.identity.device

    @revision_id.value
    def _revision_id(self) -> int:
        return self.identity.revision

    @class_code.value
    def _class_code(self) -> int:
        return self.identity.class_code

    @header_type.value
    def _header_type(self) -> int:
        return self.multifunction << 7

    @subsystem_vendor_id.value
    def _subsystem_vendor_id(self) -> int:
        return self.identity.subsystem_vendor

    @subsystem_id.value
    def _subsystem_id(self) -> int:
        return self.identity.subsystem

    @interrupt_pin.value
    def _interrupt_pin(self) -> int:
        return self.interrupt_pin_number

    @command.on_write
    def _command_written(self, value: int) -> None:  # noqa: ARG002
        self.place_regions()
        self._drive_intx()

    def place_regions(self, _value: int = 0) -> None:
        """Put the BARs where the registers say; override to place further regions."""
        for bar in self.bars:
            self.context.place(bar, bar.space, bar.address(self))

    def reset(self) -> None:
        """Reset as any device; the BARs leave the map."""
        super().reset()
        self.place_regions()

    def on_restore(self) -> None:
        """The BARs return to where they were."""
        self.place_regions()

    def set_intx(self, level: bool) -> None:
        """Drive the function's interrupt; the command register may hold it back (6.2.2)."""
        pending = int(Status.INTERRUPT)
        self.status = self.status | pending if level else self.status & ~pending
        self._drive_intx()

    def _drive_intx(self) -> None:
        held = self.command & Command.INTERRUPT_DISABLE
        self.intx.set_level(bool(self.status & Status.INTERRUPT) and not held)
