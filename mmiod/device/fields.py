"""The bits of a register: their names and what they allow."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Final, Literal

from attrs import define, frozen

from mmiod.errors import DeclarationError

AccessMode = Literal["r", "w", "rw", "rc", "rs", "w1c", "w1s", "w1t", "singlepulse", "reserved"]
"""Per bit: readable, writable, both; read clears or sets; writing 1 clears, sets or
toggles; writing 1 acts once and reads 0 (only the hook sees it); reads 0, ignores writes."""

Fields = Mapping[str, "Field"] | type[enum.IntFlag]


@frozen
class Field:
    """Bits `lsb` .. `lsb + width - 1` of a register; without `access`, the register's."""

    lsb: int
    width: int = 1
    access: AccessMode | None = None

    @property
    def mask(self) -> int:
        """The field's bits, in place."""
        return (1 << self.width) - 1 << self.lsb

    def of(self, value: int) -> int:
        """The field's value in a register's."""
        return (value & self.mask) >> self.lsb


@define
class BitRules:
    """The access modes of a register's bits, as masks."""

    readable: int = 0
    stored: int = 0
    cleared: int = 0
    set: int = 0
    toggled: int = 0
    clear_on_read: int = 0
    set_on_read: int = 0
    pulsed: int = 0

    def give(self, mode: AccessMode, bits: int) -> None:
        """Let `bits` have this mode."""
        if mode not in _RULES:
            raise DeclarationError(f"access {mode!r}: there are {', '.join(_RULES)}")
        for rule in _RULES[mode]:
            setattr(self, rule, getattr(self, rule) | bits)

    def after_write(self, old: int, value: int) -> int:
        """The stored value after `value` was written; bits that keep their value are in it."""
        new = old & ~self.stored | value & self.stored
        new = (new & ~(value & self.cleared)) | value & self.set
        return new ^ value & self.toggled

    def after_read(self, old: int) -> int:
        """The stored value after a guest's read."""
        return old & ~self.clear_on_read | self.set_on_read


_RULES: Final[Mapping[AccessMode, tuple[str, ...]]] = {
    "r": ("readable",),
    "w": ("stored",),
    "rw": ("readable", "stored"),
    "rc": ("readable", "clear_on_read"),
    "rs": ("readable", "set_on_read"),
    "w1c": ("readable", "cleared"),
    "w1s": ("readable", "set"),
    "w1t": ("readable", "toggled"),
    "singlepulse": ("pulsed",),
    "reserved": (),
}


def bits_of(fields: Fields | None) -> Mapping[str, Field]:
    """Fields by name."""
    if fields is None:
        return {}
    if isinstance(fields, Mapping):
        return fields
    # Iterating would leave out the members of several bits.
    return {name: _field_of(name, flag) for name, flag in fields.__members__.items()}


def _field_of(name: str, flag: int) -> Field:
    lsb = max((flag & -flag).bit_length() - 1, 0)
    found = Field(lsb, flag.bit_length() - lsb)
    if not flag or found.mask != flag:
        raise DeclarationError(f"field {name} is {flag:#x}, which are no adjacent bits")
    return found
