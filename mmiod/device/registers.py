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

    channel = Register(0x20, size=4, access="w1c", fields=CHANNEL).array(8, stride=0x10)

    @channel.on_write                   # hooks of an array get the number first
    def _written(self, number: int, value: int) -> None: ...

`self.channel[3]` is the value of one.  In traffic and in a saved state they are registers
of their own: `channel0`, `channel1`, ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from attrs import define, evolve, field, frozen

from mmiod.device.faces import Pending
from mmiod.device.fields import (
    AccessMode,
    BitRules,
    Field,
    Fields,
    bits_of,
)
from mmiod.device.hooks import name_of
from mmiod.device.policy import Bank, Count, Policy
from mmiod.errors import DeclarationError
from mmiod.values import READ, Direction, ones

if TYPE_CHECKING:
    from mmiod.device.declarations import Region
    from mmiod.device.device import Device

Getter = TypeVar("Getter", bound=Callable[[Any], int])
Counting = TypeVar("Counting", bound=Callable[..., Count])
Reader = TypeVar("Reader", bound=Callable[[Any], int | Pending | None])
Writer = TypeVar("Writer", bound=Callable[[Any, int], Pending | None])
ElementGetter = TypeVar("ElementGetter", bound=Callable[[Any, int], int])
ElementReader = TypeVar("ElementReader", bound=Callable[[Any, int], int | Pending | None])
ElementWriter = TypeVar("ElementWriter", bound=Callable[[Any, int, int], Pending | None])
BatchReader = TypeVar("BatchReader", bound=Callable[[Any, int], bytes])
BatchWriter = TypeVar("BatchWriter", bound=Callable[[Any, bytes], int | None])


