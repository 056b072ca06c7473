"""The waist: the only door to a device, for every attachment.

`InlineHost.access` holds, once, what is true for each access whoever sends it: size
rules, order, the deadline mark, quarantine, statistics and the record.

Order: while a device owes the answer to an access (`PENDING`) it gets no other access;
later ones are answered `BUSY` and wait outside, in order.  Both sentinels are values,
so that waiting is the caller's business: see `core/run.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal, ParamSpec, Protocol, TypeVar

from attrs import define, field, frozen

from mmiod.device import Device, IrqOutput, Pending, Region
from mmiod.device.dispatch import RegisterAnswerer
from mmiod.machine.inputs import INPUTS, QUESTIONS, Input
from mmiod.machine.journal import DONE, LIMIT, Journal
from mmiod.machine.mark import HookDeadlineExceeded, Mark, reason_of
from mmiod.machine.replay import Replay
from mmiod.machine.snapshot import give, take
from mmiod.values import READ, WRITE, Direction, ones

if TYPE_CHECKING:
    from mmiod.device import Register
    from mmiod.device.dispatch import Claimant
    from mmiod.device.saved import Saved

P = ParamSpec("P")
T = TypeVar("T")

Status = Literal["ok", "pending", "size", "quarantined", "unclaimed", "forwarded"]

PERFORM: Final = {**INPUTS, **QUESTIONS}
MAX_MISSED: Final = 1024
"""Answers of backends that wait for a device in quarantine."""
RECORDED: Final = 64
"""Bytes of a batch that its record holds: as many as the largest access has."""


class Busy(enum.Enum):
    """The type of `BUSY`."""

    BUSY = "BUSY"


BUSY: Final = Busy.BUSY
"""The device owes another answer first: nothing was done, ask again."""


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

    def read_batch(self, region: str, offset: int, size: int, count: int, stride: int) -> bytes:
        """As many of `count` reads as the device answers at once."""

    def write_batch(self, region: str, offset: int, size: int, data: bytes, stride: int) -> int:
        """As many writes of `size` bytes as the device takes at once: their number."""

    def enqueue(self, region: str, offset: int, command: bytes) -> bool | Busy:
        """Whether the device takes a command of 64 bytes into a queue at `offset`."""

    def answers(self, region: str, offset: int, size: int, direction: Direction, value: int) -> bool:
        """Whether a register is there that allows this access as a whole."""

    def register_at(self, region: str, offset: int, size: int, direction: Direction) -> str:
        """The name of the register that an access meets, "" if there is none, for the record."""

    def quarantine(self, reason: BaseException) -> None:
        """Take the device out of service: from now on it reads all ones and takes no input."""


class Origin(Protocol):
    """Where an access comes from, and who hears of it: the machine."""

    mark: Mark

    def record(
        self,
        host: Host,
        direction: Direction,
        size: int,
        value: int,
        register: str,
        status: Status,
        ns: int,
        count: int = 1,
    ) -> None:
        """One access, or a batch of `count`, is over."""

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
    number: int = 0
    """Of the machine's devices, from 1."""
    journal: Journal = field(factory=Journal)
    missed: list[Input] = field(factory=list)
    """What came in quarantine and is not lost: answers of backends, a reset."""

    inputs: Mapping[str, Callable[..., Any]] = field(init=False, default=PERFORM)
    """How each kind of input reaches the device."""

    isolated: ClassVar[bool] = False
    """Whether it runs in a process of its own."""

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
        if len(pieces) == 1:
            answer = self._one(declared, offset, size, direction, value)
        else:
            answer = self._many(declared, pieces, direction, value, offset)
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

    # --- batches: what a device does of many accesses in one hook --------------------------

    def read_batch(self, region: str, offset: int, size: int, count: int, stride: int) -> bytes:
        """The first of `count` reads of `size` bytes, as many as the device answers at once.

        They go to `offset` (stride 0), or from there upwards (1) or downwards (-1), and
        stay inside the region.  None is answered where the device declares no batch, or
        owes an answer, or the bus would have to split: then accesses go one by one.
        """
        register = self._batch_register(region, offset, size, READ)
        if register is None:
            return b""
        started = perf_counter_ns()
        data: object = self.feed(b"", "read_batch", region, offset, size, count, stride)
        if not isinstance(data, bytes) or len(data) % size or len(data) > count * size:
            self.quarantine(TypeError(f"{count} reads of {size} bytes were answered by {data!r:.80}"))
            return b""
        self.statistics.reads += len(data) // size
        self._batched(READ, size, data, register, started)
        return data

    def write_batch(self, region: str, offset: int, size: int, data: bytes, stride: int) -> int:
        """How many of the first writes of `size` bytes the device takes at once."""
        register = self._batch_register(region, offset, size, WRITE)
        if register is None:
            return 0
        started = perf_counter_ns()
        taken: object = self.feed(0, "write_batch", region, offset, size, data, stride)
        if not isinstance(taken, int) or not 0 <= taken <= len(data) // size:
            self.quarantine(TypeError(f"{len(data) // size} writes were answered by {taken!r:.80}"))
            return 0
        self.statistics.writes += taken
        self._batched(WRITE, size, data[: taken * size], register, started)
        return taken

    def _batch_register(self, region: str, offset: int, size: int, direction: Direction) -> str | None:
        """The register's name for the record; None if a batch there is not for the device."""
        declared = self.device.regions[region]
        whole = split(declared, offset, size) == [(offset, size)] and size >= declared.implemented[0]
        if self.owes is not None or self.failure is not None or not whole:
            return None
        return self.register_at(region, offset, size, direction)

    def _batched(self, direction: Direction, size: int, data: bytes, register: str, started: int) -> None:
        """Count and record what a batch did: nothing, if it was refused."""
        if data:
            ns = perf_counter_ns() - started
            self.statistics.took(ns)
            seen = int.from_bytes(data[:RECORDED], "little")
            self.origin.record(self, direction, size, seen, register, self._status(), ns, len(data) // size)

    # --- what only some instructions do ----------------------------------------------------

    def enqueue(self, region: str, offset: int, command: bytes) -> bool | Busy:
        """Whether the device takes a command of 64 bytes; one that declares no queue takes none."""
        hook = self.device.regions[region].queue
        if hook is None or self.failure is not None:
            return False
        if self.owes is not None:
            return BUSY  # in order, as an access
        register = self.register_at(region, offset, len(command), WRITE)
        started = perf_counter_ns()
        taken: object = self.feed(False, "enqueue", region, offset, command)
        if not isinstance(taken, bool):
            self.quarantine(TypeError(f"a command was answered by {taken!r:.80}"))
        ns = perf_counter_ns() - started
        self.statistics.writes += 1
        self.statistics.took(ns)
        value = int.from_bytes(command, "little")
        self.origin.record(self, WRITE, len(command), value, register, self._status(), ns)
        return taken is True

    def answers(self, region: str, offset: int, size: int, direction: Direction, value: int) -> bool:
        """Whether a register is there that allows this access as a whole: else an MSR is not there."""
        if self.failure is not None:
            return True
        answers: Callable[..., bool] = self.inputs["answers"]
        found = self.guarded(answers, True, self.device, region, offset, size, direction, value)
        self.statistics.refused += not found
        return found

    def register_at(self, region: str, offset: int, size: int, direction: Direction) -> str:
        """The name of the register that an access meets, "" if there is none."""
        if self.failure is not None:
            return ""
        answerer = self.device.answerers[region]
        if isinstance(answerer, RegisterAnswerer):
            candidates = answerer.candidates(offset, direction)
            if len(candidates) == 1 and candidates[0].when is None and not candidates[0].whole:
                return candidates[0].name  # nothing of the plugin's decides
        at: Callable[[Device, int, Direction, int], Claimant | None] = answerer.at
        found = self.guarded(at, None, self.device, offset, direction, size)
        return found.name if found is not None else ""

    def settle(self, value: int) -> int | None:
        """The device completed the access it owed; the value as the vCPU gets it, None if it has one."""
        owed, self.owes = self.owes, None
        if owed is None:
            raise TypeError(f"{self.name} completed an access that it does not owe")
        if owed.answered:
            return None
        if owed.direction == READ:
            if not self._fits(value, owed.size):
                value = ones(owed.size)
            owed.value = value
        ns = perf_counter_ns() - owed.since_ns
        self.origin.record(self, owed.direction, owed.size, owed.value, owed.register, self._status(), ns)
        return value if owed.direction == READ else 0

    def feed(self, failed: T, kind: str, *arguments: object) -> T:
        """Give the device an input: noted before its hook runs, marked after; `failed` on any failure."""
        journal = self.journal
        entries = journal.entries
        if not journal.depth:
            if len(entries) + journal.weight > LIMIT and not self.cut():
                return failed
            journal.last = len(entries)
        running = self.origin.mark.running
        outer = running[0]
        running[0] = self.number
        journal.depth += 1
        entries.append((kind, arguments))
        answer: T = self.guarded(self.inputs[kind], failed, self.device, *arguments)
        journal.depth -= 1
        running[0] = outer
        entries.append(DONE)
        if self.failure is not None and not journal.depth:
            journal.refuse()
        return answer

    def relive(self) -> Relived | None:
        """A new device where the journal ends; None if it failed on the way."""
        self.failure = None
        replay = Replay(self.journal.entries, self.device.context, self.journal.owing)
        device = self.guarded(self._made, None, replay)
        while self.serves and not replay.ended:
            self.guarded(replay.step, None)
        if device is None or not self.serves:
            return None
        return Relived(device, replay.owing, replay.inputs)

    def _made(self, replay: Replay) -> Device:
        device = type(self.device)(replay, self.device.config)
        replay.begin(device)
        if self.journal.snapshot is not None:
            give(device, self.journal.snapshot)
            device.on_reload()
        return device

    # --- what a process of its own would be asked ------------------------------------------

    def snapshot(self) -> Saved:
        """What the device is now."""
        return take(self.device)

    def refresh(self) -> None:
        """`device` is what it shows."""

    @property
    def ready(self) -> bool:
        """Whether it can be restarted now."""
        return True

    def restored(self) -> None:
        """The device has a restored state."""
        self.guarded(self.device.on_restore, None)

    def value_of(self, declared: Register) -> int:
        """A register, without side effects; whatever the plugin's getter raises goes on."""
        return declared.__get__(self.device, type(self.device))

    def close(self) -> None:
        """The daemon ends."""

    def cut(self) -> bool:
        """Begin the journal anew with a snapshot; whether there is one."""
        snapshot = self.guarded(self.snapshot, None)
        if snapshot is not None:
            self.journal.cut(snapshot, owing=self.owes is not None)
        return snapshot is not None

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
            self._fail(error)
            return failed

    # --- inputs besides accesses; a device in quarantine takes none --------------------

    def reset(self) -> None:
        """Power-on or system reset; a device in quarantine is reset when it comes back."""
        self.owes = None
        if self.failure is None:
            self.feed(None, "reset")
        else:
            self.missed[:] = [("reset", ())]

    def deliver(self, line: str, level: bool) -> None:
        """A wire changed the level of an input line."""
        if self.failure is None:
            self.feed(None, "deliver", line, level)

    def fire(self, timer: str) -> None:
        """A timer is due."""
        if self.failure is None:
            self.feed(None, "fire", timer)

    def receive(self, stream: str, data: bytes) -> None:
        """Bytes came from a backend."""
        if self.failure is None and self.device.streams[stream].receive is not None:
            self.feed(None, "receive", stream, data)

    def room(self, stream: str) -> int | None:
        """Bytes of a stream that the device takes now; None is any number."""
        if self.device.streams[stream].capacity is None or self.failure is not None:
            return None
        room: int | None = self.guarded(self.inputs["room"], None, self.device, stream)
        return room

    def reply(self, service: str, number: int, data: bytes) -> None:
        """A service answered a request."""
        self._answered("reply", service, number, data)

    def fail(self, service: str, number: int, reason: str) -> None:
        """A service will not answer a request."""
        self._answered("fail", service, number, reason)

    def _answered(self, kind: str, service: str, number: int, answer: object) -> None:
        if self.failure is None:
            self.feed(None, kind, service, number, answer)
        elif len(self.missed) < MAX_MISSED:
            self.missed.append((kind, (service, number, answer)))

    def acknowledge(self, line: str) -> int | None:
        """A vCPU took the interrupt of an output line: the vector; None if there is none."""
        declared = self.device.outputs[line]
        hook = declared.acknowledge if isinstance(declared, IrqOutput) else None
        if self.failure is not None or hook is None:
            return None
        vector: int | None = self.feed(None, "acknowledge", line)
        return vector

    def quarantine(self, reason: BaseException) -> None:
        """Take the device out of service, for what it made of its last input: see `_fail`."""
        if self.failure is None and not self.journal.depth:
            self.journal.refuse()
        self._fail(reason)

    def _fail(self, reason: BaseException) -> None:
        """From now on the device reads all ones and takes no input."""
        if self.failure is None:
            self.failure = reason_of(reason)
            self.statistics.faults += 1
            self.origin.quarantined(self, reason)

    @property
    def serves(self) -> bool:
        """Whether it is in service."""
        return self.failure is None

    def _status(self) -> Status:
        return "ok" if self.failure is None else "quarantined"

    # --- size rules: QEMU's memory core (docs/devel/memory.rst, "MMIO Operations") -----

    def _one(self, region: Region, offset: int, size: int, direction: Direction, value: int) -> int | Pending:
        """An access that reaches the device as one, perhaps widened."""
        width = max(size, region.implemented[0])
        if direction == READ:
            answer = self.feed(ones(width), "read", region.name, offset, width)
            if isinstance(answer, Pending):
                return answer
            return answer & ones(size) if self._fits(answer, width) else ones(size)
        pending: object = self.feed(None, "write", region.name, offset, width, value)
        if isinstance(pending, Pending):
            return pending
        if pending is not None:
            self.quarantine(TypeError(f"a write of {width} bytes was answered by {pending!r}"))
        return 0

    def _many(
        self,
        region: Region,
        pieces: list[tuple[int, int]],
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
            part = self._one(region, offset, size, direction, value >> shift & ones(size))
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


@frozen
class Relived:
    """A device that lived through its journal."""

    device: Device
    owing: bool
    """Whether it owes an answer now."""
    inputs: int
    """How many it was given."""


@define
class Owed:
    """An access whose answer the device owes."""

    direction: Direction
    size: int
    value: int
    register: str
    since_ns: int
    answered: bool = False
    """Whoever waited has an answer already: the device failed meanwhile."""


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
