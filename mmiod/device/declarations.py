"""What a device class declares besides registers: regions, lines, timers, channels.

Each is a class attribute; on an instance it gives the live object:

    registers = Region(8)       self.registers      -> the Region (for `place`)
    irq = IrqOutput()           self.irq            -> Line: set_level, pulse, level
    ir = IrqInputs(8)           self.ir[3]          -> bool
    tick = Timer()              self.tick           -> Alarm: set, cancel, deadline_ns
    serial = Stream()           self.serial         -> Channel: send, ready
    tpm = Requests({...})       self.tpm            -> Client: send, cancel
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, overload

from attrs import define, field

from mmiod.device.hooks import name_of
from mmiod.device.policy import Window
from mmiod.errors import DeclarationError

if TYPE_CHECKING:
    from mmiod.device.device import Device
    from mmiod.device.faces import Context, Pending

OffsetReader = TypeVar("OffsetReader", bound=Callable[[Any, int, int], "int | Pending"])
OffsetWriter = TypeVar("OffsetWriter", bound=Callable[[Any, int, int, int], "Pending | None"])
QueueHook = TypeVar("QueueHook", bound=Callable[[Any, int, bytes], bool])
BatchReader = TypeVar("BatchReader", bound=Callable[[Any, int, int, int, int], bytes])
BatchWriter = TypeVar("BatchWriter", bound=Callable[[Any, int, int, bytes, int], "int | None"])
FireHook = TypeVar("FireHook", bound=Callable[[Any], None])
LevelHook = TypeVar("LevelHook", bound=Callable[[Any, bool], None])
LineHook = TypeVar("LineHook", bound=Callable[[Any, int, bool], None])
AcknowledgeHook = TypeVar("AcknowledgeHook", bound=Callable[[Any], int])
ReceiveHook = TypeVar("ReceiveHook", bound=Callable[[Any, bytes], None])
RoomHook = TypeVar("RoomHook", bound=Callable[[Any], int])
ReplyHook = TypeVar("ReplyHook", bound=Callable[[Any, int, bytes], None])
FailureHook = TypeVar("FailureHook", bound=Callable[[Any, int, str], None])


@define(eq=False)
class Region:
    """`length` bytes of an address space that belong to the device.

    `valid` are the smallest and largest access sizes that the region answers; what the
    guest does outside of them is split (larger) or reads ones (smaller, unaligned).
    `implemented` are the sizes that hooks see: the bus widens and splits accordingly.
    Both follow QEMU's memory core (docs/devel/memory.rst, "MMIO Operations").  In the space
    of MSRs every 8 bytes are one of them, and where no register is the guest gets #GP.  `hole`
    is what each byte reads where no register is.  With a `stride` the registers are there
    again every so many bytes; a hook finds in `self.copy` which of them is meant.
    `published` is the size of the words in which the region is published, as far as reads have
    no side effect; `mapped` that its pages may be shown in the guest's memory, where all of one is
    published: what an input changes appears there part by part, buffers first, then registers in
    the order of their declaration; `window` says which other space's reads those of the region are.
    """

    length: int
    valid: tuple[int, int] = field(default=(1, 8), kw_only=True)
    implemented: tuple[int, int] = field(default=(1, 8), kw_only=True)
    unaligned: bool = field(default=False, kw_only=True)
    hole: int = field(default=0, kw_only=True)
    stride: int = field(default=0, kw_only=True)
    published: int = field(default=0, kw_only=True)
    mapped: bool = field(default=False, kw_only=True)
    window: Window | None = field(default=None, kw_only=True)
    name: str = field(default="", init=False)
    reader: str | None = field(default=None, init=False)
    writer: str | None = field(default=None, init=False)
    batch_reader: str | None = field(default=None, init=False)
    batch_writer: str | None = field(default=None, init=False)
    queue: str | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        """Check what the author wrote."""
        if self.length <= 0:
            raise DeclarationError(f"a region of {self.length} bytes")
        for name, (low, high) in {"valid": self.valid, "implemented": self.implemented}.items():
            if not (low <= high and low in _SIZES and high in _SIZES):
                raise DeclarationError(
                    f"{name}={low, high}: access sizes are two ascending powers of two up to 64"
                )

    def on_read(self, hook: OffsetReader) -> OffsetReader:
        """Decorate `hook(self, offset, size) -> int`: it answers all reads of the region."""
        self.reader = name_of(self, hook)
        return hook

    def on_write(self, hook: OffsetWriter) -> OffsetWriter:
        """Decorate `hook(self, offset, size, value)`: it takes all writes of the region."""
        self.writer = name_of(self, hook)
        return hook

    def on_read_batch(self, hook: BatchReader) -> BatchReader:
        """Decorate `hook(self, offset, size, count, stride) -> bytes`: many reads in one call.

        It stands for up to `count` reads of `size` bytes, at `offset` (stride 0), or from
        there upwards (1) or downwards (-1), and gives the elements in that order; the rest
        come one by one, so a device that would have to wait gives those before.
        """
        self.batch_reader = name_of(self, hook)
        return hook

    def on_write_batch(self, hook: BatchWriter) -> BatchWriter:
        """Decorate `hook(self, offset, size, data, stride)`: many writes in one call.

        It returns how many elements it took, or None for all of them.
        """
        self.batch_writer = name_of(self, hook)
        return hook

    def on_enqueue(self, hook: QueueHook) -> QueueHook:
        """Decorate `hook(self, offset, command) -> bool`: ENQCMD brings a command of 64 bytes.

        True: it was taken.  False: the guest is told to try again; nothing may have changed.
        """
        self.queue = name_of(self, hook)
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name


_SIZES = (1, 2, 4, 8, 16, 32, 64)


# --- interrupt lines -----------------------------------------------------------------


@define(eq=False)
class Line:
    """An output line of a device instance."""

    context: Context
    name: str
    level: bool = False

    def set_level(self, level: bool) -> None:
        """Drive the line; driving it to the level it has does nothing."""
        if level != self.level:
            self.level = level
            self.context.set_level(self.name, level)

    def pulse(self) -> None:
        """Up and down at once: for edge-triggered inputs."""
        self.set_level(True)
        self.set_level(False)


@define(eq=False)
class IrqOutput:
    """Declares an output line."""

    name: str = field(default="", init=False)
    acknowledge: str | None = field(default=None, init=False)

    def on_acknowledge(self, hook: AcknowledgeHook) -> AcknowledgeHook:
        """Decorate `hook(self) -> vector`: a vCPU took the interrupt of this line (INTA)."""
        self.acknowledge = name_of(self, hook)
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> IrqOutput: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> Line: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> IrqOutput | Line:
        """Give the live line on a device."""
        return self if instance is None else instance.lines[self.name]

    def names(self) -> tuple[str, ...]:
        """The line's name, as wires write it."""
        return (self.name,)