@define(eq=False)
class Register:
    """A register of `size` bytes at `offset` of its region.

    `mask` are its implemented bits (the others read 0 and ignore writes), `fields` name
    bits for people and may give them access modes of their own, `when` is a bank: a
    predicate over the device; `region` may be left out where the device has one only.
    A `whole` register decodes the size: it takes accesses of exactly its offset and size,
    and leaves all others to the registers (or the hole) that share its bytes.
    Of a `doorbell` the last write counts, and nobody waits for it: one that comes while the
    device is out of service is given to it when it returns.  `rings` are the values that a guest
    rings it with: such a write may reach the device some time later, and several as one.
    `published`, `posted`, `unaffected_by`, `echoed`: see `mmiod.device.policy`.
    """

    offset: int
    size: int = field(default=1, kw_only=True)
    access: AccessMode = field(default="rw", kw_only=True)
    reset: int = field(default=0, kw_only=True)
    mask: int | None = field(default=None, kw_only=True)
    fields: Fields | None = field(default=None, kw_only=True)
    when: Callable[[Any], bool] | None = field(default=None, kw_only=True)
    whole: bool = field(default=False, kw_only=True)
    doorbell: bool = field(default=False, kw_only=True)
    rings: tuple[int, ...] = field(default=(), kw_only=True)
    region: Region | None = field(default=None, kw_only=True)
    published: Policy = field(default=False, kw_only=True)
    posted: Policy = field(default=False, kw_only=True)
    unaffected_by: tuple[str, ...] = field(default=(), kw_only=True)
    echoed: bool = field(default=False, kw_only=True)
    constant: bool = field(default=False, kw_only=True)
    """Derived, and the same for the whole life of a device."""
    name: str = field(default="", init=False)
    bits: Mapping[str, Field] = field(factory=dict, init=False)
    rules: BitRules = field(factory=BitRules, init=False)
    getter: str | None = field(default=None, init=False)
    counter: str | None = field(default=None, init=False)
    reader: str | None = field(default=None, init=False)
    writer: str | None = field(default=None, init=False)
    batch_reader: str | None = field(default=None, init=False)
    batch_writer: str | None = field(default=None, init=False)
    index: tuple[int, ...] = field(default=(), init=False)
    """Of an array's element: its number, which hooks get first."""

    def __attrs_post_init__(self) -> None:
        """Turn fields and modes into masks; what does not fit is the author's mistake."""
        if self.offset < 0 or self.size < 1:
            raise DeclarationError(f"a register of {self.size} bytes at {self.offset:#x}")
        implemented = ones(self.size)
        self.mask = self.implemented
        self.bits = bits_of(self.fields)
        for name, bits in self.bits.items():
            if bits.mask & ~implemented:
                raise DeclarationError(
                    f"field {name} is outside its register of {self.size} bytes at {self.offset:#x}"
                )
        for name, value in {"reset": self.reset, "mask": self.mask}.items():
            if not 0 <= value <= implemented:
                raise DeclarationError(f"{name} {value:#x} does not fit the register at {self.offset:#x}")
        rest = self.mask
        for bits in self.bits.values():
            if bits.access is not None:
                self.rules.give(bits.access, bits.mask)
                rest &= ~bits.mask
        self.rules.give(self.access, rest)

    @property
    def implemented(self) -> int:
        """The bits that are there, as a mask."""
        return ones(self.size) if self.mask is None else self.mask

    @property
    def end(self) -> int:
        """First offset behind the register."""
        return self.offset + self.size

    @property
    def derived(self) -> bool:
        """Whether its value follows from others, and nothing is stored."""
        return self.getter is not None or self.counter is not None

    @property
    def echo(self) -> int:
        """The bits that read as they were written last, if all others stay as they are."""
        rules = self.rules
        other = rules.cleared | rules.set | rules.toggled | rules.pulsed
        return rules.stored & rules.readable if self.echoed and not other else 0

    def seen(self, device: Device) -> int:
        """The value as a guest's read gives it, without the read's side effects."""
        value = self.__get__(device, type(device))
        return value if self.derived else value & self.rules.readable

    def array(self, count: int, *, stride: int | None = None) -> RegisterArray:
        """`count` of this register, `stride` bytes apart (its size, if left out)."""
        stride = self.size if stride is None else stride
        if count < 1 or stride < self.size:
            raise DeclarationError(f"an array of {count} registers of {self.size} bytes, {stride} apart")
        elements = [evolve(self, offset=self.offset + number * stride) for number in range(count)]
        for number, element in enumerate(elements):
            element.index = (number,)
        return RegisterArray(tuple(elements))

    def has(self, bits: int) -> Callable[[Device], bool]:
        """For `when`: a bank that is there while `bits` of this stored register are set."""
        return Bank(self, bits, bits)

    def lacks(self, bits: int) -> Callable[[Device], bool]:
        """For `when`: a bank that is there while `bits` of this stored register are clear."""
        return Bank(self, bits, 0)

    def allows(self, direction: Direction) -> bool:
        """Whether the register takes part in accesses of this direction."""
        if direction == READ:
            derived = self.getter or self.counter or self.reader
            return bool(self.rules.readable) or derived is not None
        return self.writable or self.writer is not None

    @property
    def writable(self) -> bool:
        """Whether a write changes what is stored."""
        rules = self.rules
        return bool(rules.stored | rules.cleared | rules.set | rules.toggled | rules.pulsed)

    @property
    def reads_change(self) -> bool:
        """Whether a guest's read may change the device."""
        return self.reader is not None or bool(self.rules.clear_on_read | self.rules.set_on_read)

    def value(self, hook: Getter) -> Getter:
        """Decorate the pure function that derives the value; nothing is stored then."""
        self.getter = name_of(self, hook)
        return hook

    def counts(self, hook: Counting) -> Counting:
        """Decorate the pure `hook(self) -> Count`: the value runs with the guest's clock."""
        self.counter = name_of(self, hook)
        return hook

    def on_read(self, hook: Reader) -> Reader:
        """Decorate the hook of a guest's read.

        It runs after the value was taken.  It may return another value, or `PENDING`.
        """
        self.reader = name_of(self, hook)
        return hook

    def on_write(self, hook: Writer) -> Writer:
        """Decorate the hook of a guest's write: it gets the bits as written; may return `PENDING`."""
        self.writer = name_of(self, hook)
        return hook

    def on_read_batch(self, hook: BatchReader) -> BatchReader:
        """Decorate `hook(self, count) -> bytes`: many reads of the register in one call.

        It does all that `count` reads would have done, and gives their values, each of the
        register's size, little-endian.  It may do fewer: the rest come one by one.
        """
        self.batch_reader = name_of(self, hook)
        return hook

    def on_write_batch(self, hook: BatchWriter) -> BatchWriter:
        """Decorate `hook(self, data)`: many writes of the register in one call.

        It does all that they would have done; the value is not stored.  It returns how
        many it took, or None for all of them: the rest come one by one.
        """
        self.batch_writer = name_of(self, hook)
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
            return int(getattr(instance, self.getter)(*self.index))
        if self.counter is not None:
            count: Count = getattr(instance, self.counter)(*self.index)
            return count.at(instance.clock.now_ns)
        return instance.values[self.name]

    def __set__(self, instance: Device, value: int) -> None:
        """Store a value; derived ones cannot be stored."""
        if self.derived:
            raise AttributeError(f"{self.name} is derived by {self.getter or self.counter}()")
        if not 0 <= value < 1 << 8 * self.size:
            raise ValueError(f"{self.name}: {value:#x} does not fit {self.size} bytes")
        instance.values[self.name] = value

    # --- what the dispatcher calls ---------------------------------------------------

    def guest_read(self, device: Device) -> int | Pending:
        """One read by the guest, side effects included."""
        value = self.__get__(device, type(device))
        if not self.derived:
            device.values[self.name] = self.rules.after_read(value)
            value &= self.rules.readable
        if self.reader is None:
            return value
        answer: int | Pending | None = getattr(device, self.reader)(*self.index)
        return value if answer is None else answer

    def guest_write(self, device: Device, value: int, covered: int) -> Pending | None:
        """One write by the guest of the bits `covered`, side effects included."""
        value &= covered & self.mask  # type: ignore[operator]  # set by __attrs_post_init__
        kept = self.rules.stored & ~covered
        if kept:
            value |= self.__get__(device, type(device)) & kept
        if not self.derived:
            device.values[self.name] = self.rules.after_write(device.values[self.name], value)
        if self.writer is None:
            return None
        answer: Pending | None = getattr(device, self.writer)(*self.index, value)
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

    def read_many(self, device: Device, count: int) -> bytes:
        """As many of `count` reads as the device answers at once."""
        if self.batch_reader is None:
            return b""
        data: bytes = getattr(device, self.batch_reader)(*self.index, count)
        return data

    def write_many(self, device: Device, data: bytes) -> int:
        """As many of these writes as the device takes at once: their number."""
        if self.batch_writer is None:
            return 0
        taken: int | None = getattr(device, self.batch_writer)(*self.index, data)
        return len(data) // self.size if taken is None else taken

    def describe(self, value: int) -> dict[str, int]:
        """A value's named fields."""
        return {name: bits.of(value) for name, bits in self.bits.items()}


