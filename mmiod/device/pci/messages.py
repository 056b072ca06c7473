"""Message-signalled interrupts: MSI (6.8.1) and MSI-X (6.8.2).

Numbers in comments are sections of the PCI Local Bus Specification 3.0.  A message is a
write by the function, so none leaves while bus mastering is off; where there are pending
bits it waits there.

    registers = Bar(0x1000, number=0)
    msi = Msi(0x80, vectors=4, masking=True)
    msix = MsiX(0xA0, vectors=8, table=(registers, 0x800), pending=(registers, 0xC00))

    if not self.send_message(2):
        self.set_intx(True)
"""

from __future__ import annotations

from typing import ClassVar, Final

from attrs import define, field

from mmiod.device.fields import Field
from mmiod.device.pci.bar import Bar
from mmiod.device.pci.capability import Capability, Function, named
from mmiod.device.pci.header import Command
from mmiod.device.registers import Register
from mmiod.errors import DeclarationError

ADDRESS_MASK: Final = 0xFFFF_FFFC
ALL: Final = 0xFFFF_FFFF


class MessageCapability(Capability):
    """What MSI and MSI-X have in common; a function uses the one that the guest enables."""

    def enabled(self, function: Function) -> bool:
        """Whether the guest wants messages from it instead of INTx."""
        raise NotImplementedError

    def send(self, function: Function, vector: int) -> None:
        """Let an interrupt message leave, at once or when nothing holds it any more."""
        raise NotImplementedError


MSI_CONTROL: Final = {
    "ENABLE": Field(0, access="rw"),
    "MULTIPLE_CAPABLE": Field(1, 3, access="r"),
    "MULTIPLE_ENABLE": Field(4, 3, access="rw"),
    "ADDRESS_64": Field(7, access="r"),
    "MASKING": Field(8, access="r"),
}
"""Message control of MSI (6.8.1.3)."""


@define(eq=False)
class Msi(MessageCapability):
    """`vectors` is a power of two up to 32; `wide` has 64-bit addresses, `masking` a mask per vector."""

    number: ClassVar[int] = 0x05

    vectors: int = field(default=1, kw_only=True)
    wide: bool = field(default=True, kw_only=True)
    masking: bool = field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Check what the author wrote."""
        super().__attrs_post_init__()
        if self.vectors not in {1, 2, 4, 8, 16, 32}:
            raise DeclarationError(f"MSI with {self.vectors} vectors: a power of two up to 32")

    def registers(self) -> list[Register]:
        """The four forms of 6.8.1."""
        capable = self.vectors.bit_length() - 1 << 1 | self.wide << 7 | self.masking << 8
        found = [
            self.register("control", 2, 2, reset=capable, fields=MSI_CONTROL),
            self.register("address", 4, 4, mask=ADDRESS_MASK),
        ]
        if self.wide:
            found.append(self.register("address_high", 8, 4, mask=ALL))
        data = 12 if self.wide else 8
        found.append(self.register("data", data, 2, mask=0xFFFF))
        if self.masking:
            found.append(self.register("mask", data + 4, 4, mask=(1 << self.vectors) - 1))
            found.append(self.register("pending", data + 8, 4))
        return found

    def enabled(self, function: Function) -> bool:
        """MSI Enable."""
        return bool(MSI_CONTROL["ENABLE"].of(self.value(function, "control")))

    def send(self, function: Function, vector: int) -> None:
        """With fewer vectors allocated than there are, several share one (6.8.3.4)."""
        vector %= self._allocated(function)
        masked = self.masking and self.value(function, "mask") >> vector & 1
        if not masked and _masters(function):
            self._write(function, vector)
        elif self.masking:
            self.store(function, "pending", self.value(function, "pending") | 1 << vector)

    def changed(self, function: Function) -> None:
        """What is pending and not held any more leaves, lowest vector first."""
        if not (self.masking and self.enabled(function) and _masters(function)):
            return
        pending, allocated = self.value(function, "pending"), self._allocated(function)
        ready = pending & ~self.value(function, "mask") & (1 << allocated) - 1
        self.store(function, "pending", pending & ~ready)
        for vector in range(allocated):
            if ready >> vector & 1:
                self._write(function, vector)

    def _allocated(self, function: Function) -> int:
        return min(1 << MSI_CONTROL["MULTIPLE_ENABLE"].of(self.value(function, "control")), self.vectors)

    def _write(self, function: Function, vector: int) -> None:
        """The vector replaces the low bits of the data that are the function's (6.8.1.6)."""
        high = self.value(function, "address_high") if self.wide else 0
        data = self.value(function, "data") & ~(self._allocated(function) - 1) | vector
        function.context.msi(high << 32 | self.value(function, "address"), data)


