"""The waist: the only door to a device, for every attachment.

`InlineHost.access` holds, once, what is true for each access whoever sends it: size
rules, order, the deadline mark, quarantine, statistics and the record.

Order: while a device owes the answer to an access (`PENDING`) it gets no other access;
later ones are answered `BUSY` and wait outside, in order.  Both sentinels are values,
so that waiting is the caller's business: see `core/run.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from time import perf_counter_ns
from typing import TYPE_CHECKING, Final, Literal, ParamSpec, Protocol, TypeVar

from attrs import define, field

from mmiod.device import Device, IrqInput, IrqInputs, IrqOutput, Pending, Region
from mmiod.values import READ, Direction, ones

if TYPE_CHECKING:
    from mmiod.device.dispatch import Answerer, Claimant

P = ParamSpec("P")
T = TypeVar("T")

Status = Literal["ok", "pending", "size", "quarantined", "unclaimed", "forwarded"]


class Busy(enum.Enum):
    """The type of `BUSY`."""

    BUSY = "BUSY"


BUSY: Final = Busy.BUSY
"""The device owes another answer first: nothing was done, ask again."""


class HookDeadlineExceeded(BaseException):
    """Raised by the watchdog thread inside a hook that runs for too long.

    Not an `Exception`, so that a plugin's own `except Exception` does not catch it.
    """


@define(eq=False)
class Mark:
    """What runs now, for the watchdog: a hook of device `name` since `since_ns`, 0 if none.

    `serial` changes whenever that does.  The watchdog compares it and raises without a
    point in between where the GIL could change hands, so that a hook that has ended is
    never interrupted.
    """

    name: str = ""
    since_ns: int = 0
    serial: int = 0

    def enter(self, name: str) -> tuple[str, int, int]:
        """A hook begins; what ran around it is for `leave`."""
        now = perf_counter_ns()
        outer = (self.name, self.since_ns, now)
        self.serial += 1
        self.name, self.since_ns = name, now
        return outer

    def leave(self, outer: tuple[str, int, int]) -> None:
        """The hook is over; its time is not that of the hook around it."""
        name, since_ns, entered_ns = outer
        if since_ns:
            since_ns += perf_counter_ns() - entered_ns
        self.serial += 1
        self.name, self.since_ns = name, since_ns


@define(eq=False)
class Statistics:
    """Counters of one device; latencies in buckets of powers of two of ns."""

    reads: int = 0
    writes: int = 0
    refused: int = 0
    """Accesses of a size or alignment that the region does not answer."""
    faults: int = 0
    """Hooks that failed."""
    latency: list[int] = field(factory=lambda: [0] * 40)

    def took(self, ns: int) -> None:
        """Count a hook's duration."""
        self.latency[min(ns.bit_length(), 39)] += 1


class Host(Protocol):
    """What answers for a device: in this process, in another one, or from a record."""

    name: str

    def access(
        self, region: str, offset: int, size: int, direction: Direction, value: int
    ) -> int | Pending | Busy:
        """One access; the value of a read, 0 for a write."""

    def register_at(self, region: str, offset: int, size: int, direction: Direction) -> str:
        """The name of the register that an access meets, "" if there is none, for the record."""

    def quarantine(self, reason: BaseException) -> None:
        """Take the device out of service: from now on it reads all ones and takes no input."""


class Origin(Protocol):
    """Where an access comes from, and who hears of it: the machine."""

    mark: Mark

    def record(
        self, host: Host, direction: Direction, size: int, value: int, register: str, status: Status, ns: int
    ) -> None:
        """One access is over."""

    def quarantined(self, host: Host, reason: BaseException) -> None:
        """A device failed."""


