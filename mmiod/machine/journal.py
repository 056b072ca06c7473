"""What one device was given since its last snapshot, complete: what a restart lives through again.

    entries:  ("write", ("main", 4, 1, 0x80))    an input, noted before its hook runs
              (1234,)                             what the device asked meanwhile, and was told
              DONE                                the hook has ended

A device is a state machine whose inputs are the hooks' arguments and the answers of its
clock, of guest memory, of its storage and of the bus: both are noted, in order, so the same class comes to
the same state again.  An input of the device within its own hook (a line that leads back)
stands inside that of the outer one.  Outputs are not noted: they have gone out.

Bounded: past `LIMIT` the next input begins with a snapshot and an empty list, past
`PATIENT_LIMIT` if that would make a run of a work begin anew.  It lives in
this process and nowhere else: no command shows it, no saved state has it, and a core dump
leaves the process's memory out (`mmiod.service.memory`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final, TypeVar

from attrs import define, field

from mmiod.machine.inputs import Input
from mmiod.values import Space

if TYPE_CHECKING:
    from mmiod.device import Bus, Clock, Memory
    from mmiod.device.faces import Ranges
    from mmiod.device.saved import Saved
    from mmiod.machine.storage import Backings

T = TypeVar("T")

LIMIT: Final = 1024
"""Entries, and what they weigh."""
PATIENT_LIMIT: Final = 16 * LIMIT
"""While a run of a work is unfinished."""
BYTES_PER_ENTRY: Final = 1024
"""What a large answer weighs: the journal holds at most 16 MiB, and what one hook asked."""
DONE: Final = None

Answer = tuple[object]
Entry = Input | Answer | None


@define(eq=False)
class Journal:
    """One device's."""

    snapshot: Saved | None = None
    """None: the device as it was made."""
    owing: bool = False
    """Whether it owed an answer then."""
    entries: list[Entry] = field(factory=list)
    weight: int = 0
    """Of bytes, in entries."""
    depth: int = 0
    """Hooks of the device that run now."""
    last: int = 0
    """Where the last input begins that came from outside."""
    refused: Input | None = None
    """The input that failed: it is not in the list any more."""
    said: bool = False
    """Whether that sent or asked for anything that must not be done twice."""
    spoke: int = 0
    """Where such a thing was sent or asked for last."""

    def cut(self, snapshot: Saved, *, owing: bool) -> None:
        """Begin anew behind a snapshot."""
        self.snapshot, self.owing = snapshot, owing
        self.entries.clear()
        self.weight = self.last = self.spoke = 0
        self.refused = None

    def refuse(self) -> None:
        """The last input from outside is not to be lived through again."""
        if self.last < len(self.entries):
            first = self.entries[self.last]
            assert first is not None, "an input begins with itself"
            assert len(first) == 2, first
            self.refused, self.said = first, self.spoke > self.last
            del self.entries[self.last :]

    def decline(self, kind: str, arguments: tuple[object, ...]) -> None:
        """An input at which the device failed before its hook began."""
        self.refused, self.said = (kind, arguments), False

    def speak(self) -> None:
        """The device sends, or asks for, what must not be done twice."""
        self.spoke = len(self.entries)

    def told(self, answer: T) -> T:
        """Note what a hook asked: outside of hooks nothing follows from it."""
        if self.depth:
            self.entries.append((answer,))
            if isinstance(answer, bytes):
                self.weight += len(answer) // BYTES_PER_ENTRY
        return answer


# --- the faces of the machine, as a device that has a journal sees them -----------------------


@define(eq=False)
class NotedClock:
    """The guest's clock."""

    clock: Clock
    journal: Journal

    @property
    def now_ns(self) -> int:  # noqa: D102
        return self.journal.told(self.clock.now_ns)

    @property
    def wall_s(self) -> int:  # noqa: D102
        return self.journal.told(self.clock.wall_s)


@define(eq=False)
class NotedMemory:
    """Guest memory."""

    memory: Memory
    journal: Journal

    @property
    def below_4g(self) -> int:  # noqa: D102
        return self.memory.below_4g  # not noted: RAM's size is configuration, and devices keep what follows

    @property
    def above_4g(self) -> int:  # noqa: D102
        return self.memory.above_4g

    def read(self, gpa: int, length: int) -> bytes:  # noqa: D102
        return self.journal.told(self.memory.read(gpa, length))

    def fetch(self, gpa: int, length: int) -> bytes | None:  # noqa: D102
        return self.journal.told(self.memory.fetch(gpa, length))

    def store(self, gpa: int, data: bytes) -> bool:  # noqa: D102
        return self.journal.told(self.memory.store(gpa, data))

    def gather(self, ranges: Ranges) -> bytes | None:  # noqa: D102
        return self.journal.told(self.memory.gather(ranges))

    def holds(self, gpa: int, length: int) -> bool:  # noqa: D102
        return self.journal.told(self.memory.holds(gpa, length))

    def by_message(self, gpa: int, length: int) -> bool:  # noqa: D102
        return self.journal.told(self.memory.by_message(gpa, length))

    def write(self, gpa: int, data: bytes) -> None:  # noqa: D102
        self.memory.write(gpa, data)

    def scatter(self, ranges: Ranges, data: bytes) -> bool:  # noqa: D102
        return self.journal.told(self.memory.scatter(ranges, data))


@define(eq=False)
class NotedBus:
    """The VM's address spaces."""

    bus: Bus
    journal: Journal

    def read(self, space: Space, address: int, size: int) -> int:  # noqa: D102
        return self.journal.told(self.bus.read(space, address, size))

    def write(self, space: Space, address: int, size: int, value: int) -> None:  # noqa: D102
        self.bus.write(space, address, size, value)


@define(eq=False)
class NotedStorage:
    """The device's storage.

    Guests' own accesses are no inputs: the device sees what they wrote by what it reads.
    """

    storages: Mapping[str, Backings]
    device: str
    journal: Journal

    def read(self, region: str, offset: int, length: int) -> bytes:  # noqa: D102
        return self.journal.told(self.storages[self.device][region].read(offset, length))

    def write(self, region: str, offset: int, data: bytes) -> None:  # noqa: D102
        self.storages[self.device][region].write(offset, data)

    def clear(self, region: str, offset: int, length: int) -> None:  # noqa: D102
        self.storages[self.device][region].clear(offset, length)
