"""PCI Express functions: 4 KiB of configuration space and the capability that says so.

Numbers in comments are sections of the PCI Express Base Specification 3.0.  Not here:
links (a function of the root complex has none), error reporting, function-level reset,
extended capabilities; what is at 100h says that there are none (7.9.1).
"""

from __future__ import annotations

import enum
from typing import ClassVar, Final

from attrs import define, field

from mmiod.device.declarations import Region
from mmiod.device.fields import Field
from mmiod.device.pci.capability import Capability
from mmiod.device.pci.function import PciFunction
from mmiod.device.registers import Register

EXTENDED_LENGTH: Final = 4096
_VERSION: Final = 2


class PortType(enum.IntEnum):
    """Device/port type (7.8.2)."""

    ENDPOINT = 0
    ROOT_COMPLEX_INTEGRATED_ENDPOINT = 9


@define(eq=False)
class PciExpress(Capability):
    """The structure of 7.8, version 2, 60 bytes; on bus 0 an endpoint is integrated (1.3.2.3)."""

    number: ClassVar[int] = 0x10

    port_type: PortType = field(default=PortType.ROOT_COMPLEX_INTEGRATED_ENDPOINT, kw_only=True)

    def registers(self) -> list[Register]:
        """All others, those of links, slots and root ports, read 0."""
        control = {
            "ERROR_REPORTING": Field(0, 4, access="rw"),
            "RELAXED_ORDERING": Field(4, access="rw"),
            "MAX_PAYLOAD": Field(5, 3, access="rw"),
            "NO_SNOOP": Field(11, access="rw"),
            "MAX_READ_REQUEST": Field(12, 3, access="rw"),
        }
        status = {"ERRORS_DETECTED": Field(0, 4, access="w1c"), "TRANSACTIONS_PENDING": Field(5, access="r")}
        role_based_errors = 1 << 15
        return [
            self.register("capabilities", 2, 2, reset=self.port_type << 4 | _VERSION),
            self.register("device_capabilities", 4, 4, reset=role_based_errors),
            # Relaxed ordering and no snoop are on, read requests have up to 512 bytes (7.8.4).
            self.register("device_control", 8, 2, reset=0x2810, fields=control),
            self.register("device_status", 10, 2, fields=status),
        ]


class PcieFunction(PciFunction):
    """A function of a root complex; its other capabilities begin at 7Ch or later."""

    config_space = Region(EXTENDED_LENGTH, valid=(1, 4), implemented=(1, 4))
    express = PciExpress(0x40)
