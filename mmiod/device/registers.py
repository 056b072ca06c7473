"""Declared registers: what is at an offset, what its bits allow, which hooks run.

    lsr = Register(5, access="r", fields=LSR)

    @lsr.value                  # pure: the value when it is derived and not stored
    def _line_status(self) -> int: ...

    @lsr.on_read                # the side effect of a guest's read, after the value was taken
    def _errors_were_read(self) -> None: ...

`self.lsr` is the value, as inspection and the guest see it, without side effect.
A write first changes the stored bits as their access modes say, then calls `on_write`
with the bits as written.  Of a write that covers only some bytes of a register the
others keep their value in `rw` bits and count as 0 in all other modes.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, overload

from attrs import define, field, frozen

from mmiod.device.faces import PENDING, Pending
from mmiod.errors import DeclarationError
from mmiod.values import READ, Direction, ones

if TYPE_CHECKING:
    from mmiod.device.declarations import Region
    from mmiod.device.device import Device

AccessMode = Literal["r", "w", "rw", "rc", "rs", "w1c", "w1s", "w1t", "pulse", "reserved"]
"""Per bit: readable, writable, both; read clears or sets; writing 1 clears, sets or
toggles; writing 1 acts once and reads 0 (only the hook sees it); reads 0, ignores writes."""

Fields = Mapping[str, "Field"] | type[enum.IntFlag]

Getter = TypeVar("Getter", bound=Callable[[Any], int])
Reader = TypeVar("Reader", bound=Callable[[Any], int | Pending | None])
Writer = TypeVar("Writer", bound=Callable[[Any, int], Pending | None])


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
    "pulse": ("pulsed",),
    "reserved": (),
}


@define(eq=False)
class Register:
    """A register of `size` bytes at `offset` of its region.

    `mask` are its implemented bits (the others read 0 and ignore writes), `fields` name
    bits for people and may give them access modes of their own, `when` is a bank: a
    predicate over the device; `region` may be left out where the device has one only.
    A `whole` register decodes the size: it takes accesses of exactly its offset and size,
    and leaves all others to the registers (or the hole) that share its bytes.
    """

    offset: int
    size: int = field(default=1, kw_only=True)
    access: AccessMode = field(default="rw", kw_only=True)
    reset: int = field(default=0, kw_only=True)
    mask: int | None = field(default=None, kw_only=True)
    fields: Fields | None = field(default=None, kw_only=True)
    when: Callable[[Any], bool] | None = field(default=None, kw_only=True)
    whole: bool = field(default=False, kw_only=True)
    region: Region | None = field(default=None, kw_only=True)
    name: str = field(default="", init=False)
    bits: Mapping[str, Field] = field(factory=dict, init=False)
    rules: BitRules = field(factory=BitRules, init=False)
    getter: str | None = field(default=None, init=False)
    reader: str | None = field(default=None, init=False)
    writer: str | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        """Turn fields and modes into masks; what does not fit is the author's mistake."""
        implemented = (1 << 8 * self.size) - 1
        self.mask = implemented if self.mask is None else self.mask
        self.bits = _fields(self.fields)
        for name, bits in self.bits.items():
            if bits.mask & ~implemented:
                raise DeclarationError(
                    f"field {name} is outside its register of {self.size} bytes at {self.offset:#x}"
                )
        if not 0 <= self.reset <= implemented:
            raise DeclarationError(f"reset {self.reset:#x} does not fit the register at {self.offset:#x}")
        rest = self.mask
        for bits in self.bits.values():
            if bits.access is not None:
                self.rules.give(bits.access, bits.mask)
                rest &= ~bits.mask
        self.rules.give(self.access, rest)

    @property
    def end(self) -> int:
        """First offset behind the register."""
        return self.offset + self.size

    def allows(self, direction: Direction) -> bool:
        """Whether the register takes part in accesses of this direction."""
        if direction == READ:
            return bool(self.rules.readable) or self.getter is not None or self.reader is not None
        rules = self.rules
        changes = rules.stored | rules.cleared | rules.set | rules.toggled | rules.pulsed
        return bool(changes) or self.writer is not None

    def value(self, hook: Getter) -> Getter:
        """Decorate the pure function that derives the value; nothing is stored then."""
        self.getter = hook.__name__
        return hook

    def on_read(self, hook: Reader) -> Reader:
        """Decorate the hook of a guest's read.

        It runs after the value was taken.  It may return another value, or `PENDING`.
        """
        self.reader = hook.__name__
        return hook

    def on_write(self, hook: Writer) -> Writer:
        """Decorate the hook of a guest's write: it gets the bits as written; may return `PENDING`."""
        self.writer = hook.__name__
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> Register: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> int: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> Register | int:
        """Give the value on a device, the declaration on its class."""
        if instance is None:
            return self
        if self.getter is not None:
            return int(getattr(instance, self.getter)())
        return instance.values[self.name]

    def __set__(self, instance: Device, value: int) -> None:
        """Store a value; derived ones cannot be stored."""
        if self.getter is not None:
            raise AttributeError(f"{self.name} is derived by {self.getter}()")
        if not 0 <= value < 1 << 8 * self.size:
            raise ValueError(f"{self.name}: {value:#x} does not fit {self.size} bytes")
        instance.values[self.name] = value

    # --- what the dispatcher calls ---------------------------------------------------

    def guest_read(self, device: Device) -> int | Pending:
        """One read by the guest, side effects included."""
        value = self.__get__(device, type(device))
        if self.getter is None:
            device.values[self.name] = self.rules.after_read(value)
            value &= self.rules.readable
        if self.reader is None:
            return value
        answer: int | Pending | None = getattr(device, self.reader)()
        return value if answer is None else answer

    def guest_write(self, device: Device, value: int, covered: int) -> Pending | None:
        """One write by the guest of the bits `covered`, side effects included."""
        value &= covered & self.mask  # type: ignore[operator]  # set by __attrs_post_init__
        kept = self.rules.stored & ~covered
        if kept:
            value |= self.__get__(device, type(device)) & kept
        if self.getter is None:
            device.values[self.name] = self.rules.after_write(device.values[self.name], value)
        if self.writer is None:
            return None
        answer: Pending | None = getattr(device, self.writer)(value)
        return answer

    def read_part(self, device: Device, skip: int, size: int) -> int:
        """A guest's read of `size` bytes behind the first `skip`: the register is read as a whole."""
        whole = self.guest_read(device)
        if isinstance(whole, Pending):
            raise TypeError(f"{self.name} answered PENDING to a read of a part of it")
        return whole >> 8 * skip & ones(size)

    def write_part(self, device: Device, skip: int, size: int, value: int) -> Pending | None:
        """A guest's write of `size` bytes behind the first `skip`."""
        return self.guest_write(device, value << 8 * skip, ones(size) << 8 * skip)

    def describe(self, value: int) -> dict[str, int]:
        """A value's named fields."""
        return {name: bits.of(value) for name, bits in self.bits.items()}


def _fields(fields: Fields | None) -> Mapping[str, Field]:
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


__all__ = ["PENDING", "AccessMode", "BitRules", "Field", "Register"]
