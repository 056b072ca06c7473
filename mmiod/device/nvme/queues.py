"""Queues, and the commands between them.

Numbers in comments are sections of NVM Express 1.4.
"""

from __future__ import annotations

from typing import Final

from attrs import define, field

from mmiod.device.nvme.entries import COMPLETION_SIZE, SUBMISSION_SIZE

IO_QUEUES: Final = 8
"""Pairs besides the admin queues."""
MAX_ENTRIES: Final = 1024
"""Of an I/O queue: CAP.MQES is one less."""


@define
class SubmissionQueue:
    """A ring that the host fills (4.1); `completions` is the number of its completion queue."""

    number: int
    base: int
    size: int
    completions: int
    head: int = 0
    tail: int = 0

    @property
    def first(self) -> int:
        """Where its first entry is."""
        return self.base + SUBMISSION_SIZE * self.head

    def advance(self) -> None:
        """Its first entry was taken."""
        self.head = (self.head + 1) % self.size

    def ring(self, value: int) -> None:
        """The host has filled it up to there (3.1.25)."""
        self.tail = value


@define
class CompletionQueue:
    """A ring that the host empties (4.1)."""

    number: int
    base: int
    size: int
    vector: int = 0
    interrupts: bool = True
    head: int = 0
    tail: int = 0
    phase: int = 1
    due: int = 0
    """Commands whose completion will come here: what is promised room."""
    owed: bool = False
    """An interrupt for what was posted."""
    ahead: bool = False
    """The host has seen more than was posted: an entry was written by a run that goes on, or begins anew."""

    @property
    def room(self) -> int:
        """Entries that can be posted."""
        return self.size - 1 if self.ahead else (self.head - self.tail - 1) % self.size

    @property
    def interrupting(self) -> bool:
        """Whether there is something that the host has not seen, and wants to hear of."""
        return self.interrupts and self.head != self.tail and not self.ahead

    @property
    def next(self) -> int:
        """Where the next entry goes."""
        return self.base + COMPLETION_SIZE * self.tail

    def advance(self) -> None:
        """An entry was posted; the phase changes with each turn (4.6)."""
        self.tail = (self.tail + 1) % self.size
        self.phase ^= not self.tail
        self.due -= 1
        self.owed = self.interrupts
        self.ahead = self.ahead and self.head != self.tail

    def ring(self, value: int) -> None:
        """The host has seen what is before (3.1.26)."""
        if value != self.head:
            self.ahead = (value - self.head) % self.size > (self.tail - self.head) % self.size
        self.head = value


@define
class Step:
    """One thing to ask of the image; a flush has no blocks."""

    kind: str = ""
    block: int = 0
    count: int = 0

    def split(self, most: int) -> tuple[Step, list[Step]]:
        """What one request can be for, and the rest."""
        if self.count <= most:
            return self, []
        return Step(self.kind, self.block, most), [Step(self.kind, self.block + most, self.count - most)]


@define(eq=False)
class Command:
    """A command from its fetching to its completion."""

    submissions: int
    completions: int
    """Numbers of its queues."""
    identifier: int
    prp1: int = 0
    prp2: int = 0
    steps: list[Step] = field(factory=list)
    """What is left to ask, one after the other."""
    step: Step = field(factory=Step)
    """What is asked now."""
    request: int = 0
    """Number of the request that is under way."""
    status: int = 0
    result: int = 0
    data: bytes = b""
    """What goes to the host before the completion does."""