@define(eq=False)
class IrqOutputs:
    """Declares `count` output lines, wired as `name0`, `name1`, ..."""

    count: int
    name: str = field(default="", init=False)
    lines: tuple[str, ...] = field(default=(), init=False)

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name
        self.lines = tuple(f"{name}{number}" for number in range(self.count))

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> IrqOutputs: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> tuple[Line, ...]: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> IrqOutputs | tuple[Line, ...]:
        """Give the live lines on a device."""
        return self if instance is None else tuple(instance.lines[name] for name in self.lines)

    def names(self) -> tuple[str, ...]:
        """The lines' names, as wires write them."""
        return self.lines


@define(eq=False)
class IrqInput:
    """Declares an input line; what drives it is OR-ed.  On a device: its level."""

    name: str = field(default="", init=False)
    change: str | None = field(default=None, init=False)

    def on_change(self, hook: LevelHook) -> LevelHook:
        """Decorate `hook(self, level)`."""
        self.change = name_of(self, hook)
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> IrqInput: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> bool: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> IrqInput | bool:
        """Give the level on a device."""
        return self if instance is None else instance.inputs[self.name]

    def names(self) -> tuple[str, ...]:
        """The line's name, as wires write it."""
        return (self.name,)

    def deliver(self, device: Device, name: str, level: bool) -> None:
        """A wire changed the level."""
        device.inputs[name] = level
        if self.change is not None:
            getattr(device, self.change)(level)


@define(eq=False)
class IrqInputs:
    """Declares `count` input lines, wired as `name0`, `name1`, ...  On a device: their levels."""

    count: int
    name: str = field(default="", init=False)
    lines: tuple[str, ...] = field(default=(), init=False)
    change: str | None = field(default=None, init=False)

    def on_change(self, hook: LineHook) -> LineHook:
        """Decorate `hook(self, line, level)`."""
        self.change = name_of(self, hook)
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name
        self.lines = tuple(f"{name}{number}" for number in range(self.count))

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> IrqInputs: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> tuple[bool, ...]: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> IrqInputs | tuple[bool, ...]:
        """Give the levels on a device."""
        return self if instance is None else tuple(instance.inputs[name] for name in self.lines)

    def names(self) -> tuple[str, ...]:
        """The lines' names, as wires write them."""
        return self.lines

    def deliver(self, device: Device, name: str, level: bool) -> None:
        """A wire changed a level."""
        device.inputs[name] = level
        if self.change is not None:
            getattr(device, self.change)(int(name.removeprefix(self.name)), level)


# --- time ----------------------------------------------------------------------------


@define(eq=False)
class Alarm:
    """A timer of a device instance; `deadline_ns` is guest time, None while not armed."""

    context: Context
    name: str
    deadline_ns: int | None = None

    def set(self, deadline_ns: int) -> None:
        """Fire once, when guest time has reached `deadline_ns`."""
        self.deadline_ns = deadline_ns
        self.context.arm(self.name, deadline_ns)

    def cancel(self) -> None:
        """Do not fire."""
        if self.deadline_ns is not None:
            self.deadline_ns = None
            self.context.arm(self.name, None)