# --- registers that are there several times ----------------------------------------------


@frozen(eq=False)
class Elements(Sequence[int]):
    """The values of an array on a device."""

    device: Device
    registers: tuple[Register, ...]

    def __len__(self) -> int:
        return len(self.registers)

    def __iter__(self) -> Iterator[int]:
        return (register.__get__(self.device, type(self.device)) for register in self.registers)

    @overload
    def __getitem__(self, number: int) -> int: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[int]: ...
    def __getitem__(self, number: int | slice) -> int | Sequence[int]:
        if isinstance(number, slice):
            return Elements(self.device, self.registers[number])
        return self.registers[number].__get__(self.device, type(self.device))

    def __setitem__(self, number: int, value: int) -> None:
        self.registers[number].__set__(self.device, value)


@define(eq=False)
class RegisterArray:
    """Registers that are alike, at equal distances: made by `Register.array`."""

    registers: tuple[Register, ...]
    name: str = field(default="", init=False)

    def value(self, hook: ElementGetter) -> ElementGetter:
        """Decorate the pure `hook(self, number) -> int` that derives a value."""
        for register in self.registers:
            register.getter = name_of(self, hook)
        return hook

    def on_read(self, hook: ElementReader) -> ElementReader:
        """Decorate `hook(self, number)`: a guest's read, as `Register.on_read`."""
        for register in self.registers:
            register.reader = name_of(self, hook)
        return hook

    def on_write(self, hook: ElementWriter) -> ElementWriter:
        """Decorate `hook(self, number, value)`: a guest's write, as `Register.on_write`."""
        for register in self.registers:
            register.writer = name_of(self, hook)
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name
        for number, register in enumerate(self.registers):
            register.name = f"{name}{number}"

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> RegisterArray: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> Elements: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> RegisterArray | Elements:
        """Give the values on a device."""
        return self if instance is None else Elements(instance, self.registers)
