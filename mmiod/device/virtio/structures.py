"""Where the structures of virtio over PCI are: vendor capabilities (VIRTIO 1.2, 4.1.4)."""

from __future__ import annotations

import enum
from typing import ClassVar, Final

from attrs import define, field

from mmiod.device.pci import Capability
from mmiod.device.registers import Register
from mmiod.values import ones

MULTIPLIER: Final = 4
"""Bytes from one queue's doorbell to the next one's (4.1.4.4)."""


class Kind(enum.IntEnum):
    """The structures (4.1.4)."""

    COMMON = 1
    NOTIFY = 2
    ISR = 3
    DEVICE = 4
    PCI = 5


@define(eq=False)
class Structure(Capability):
    """Says where in BAR 0 a structure is (4.1.4); 16 bytes, or 20."""

    number: ClassVar[int] = 0x09

    kind: Kind = field(kw_only=True)
    at: int = field(default=0, kw_only=True)
    length: int = field(default=0, kw_only=True)

    def registers(self) -> list[Register]:
        """What struct virtio_pci_cap has, and what is behind it."""
        found = [
            self.register("length", 2, 1, reset=20 if self.kind in {Kind.NOTIFY, Kind.PCI} else 16),
            self.register("type", 3, 1, reset=self.kind),
            self.register("bar", 4, 1, mask=0xFF if self.kind is Kind.PCI else 0),
        ]
        if self.kind is Kind.PCI:
            found += self._window()
        else:
            found += [
                self.register("at", 8, 4, reset=self.at),
                self.register("size", 12, 4, reset=self.length),
            ]
        if self.kind is Kind.NOTIFY:
            found.append(self.register("multiplier", 16, 4, reset=MULTIPLIER))
        return found

    def _window(self) -> list[Register]:
        """4.1.4.9: the driver says where, and finds it in the last four bytes."""
        data = self.register("data", 16, 4, mask=ones(4))
        data.reader, data.writer = "read_window", "write_window"
        return [self.register("at", 8, 4, mask=ones(4)), self.register("size", 12, 4, mask=ones(4)), data]