@define(eq=False)
class Timer:
    """Declares a one-shot timer on the guest's clock."""

    name: str = field(default="", init=False)
    fire: str | None = field(default=None, init=False)

    def on_fire(self, hook: FireHook) -> FireHook:
        """Decorate `hook(self)`; a periodic timer sets itself again."""
        self.fire = name_of(self, hook)
        return hook

    def alarm(self, device: Device) -> Alarm:
        """The timer of a device instance."""
        return Alarm(device.context, self.name)

    def fired(self, device: Device) -> None:
        """The timer of a device is due."""
        if self.fire is not None:
            getattr(device, self.fire)()

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> Timer: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> Alarm: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> Timer | Alarm:
        """Give the live timer on a device."""
        return self if instance is None else instance.alarms[self.name]


# --- the host's side -----------------------------------------------------------------


@define(eq=False)
class Channel:
    """A byte stream of a device instance towards its backend."""

    context: Context
    name: str

    def send(self, data: bytes) -> None:
        """Hand bytes to the backend; never waits."""
        self.context.send(self.name, data)

    def ready(self) -> None:
        """Tell the backend that `room` may have grown; never waits."""
        self.context.ready(self.name)


@define(eq=False)
class Stream:
    """Declares a byte stream to a backend that the machine file names (a file, a socket, ...)."""

    name: str = field(default="", init=False)
    receive: str | None = field(default=None, init=False)
    capacity: str | None = field(default=None, init=False)

    def on_receive(self, hook: ReceiveHook) -> ReceiveHook:
        """Decorate `hook(self, data)`: bytes came from the backend."""
        self.receive = name_of(self, hook)
        return hook

    def room(self, hook: RoomHook) -> RoomHook:
        """Decorate the pure `hook(self) -> int`: how many bytes the device takes now.

        The backend keeps the rest until the device calls `ready`.
        """
        self.capacity = name_of(self, hook)
        return hook

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> Stream: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> Channel: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> Stream | Channel:
        """Give the live stream on a device."""
        return self if instance is None else instance.channels[self.name]


class Effect(enum.Enum):
    """What becomes of a request that was under way when its backend died."""

    IDEMPOTENT = "idempotent"
    """It is done again."""
    QUERYABLE = "queryable"
    """The backend is asked what became of it."""
    AT_MOST_ONCE = "at most once"
    """It is never done again: event `effect_unknown`, and the device's `on_failure`."""


@define(eq=False)
class Client:
    """A device instance's side of a service; `number` is its last request's."""

    context: Context
    name: str
    effects: Mapping[str, Effect]
    number: int = 0
    restored: bool = False
    """In `on_restore`: the backend goes on from what it kept when the state was saved."""

    def send(self, kind: str, data: bytes = b"") -> int:
        """Ask; never waits.  The number comes back with the reply, or the failure."""
        if kind not in self.effects:
            raise ValueError(f"{self.name}: {kind!r} is no request; there are {', '.join(self.effects)}")
        self.number += 1
        self.context.ask(self.name, self.number, kind, data)
        return self.number

    def cancel(self, number: int) -> None:
        """Ask the backend to end a request early; it is still answered, perhaps in full."""
        self.context.cancel(self.name, number)


@define(eq=False)
class Requests:
    """Declares a service that a backend renders: numbered requests, a reply or a failure for each.

    `effects` says of each kind of request what may be done when it is in doubt.
    """

    effects: Mapping[str, Effect]
    name: str = field(default="", init=False)
    reply: str | None = field(default=None, init=False)
    failure: str | None = field(default=None, init=False)

    def client(self, context: Context) -> Client:
        """The side of a device instance."""
        return Client(context, self.name, self.effects)

    def on_reply(self, hook: ReplyHook) -> ReplyHook:
        """Decorate `hook(self, number, data)`."""
        self.reply = name_of(self, hook)
        return hook

    def on_failure(self, hook: FailureHook) -> FailureHook:
        """Decorate `hook(self, number, reason)`: there will be no reply."""
        self.failure = name_of(self, hook)
        return hook

    def replied(self, device: Device, number: int, data: bytes) -> None:
        """The backend of a device has answered."""
        if self.reply is not None:
            getattr(device, self.reply)(number, data)

    def failed(self, device: Device, number: int, reason: str) -> None:
        """The backend of a device will not answer."""
        if self.failure is not None:
            getattr(device, self.failure)(number, reason)

    def __set_name__(self, owner: type[Device], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, instance: None, owner: type[Device]) -> Requests: ...
    @overload
    def __get__(self, instance: Device, owner: type[Device]) -> Client: ...
    def __get__(self, instance: Device | None, owner: type[Device]) -> Requests | Client:
        """Give the live service on a device."""
        return self if instance is None else instance.clients[self.name]


Declaration = Region | IrqOutput | IrqOutputs | IrqInput | IrqInputs | Timer | Stream | Requests
