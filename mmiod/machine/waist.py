"""What callers and machines know of a host: its doors, its answers, its counters."""

from __future__ import annotations

import enum
from typing import Final, Literal, Protocol

from attrs import define

from mmiod.device import Pending
from mmiod.machine.mark import Mark
from mmiod.values import WRITE, Direction

Status = Literal["ok", "pending", "size", "quarantined", "unclaimed", "forwarded", "answered"]


class Busy(enum.Enum):
    """The type of `BUSY`."""

    BUSY = "BUSY"


BUSY: Final = Busy.BUSY
"""The device owes another answer first: nothing was done, ask again."""


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

    @classmethod
    def answered_by_ones(cls) -> Owed:
        """What a device owes that was in quarantine."""
        return cls(WRITE, 0, 0, "", 0, answered=True)


class Named(Protocol):
    """Who had an access, or failed, or is waited for."""

    @property
    def name(self) -> str:
        """The device's."""


class Host(Named, Protocol):
    """What answers for a device: in this process, in another one, or from a record."""

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


class Published(Protocol):
    """What the hypervisor sees without asking."""

    def look(self, name: str) -> None:
        """A device's input is over."""

    def withdraw(self, name: str) -> bool:
        """What it sees of a device is not true any more."""


class Origin(Protocol):
    """Where an access comes from, and who hears of it: the machine."""

    mark: Mark

    @property
    def page(self) -> Published | None:
        """What is published; None if nothing is."""

    def record(
        self,
        host: Named,
        direction: Direction,
        size: int,
        value: int,
        register: str,
        status: Status,
        ns: int,
        count: int = 1,
    ) -> None:
        """One access, or a batch of `count`, is over."""

    def quarantined(self, host: Named, reason: BaseException) -> None:
        """A device failed."""

    def returns(self, host: Named) -> bool:
        """Whether a device in quarantine is tried again."""