@define(eq=False)
class InlineHost:
    """A device that runs in the core task."""

    name: str
    plugin: str
    device: Device
    origin: Origin
    generation: int = 1
    statistics: Statistics = field(factory=Statistics)
    failure: str | None = None
    """Why the device is in quarantine; None while it serves."""
    owes: Owed | None = None
    """The access that waits for `complete`."""

    def access(
        self, region: str, offset: int, size: int, direction: Direction, value: int
    ) -> int | Pending | Busy:
        """One access; the value of a read, 0 for a write.

        Args:
            region: the region's name.
            offset: bytes from its start; offset + size stays inside it.
            size: 1 to 64 bytes; what is no power of two is the part of an access that another region cut.
            direction: READ or WRITE.
            value: what is written.
        """
        if self.owes is not None:
            return BUSY
        if direction == READ:
            self.statistics.reads += 1
        else:
            self.statistics.writes += 1
        register = self.register_at(region, offset, size, direction)
        if self.failure is not None:
            return self._refuse(direction, size, register, "quarantined", value)
        declared = self.device.regions[region]
        pieces = split(declared, offset, size)
        if pieces is None:
            self.statistics.refused += 1
            return self._refuse(direction, size, register, "size", value)
        started = perf_counter_ns()
        answerer = self.device.answerers[region]
        if len(pieces) == 1:
            answer = self._one(answerer, offset, size, declared, direction, value)
        else:
            answer = self._many(answerer, pieces, declared, direction, value, offset)
        ns = perf_counter_ns() - started
        self.statistics.took(ns)
        status = self._status()
        if status != "ok":
            answer = ones(size) if direction == READ else 0
        if isinstance(answer, Pending):
            self.owes = Owed(direction, size, value, register, started)
            return answer
        seen = answer if direction == READ else value
        self.origin.record(self, direction, size, seen, register, status, ns)
        return answer

    def register_at(self, region: str, offset: int, size: int, direction: Direction) -> str:
        """The name of the register that an access meets, "" if there is none."""
        if self.failure is not None:
            return ""
        at: Callable[[Device, int, Direction, int], Claimant | None] = self.device.answerers[region].at
        found = self.guarded(at, None, self.device, offset, direction, size)
        return found.name if found is not None else ""

    def settle(self, value: int) -> int:
        """The device completed the access it owed; the value as the vCPU gets it."""
        owed, self.owes = self.owes, None
        if owed is None:
            raise TypeError(f"{self.name} completed an access that it does not owe")
        if owed.direction == READ:
            if not self._fits(value, owed.size):
                value = ones(owed.size)
            owed.value = value
        ns = perf_counter_ns() - owed.since_ns
        self.origin.record(self, owed.direction, owed.size, owed.value, owed.register, self._status(), ns)
        return value if owed.direction == READ else 0

    def guarded(self, hook: Callable[P, T], failed: T, *arguments: P.args, **named: P.kwargs) -> T:
        """Run a hook of the device; on any failure quarantine it and return `failed`."""
        mark = self.origin.mark
        outer = mark.enter(self.name)
        try:
            try:
                return hook(*arguments, **named)
            finally:
                mark.leave(outer)  # until its end the watchdog may interrupt, in here too
        except (Exception, HookDeadlineExceeded) as error:  # noqa: BLE001  # a plugin may raise anything
            mark.leave(outer)
            self.quarantine(error)
            return failed

    # --- inputs besides accesses; a device in quarantine takes none --------------------

    def reset(self) -> None:
        """Power-on or system reset: also what brings a device out of nothing but its own state."""
        self.owes = None
        if self.failure is None:
            self.guarded(self.device.reset, None)

    def deliver(self, declared: IrqInput | IrqInputs, line: str, level: bool) -> None:
        """A wire changed the level of an input line."""
        if self.failure is None:
            self.guarded(declared.deliver, None, self.device, line, level)

    def fire(self, timer: str) -> None:
        """A timer is due."""
        alarm, hook = self.device.alarms[timer], self.device.timers[timer].fire
        alarm.deadline_ns = None
        if self.failure is None and hook is not None:
            self.guarded(getattr(self.device, hook), None)

    def receive(self, stream: str, data: bytes) -> None:
        """Bytes came from a backend."""
        hook = self.device.streams[stream].receive
        if self.failure is None and hook is not None:
            self.guarded(getattr(self.device, hook), None, data)

    def room(self, stream: str) -> int | None:
        """Bytes of a stream that the device takes now; None is any number."""
        hook = self.device.streams[stream].capacity
        if self.failure is not None or hook is None:
            return None
        room: int | None = self.guarded(getattr(self.device, hook), None)
        return room

    def reply(self, service: str, number: int, data: bytes) -> None:
        """A service answered a request."""
        hook = self.device.services[service].reply
        if self.failure is None and hook is not None:
            self.guarded(getattr(self.device, hook), None, number, data)

    def fail(self, service: str, number: int, reason: str) -> None:
        """A service will not answer a request."""
        hook = self.device.services[service].failure
        if self.failure is None and hook is not None:
            self.guarded(getattr(self.device, hook), None, number, reason)

    def acknowledge(self, line: str) -> int | None:
        """A vCPU took the interrupt of an output line: the vector; None if there is none."""
        declared = self.device.outputs[line]
        hook = declared.acknowledge if isinstance(declared, IrqOutput) else None
        if self.failure is not None or hook is None:
            return None
        vector: int | None = self.guarded(getattr(self.device, hook), None)
        return vector

    def quarantine(self, reason: BaseException) -> None:
        """Take the device out of service: from now on it reads all ones and takes no input."""
        if self.failure is None:
            self.failure = f"{type(reason).__name__}: {reason}"
            self.statistics.faults += 1
            self.origin.quarantined(self, reason)

    def _status(self) -> Status:
        return "ok" if self.failure is None else "quarantined"

    # --- size rules: QEMU's memory core (docs/devel/memory.rst, "MMIO Operations") -----

    def _one(
        self, answerer: Answerer, offset: int, size: int, region: Region, direction: Direction, value: int
    ) -> int | Pending:
        """An access that reaches the device as one, perhaps widened."""
        width = max(size, region.implemented[0])
        if direction == READ:
            answer = self.guarded(answerer.read, ones(width), self.device, offset, width)
            if isinstance(answer, Pending):
                return answer
            return answer & ones(size) if self._fits(answer, width) else ones(size)
        pending: object = self.guarded(answerer.write, None, self.device, offset, width, value)
        if isinstance(pending, Pending):
            return pending
        if pending is not None:
            self.quarantine(TypeError(f"a write of {width} bytes was answered by {pending!r}"))
        return 0

    def _many(
        self,
        answerer: Answerer,
        pieces: list[tuple[int, int]],
        region: Region,
        direction: Direction,
        value: int,
        start: int,
    ) -> int:
        """An access that reaches the device in parts, low to high: each must be answered at once.

        The first part that fails is the last: what it returns then is not used.
        """
        total = 0
        for offset, size in pieces:
            shift = 8 * (offset - start)
            part = self._one(answerer, offset, size, region, direction, value >> shift & ones(size))
            if isinstance(part, Pending):
                self.quarantine(
                    TypeError(f"PENDING to a part of an access, at {offset:#x} with {size} bytes")
                )
                break
            if self._status() != "ok":
                break
            total |= part << shift
        return total if direction == READ else 0

    def _fits(self, value: object, size: int) -> bool:
        if isinstance(value, int) and 0 <= value <= ones(size):
            return True
        self.quarantine(TypeError(f"a read of {size} bytes was answered by {value!r}"))
        return False

    def _refuse(self, direction: Direction, size: int, register: str, status: Status, value: int) -> int:
        """Ones for a read; a write vanishes."""
        answer = ones(size) if direction == READ else 0
        seen = answer if direction == READ else value
        self.origin.record(self, direction, size, seen, register, status, 0)
        return answer


@define
class Owed:
    """An access whose answer the device owes."""

    direction: Direction
    size: int
    value: int
    register: str
    since_ns: int


def split(region: Region, offset: int, size: int) -> list[tuple[int, int]] | None:
    """The (offset, size) pieces in which a region takes an access, low to high.

    None if it does not take it: a piece is smaller than the region's valid sizes.
    """
    low, high = region.valid
    most = min(high, region.implemented[1])
    whole = low <= size <= most and not size & (size - 1)
    if whole and (region.unaligned or not offset & (size - 1)):
        return [(offset, size)]
    pieces = []
    end = offset + size
    while offset < end:
        taken = min(end - offset, high)
        if not region.unaligned and offset:
            taken = min(taken, offset & -offset)
        taken = 1 << (taken.bit_length() - 1)
        if taken < low:
            return None
        step = min(taken, most)
        pieces += [(at, step) for at in range(offset, offset + taken, step)]
        offset += taken
    return pieces
