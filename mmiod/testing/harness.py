"""Drive one device model without a daemon: fake clock, lines, memory, bus and backends.

    uart = Harness(Uart16550)
    uart.write("thr", 0x41)             # by register name (its bank must be selected)
    uart.read_at(5)                     # or by offset within a region
    uart.levels["irq"]                  # output lines
    uart.advance(1_000_000)             # guest time in ns; due timers fire in order

Accesses go straight to the device's answerers: sizes are the caller's business here,
the bus's size rules are the machine's.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from attrs import define, field

from mmiod.device import Device, Pending, Region, Register, Request
from mmiod.device.accesses import parts
from mmiod.device.faces import Ranges
from mmiod.machine.inputs import INPUTS
from mmiod.values import READ, WRITE, Direction, Space, ones

AnyDevice = TypeVar("AnyDevice", bound=Device)

WALL_START_S = 1_700_000_000
"""2023-11-14 22:13:20 UTC: what `clock.wall_s` shows at guest time 0."""


@define
class FakeClock:
    """A clock that moves when told to."""

    now_ns: int = 0

    @property
    def wall_s(self) -> int:
        """Seconds since 1970, `WALL_START_S` at guest time 0."""
        return WALL_START_S + self.now_ns // 1_000_000_000


@define
class FakeMemory:
    """RAM from 0 in one piece."""

    ram: bytearray = field(factory=lambda: bytearray(1 << 20))
    above_4g: int = 0
    messages: bool = False

    @property
    def below_4g(self) -> int:
        """Bytes of RAM."""
        return len(self.ram)

    def read(self, gpa: int, length: int) -> bytes:
        """Bytes of RAM; ones outside."""
        inside = bytes(self.ram[gpa : gpa + length])
        return inside + b"\xff" * (length - len(inside))

    def fetch(self, gpa: int, length: int) -> bytes | None:
        """`read`, where no message is needed."""
        return None if self.by_message(gpa, length) else self.read(gpa, length)

    def store(self, gpa: int, data: bytes) -> bool:
        """`write`, where no message is needed."""
        here = not self.by_message(gpa, len(data))
        if here:
            self.write(gpa, data)
        return here

    def gather(self, ranges: Ranges) -> bytes | None:
        """`read` of each range, where no message is needed."""
        if any(self.by_message(gpa, length) for gpa, length in ranges):
            return None
        return b"".join(self.read(gpa, length) for gpa, length in ranges)

    def scatter(self, ranges: Ranges, data: bytes) -> bool:
        """`write` to each range, where no message is needed."""
        if any(self.by_message(gpa, length) for gpa, length in ranges):
            return False
        for gpa, part in parts(ranges, data):
            self.write(gpa, part)
        return True

    def holds(self, gpa: int, length: int) -> bool:
        """Whether all of it is inside."""
        return gpa + length <= len(self.ram)

    def by_message(self, gpa: int, length: int) -> bool:
        """Whether works send messages, as `messages` says; they are in `FakeContext.asked`."""
        return self.messages and gpa < len(self.ram) and length > 0

    def write(self, gpa: int, data: bytes) -> None:
        """Store what is inside."""
        end = min(gpa + len(data), len(self.ram))
        if gpa < end:
            self.ram[gpa:end] = data[: end - gpa]


@define
class FakeBus:
    """An address space of byte cells that reads ones where nothing was written."""

    cells: dict[tuple[Space, int], int] = field(factory=dict)
    accesses: list[tuple[Space, Direction, int, int, int]] = field(factory=list)

    def read(self, space: Space, address: int, size: int) -> int:
        """Compose a read from cells."""
        value = sum(self.cells.get((space, address + n), 0xFF) << 8 * n for n in range(size))
        self.accesses.append((space, READ, address, size, value))
        return value

    def write(self, space: Space, address: int, size: int, value: int) -> None:
        """Spread a write over cells."""
        self.accesses.append((space, WRITE, address, size, value))
        for n in range(size):
            self.cells[space, address + n] = value >> 8 * n & 0xFF


@define
class FakeStorage:
    """Storage, by region: zeros where nothing was written."""

    regions: dict[str, bytearray] = field(factory=dict)

    def read(self, region: str, offset: int, length: int) -> bytes:
        """Bytes at an offset."""
        return bytes(self._reaching(region, offset + length)[offset : offset + length])

    def write(self, region: str, offset: int, data: bytes) -> None:
        """Store bytes at an offset."""
        self._reaching(region, offset + len(data))[offset : offset + len(data)] = data

    def clear(self, region: str, offset: int, length: int) -> None:
        """Make bytes zeros."""
        self.write(region, offset, bytes(length))

    def _reaching(self, region: str, end: int) -> bytearray:
        found = self.regions.setdefault(region, bytearray())
        found.extend(bytes(max(0, end - len(found))))
        return found


@define
class FakeContext:
    """Keeps what the device does to the outside, in order of time where it matters."""

    clock: FakeClock = field(factory=FakeClock)
    memory: FakeMemory = field(factory=FakeMemory)
    bus: FakeBus = field(factory=FakeBus)
    storage: FakeStorage = field(factory=FakeStorage)
    events: list[tuple[str, dict[str, object]]] = field(factory=list)
    requests: list[tuple[Request, int]] = field(factory=list)
    placed: dict[str, tuple[Space, int | None]] = field(factory=dict)
    edges: list[tuple[str, bool]] = field(factory=list)
    messages: list[tuple[int, int]] = field(factory=list)
    deadlines: dict[str, int] = field(factory=dict)
    sent: dict[str, bytearray] = field(factory=dict)
    readied: list[str] = field(factory=list)
    asked: list[tuple[str, int, str, bytes]] = field(factory=list)
    """Requests: (service, number, kind, data)."""
    cancelled: list[tuple[str, int]] = field(factory=list)
    completed: list[int] = field(factory=list)

    def notify(self, event: str, **fields: object) -> None:  # noqa: D102
        self.events.append((event, fields))

    def request(self, kind: Request, value: int = 0) -> None:  # noqa: D102
        self.requests.append((kind, value))

    def place(self, region: Region, space: Space, base: int | None) -> None:  # noqa: D102
        self.placed[region.name] = (space, base)

    def set_level(self, line: str, level: bool) -> None:  # noqa: D102
        self.edges.append((line, level))

    def msi(self, address: int, data: int) -> None:  # noqa: D102
        self.messages.append((address, data))

    def arm(self, timer: str, deadline_ns: int | None) -> None:  # noqa: D102
        self.deadlines.pop(timer, None)
        if deadline_ns is not None:
            self.deadlines[timer] = deadline_ns

    def send(self, backend: str, data: bytes) -> None:  # noqa: D102
        self.sent.setdefault(backend, bytearray()).extend(data)

    def ready(self, backend: str) -> None:  # noqa: D102
        self.readied.append(backend)

    def ask(self, backend: str, number: int, kind: str, data: bytes) -> None:  # noqa: D102
        self.asked.append((backend, number, kind, data))

    def cancel(self, backend: str, number: int) -> None:  # noqa: D102
        self.cancelled.append((backend, number))

    def complete(self, value: int) -> None:  # noqa: D102
        self.completed.append(value)


class Harness(Generic[AnyDevice]):
    """One device, reset, with everything around it faked."""

    def __init__(self, plugin: type[AnyDevice], config: object | None = None) -> None:
        """Make and reset the device."""
        self.context = FakeContext()
        self.device = plugin(self.context, config)
        self._do("reset")

    @property
    def levels(self) -> dict[str, bool]:
        """Output lines by name."""
        return {name: line.level for name, line in self.device.lines.items()}

    def read_at(self, offset: int, size: int = 1, region: str | None = None) -> int:
        """A guest's read; a device that answers `PENDING` is not for this method."""
        value: int | Pending = self._do("read", self._region(region), offset, size)
        if isinstance(value, Pending):
            raise TypeError(f"PENDING at {offset:#x}")
        if not 0 <= value <= ones(size):
            raise ValueError(f"read of {size} bytes at {offset:#x} gave {value:#x}")
        return value

    def write_at(self, offset: int, value: int, size: int = 1, region: str | None = None) -> None:
        """A guest's write."""
        self._do("write", self._region(region), offset, size, value)

    def read(self, register: str) -> int:
        """A guest's read of a whole register, by name."""
        found = self._register(register, READ)
        return self.read_at(found.offset, found.size, self._home(found))

    def write(self, register: str, value: int) -> None:
        """A guest's write of a whole register, by name."""
        found = self._register(register, WRITE)
        self.write_at(found.offset, value, found.size, self._home(found))

    def read_batch(self, register: str, count: int) -> bytes:
        """What of `count` reads the device answers at once: nothing, if it takes no batches."""
        found = self._register(register, READ)
        data: bytes = self._do("read_batch", self._home(found), found.offset, found.size, count, 0)
        return data

    def write_batch(self, register: str, data: bytes) -> int:
        """How many of these writes the device takes at once."""
        found = self._register(register, WRITE)
        taken: int = self._do("write_batch", self._home(found), found.offset, found.size, data, 0)
        return taken

    def drive(self, line: str, level: bool) -> None:
        """Change an input line."""
        if self.device.inputs[line] != level:
            self._do("deliver", line, level)

    def acknowledge(self, line: str) -> int:
        """INTA for an output line: the vector."""
        vector: int = self._do("acknowledge", line)
        return vector

    def receive(self, stream: str, data: bytes) -> None:
        """Bytes arrive from the backend."""
        self._do("receive", stream, data)

    def sent(self, stream: str) -> bytes:
        """What went to the backend so far."""
        return bytes(self.context.sent.get(stream, b""))

    def room(self, stream: str) -> int:
        """Bytes of the stream that the device would take now."""
        room: int = getattr(self.device, self.device.streams[stream].capacity)()  # type: ignore[arg-type]
        return room

    def reply(self, service: str, number: int, data: bytes) -> None:
        """A service answers a request, or a message that a work has sent."""
        self._do("reply", service, number, data)

    def fail(self, service: str, number: int, reason: str) -> None:
        """A service will not answer a request."""
        self._do("fail", service, number, reason)

    def advance(self, ns: int) -> None:
        """Let guest time pass; timers due on the way fire at their deadline."""
        end = self.context.clock.now_ns + ns
        while self.context.deadlines:
            name, deadline = min(self.context.deadlines.items(), key=lambda item: item[1])
            if deadline > end:
                break
            self.context.clock.now_ns = max(self.context.clock.now_ns, deadline)
            del self.context.deadlines[name]
            self._do("fire", name)
        self.context.clock.now_ns = end

    def _do(self, kind: str, *arguments: object) -> Any:  # noqa: ANN401
        """Give the device an input."""
        return INPUTS[kind](self.device, *arguments)

    def _region(self, name: str | None) -> str:
        if name is not None:
            return name
        if len(self.device.regions) != 1:
            raise ValueError(f"name one of the regions {', '.join(self.device.regions)}")
        return next(iter(self.device.regions))

    def _register(self, name: str, direction: Direction) -> Register:
        register = self.device.declared.get(name)
        if register is None:
            raise ValueError(f"no register {name}; there are {', '.join(sorted(self.device.declared))}")
        found = self.device.answerers[self._home(register)].at(self.device, register.offset, direction)
        if found is not register:
            raise ValueError(
                f"{name} is not selected now; {found.name if found else 'nothing'} is at its offset"
            )
        return register

    def _home(self, register: Register) -> str:
        return register.region.name if register.region else self._region(None)