MSIX_CONTROL: Final = {
    "TABLE_SIZE": Field(0, 11, access="r"),
    "FUNCTION_MASK": Field(14, access="rw"),
    "ENABLE": Field(15, access="rw"),
}
"""Message control of MSI-X (6.8.2.3)."""
_MSIX_FREE: Final = 1 << 15
_MSIX_HELD: Final = _MSIX_FREE | 1 << 14
"""Enabled, and not masked as a whole."""


@define(eq=False)
class MsiX(MessageCapability):
    """1 to 2048 vectors; `table` and `pending` say in which BAR they are, and at which offset."""

    number: ClassVar[int] = 0x11

    vectors: int = field(kw_only=True)
    table: tuple[Bar, int] = field(kw_only=True)
    pending: tuple[Bar, int] = field(kw_only=True)

    def __attrs_post_init__(self) -> None:
        """Check what the author wrote."""
        super().__attrs_post_init__()
        if not 1 <= self.vectors <= 2048:
            raise DeclarationError(f"MSI-X with {self.vectors} vectors: 1 to 2048")
        for bar, offset in (self.table, self.pending):
            if offset % 8 or bar.io:
                raise DeclarationError(f"MSI-X at {offset:#x} of BAR {bar.number}: no quadword of memory")

    def registers(self) -> list[Register]:
        """The capability's own, then table and pending bits in their BARs (6.8.2.6, 6.8.2.10)."""
        (table, table_at), (pending, pending_at) = self.table, self.pending
        return [
            self.register("control", 2, 2, reset=self.vectors - 1, fields=MSIX_CONTROL),
            self.register("table", 4, 4, reset=table_at | table.number),
            self.register("pending", 8, 4, reset=pending_at | pending.number),
            *(part for vector in range(self.vectors) for part in self._entry(vector)),
            *(self._pending_bits(word) for word in range(-(-self.vectors // 64))),
        ]

    def _entry(self, vector: int) -> list[Register]:
        bar, start = self.table
        masks = {"address": ADDRESS_MASK, "address_high": ALL, "data": ALL, "vector_control": 1}
        entry = []
        for number, (part, mask) in enumerate(masks.items()):
            reset = int(part == "vector_control")
            offset = start + 16 * vector + 4 * number
            register = Register(offset, size=4, mask=mask, reset=reset, region=bar)
            entry.append(named(register, f"{self.name}_{part}{vector}"))
        return entry

    def _pending_bits(self, word: int) -> Register:
        bar, start = self.pending
        return named(
            Register(start + 8 * word, size=8, access="r", region=bar), f"{self.name}_pending_bits{word}"
        )

    def enabled(self, function: Function) -> bool:
        """MSI-X Enable."""
        return self.value(function, "control") & _MSIX_FREE != 0

    def send(self, function: Function, vector: int) -> None:
        """Let the message leave, or if something holds it set its pending bit."""
        if not 0 <= vector < self.vectors:
            raise ValueError(f"MSI-X vector {vector}: there are {self.vectors}")
        if self._free(function) and not self._masked(function, vector):
            self._leave(function, vector)
            return
        word = f"pending_bits{vector // 64}"
        self.store(function, word, self.value(function, word) | 1 << vector % 64)

    def changed(self, function: Function) -> None:
        """What is pending and not held any more leaves, lowest vector first."""
        if not self._free(function):
            return
        for word in range(-(-self.vectors // 64)):
            bits = self.value(function, f"pending_bits{word}")
            while bits:
                lowest = bits & -bits
                bits -= lowest
                vector = 64 * word + lowest.bit_length() - 1
                if not self._masked(function, vector):
                    kept = self.value(function, f"pending_bits{word}") & ~lowest
                    self.store(function, f"pending_bits{word}", kept)
                    self._leave(function, vector)

    def _free(self, function: Function) -> bool:
        """Whether nothing holds all vectors."""
        return self.value(function, "control") & _MSIX_HELD == _MSIX_FREE and _masters(function)

    def _masked(self, function: Function, vector: int) -> bool:
        return bool(self.value(function, f"vector_control{vector}") & 1)

    def _leave(self, function: Function, vector: int) -> None:
        high = self.value(function, f"address_high{vector}")
        address = high << 32 | self.value(function, f"address{vector}")
        function.context.msi(address, self.value(function, f"data{vector}"))


def _masters(function: Function) -> bool:
    return bool(function.values["command"] & Command.BUS_MASTER)
