"""A capability of a PCI function: a structure in the list that begins at 34h (6.7).

Numbers in comments are sections of the PCI Local Bus Specification 3.0.
"""

from __future__ import annotations

from typing import ClassVar, Final, Protocol

from attrs import define, field

from mmiod.device.faces import Context
from mmiod.device.fields import AccessMode, Fields
from mmiod.device.registers import Register
from mmiod.errors import DeclarationError

FIRST: Final = 0x40
"""Where the header ends."""
LAST: Final = 0xFF


class Function(Protocol):
    """What a capability needs of its function."""

    context: Context
    values: dict[str, int]


@define(eq=False)
class Capability:
    """Declares a capability at `offset` of configuration space, a multiple of 4.

    Its registers are named after the attribute that declares it: `msi_control`, ...
    """

    number: ClassVar[int] = 0
    """The capability's ID."""

    offset: int
    name: str = field(default="", init=False)

    def __attrs_post_init__(self) -> None:
        """Check what the author wrote."""
        if self.offset % 4 or not FIRST <= self.offset <= LAST:
            raise DeclarationError(f"a capability at {self.offset:#x}: no multiple of 4 in 0x40..0xff")

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def header(self, following: int) -> Register:
        """The ID, and where the next capability is; 0 ends the list."""
        return self.register("capability", 0, 2, reset=self.number | following << 8)

    def registers(self) -> list[Register]:
        """Those behind the header."""
        return []

    def changed(self, function: Function) -> None:
        """A register of the function's command, or of a capability, was written."""

    def register(
        self,
        name: str,
        offset: int,
        size: int,
        *,
        reset: int = 0,
        mask: int = 0,
        fields: Fields | None = None,
    ) -> Register:
        """One at `offset` of the capability; bits of `mask` and what `fields` say can be written."""
        mode: AccessMode = "rw" if mask else "reserved" if fields else "r"
        at = self.offset + offset
        made = Register(at, size=size, access=mode, mask=mask or None, reset=reset, fields=fields)
        return named(made, f"{self.name}_{name}")

    def value(self, function: Function, name: str) -> int:
        """What one of its registers holds."""
        return function.values[f"{self.name}_{name}"]

    def store(self, function: Function, name: str, value: int) -> None:
        """Change one of its registers."""
        function.values[f"{self.name}_{name}"] = value


def named(register: Register, name: str) -> Register:
    """A register that no class body names; whoever declares it adds it to a class."""
    register.name = name
    register.writer = "capability_written"
    return register
