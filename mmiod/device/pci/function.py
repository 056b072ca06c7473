"""A PCI function: a type 0 configuration header, BARs, capabilities and INTx.

Follows the PCI Local Bus Specification 3.0, chapter 6.  Numbers in comments are its
sections.  Not here: an expansion ROM, BIST.
"""

from __future__ import annotations

from typing import ClassVar, Final

from mmiod.device.declarations import IrqOutput, Region
from mmiod.device.device import Device
from mmiod.device.fields import Field
from mmiod.device.pci.bar import Bar
from mmiod.device.pci.capability import Capability
from mmiod.device.pci.header import Command, Identity, Status
from mmiod.device.pci.messages import MessageCapability
from mmiod.device.registers import Register
from mmiod.errors import DeclarationError

CONFIG_LENGTH: Final = 256
_IMPLEMENTED_COMMAND: Final = (
    Command.IO_SPACE
    | Command.MEMORY_SPACE
    | Command.BUS_MASTER
    | Command.SERR_ENABLE
    | Command.INTERRUPT_DISABLE
)
_ERRORS: Final = Field(11, 5, access="w1c")


class PciFunction(Device):
    """A PCI function; the machine file gives its slot, a host bridge calls `config_space`."""

    identity: ClassVar[Identity] = Identity(0xFFFF, 0xFFFF, 0)
    multifunction: ClassVar[bool] = False
    """Set in function 0 of a device that has further functions."""
    interrupt_pin_number: ClassVar[int] = 0
    """1..4 for INTA..INTD, 0 without an interrupt."""

    config_space = Region(CONFIG_LENGTH, valid=(1, 4), implemented=(1, 4), published=4)
    intx = IrqOutput()

    vendor_id = Register(0x00, size=2, access="r", constant=True, region=config_space)
    device_id = Register(0x02, size=2, access="r", constant=True, region=config_space)
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
    revision_id = Register(0x08, access="r", constant=True, region=config_space)
    class_code = Register(0x09, size=3, access="r", constant=True, region=config_space)
    cache_line_size = Register(0x0C, region=config_space)
    latency_timer = Register(0x0D, access="r", region=config_space)
    header_type = Register(0x0E, access="r", constant=True, region=config_space)
    bist = Register(0x0F, access="r", region=config_space)
    subsystem_vendor_id = Register(0x2C, size=2, access="r", constant=True, region=config_space)
    subsystem_id = Register(0x2E, size=2, access="r", constant=True, region=config_space)
    capabilities_pointer = Register(0x34, access="r", constant=True, region=config_space)
    interrupt_line = Register(0x3C, region=config_space)
    interrupt_pin = Register(0x3D, access="r", constant=True, region=config_space)

    bars: ClassVar[tuple[Bar, ...]] = ()
    capabilities: ClassVar[tuple[Capability, ...]] = ()
    """In the order of the list, which is that of their declaration."""

    def __init_subclass__(cls, **rest: object) -> None:
        """Give every declared BAR and capability its registers."""
        bars = tuple(value for value in vars(cls).values() if isinstance(value, Bar))
        added = tuple(value for value in vars(cls).values() if isinstance(value, Capability))
        cls.bars += bars
        cls.capabilities += added
        for bar in bars:
            for register in bar.registers():
                cls._declare(register)
        for capability in added:
            for register in capability.registers():
                cls._declare(register)
        if added:
            # Anew, as what was the last one before has a successor now.
            following = [capability.offset for capability in cls.capabilities[1:]]
            for capability, offset in zip(cls.capabilities, [*following, 0], strict=True):
                cls._declare(capability.header(offset))
        super().__init_subclass__(**rest)

    @classmethod
    def _declare(cls, register: Register) -> None:
        if register.name in vars(cls):
            raise DeclarationError(f"two declarations of {cls.__name__} make {register.name}")
        register.region = register.region or PciFunction.config_space
        setattr(cls, register.name, register)

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

    @capabilities_pointer.value
    def _first_capability(self) -> int:
        return self.capabilities[0].offset if self.capabilities else 0

    @interrupt_pin.value
    def _interrupt_pin(self) -> int:
        return self.interrupt_pin_number

    @command.on_write
    def _command_written(self, value: int) -> None:  # noqa: ARG002
        self.place_regions()
        self.capability_written()

    def place_regions(self, _value: int = 0) -> None:
        """Put the BARs where the registers say; override to place further regions."""
        for bar in self.bars:
            self.context.place(bar, bar.space, bar.address(self))

    def reset(self) -> None:
        """Reset as any device; the BARs leave the map."""
        super().reset()
        if self.capabilities:
            self.status |= Status.CAPABILITIES
        self.place_regions()

    def on_restore(self) -> None:
        """The BARs return to where they were."""
        self.place_regions()

    def on_reload(self) -> None:
        """The class may have other BARs now."""
        self.place_regions()

    def set_intx(self, level: bool) -> None:
        """Drive the function's interrupt; the command register may hold it back (6.2.2)."""
        pending = int(Status.INTERRUPT)
        self.status = self.status | pending if level else self.status & ~pending
        self._drive_intx()

    def send_message(self, vector: int = 0) -> bool:
        """Raise an interrupt by MSI-X or MSI, as the guest enabled; False if it wants INTx."""
        for capability in self._enabled_messages():
            capability.send(self, vector)
            return True
        return False

    def capability_written(self, _value: int = 0) -> None:
        """After a write of the command register or of a capability's: let go what it held."""
        for capability in self.capabilities:
            capability.changed(self)
        self._drive_intx()

    def _enabled_messages(self) -> list[MessageCapability]:
        return [
            capability
            for capability in self.capabilities
            if isinstance(capability, MessageCapability) and capability.enabled(self)
        ]

    def _drive_intx(self) -> None:
        """With messages enabled a function does not use its pin (6.8.1.3)."""
        held = self.command & Command.INTERRUPT_DISABLE or self._enabled_messages()
        self.intx.set_level(bool(self.status & Status.INTERRUPT) and not held)
