"""What a device sees of the machine around it.

A hook may call any of these at any time; none of them waits and none of them calls
back into the device before the hook has returned, except the bus (an access to
another device runs at once) and an interrupt line wired back to the device itself.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from mmiod.device.declarations import Region
    from mmiod.values import Space


Ranges = Sequence[tuple[int, int]]
"""Of guest memory: addresses and lengths."""


class Pending(enum.Enum):
    """The type of `PENDING`."""

    PENDING = "PENDING"


PENDING: Final = Pending.PENDING
"""A hook's answer "not yet": the access waits until the device calls `complete`."""


class Request(enum.IntEnum):
    """What a device can ask of the hypervisor."""

    SHUTDOWN = 1
    RESET = 2
    NMI = 3
    EXIT = 4


class Clock(Protocol):
    """The guest's clock: monotonic, stands while the VM is paused."""

    @property
    def now_ns(self) -> int:
        """Guest time in ns since power-on."""

    @property
    def wall_s(self) -> int:
        """Seconds since 1970 (UTC) that a real-time clock should show now.

        It changes where `now_ns` passes a multiple of 10^9.
        """


class Memory(Protocol):
    """Guest memory as the hypervisor mapped it; addresses are guest-physical."""

    @property
    def below_4g(self) -> int:
        """End of the RAM that begins at 0 and stays below 4 GiB, bytes."""

    @property
    def above_4g(self) -> int:
        """RAM from 4 GiB on, bytes."""

    def read(self, gpa: int, length: int) -> bytes:
        """DMA read.  What is not RAM, or only messages reach, reads as ones."""

    def write(self, gpa: int, data: bytes) -> None:
        """DMA write.  What is not RAM, or read-only, or only messages reach, drops the bytes."""

    def fetch(self, gpa: int, length: int) -> bytes | None:
        """`read`; None if some of it is reached `by_message`: a `Work` asks so, both in one."""

    def store(self, gpa: int, data: bytes) -> bool:
        """`write`; False, and nothing is written, if some of it is reached `by_message`."""

    def gather(self, ranges: Ranges) -> bytes | None:
        """`fetch` of each range, all their bytes in a row."""

    def scatter(self, ranges: Ranges, data: bytes) -> bool:
        """`store` to each range, of `data` as far as that goes."""

    def holds(self, gpa: int, length: int) -> bool:
        """Whether all of it is RAM that `read` and `write` reach."""

    def by_message(self, gpa: int, length: int) -> bool:
        """Whether some of it is reached by messages only: a `Work` sends them."""


class StorageFace(Protocol):
    """The bytes of the device's storage (`Storage`), by region and offset within it."""

    def read(self, region: str, offset: int, length: int) -> bytes:
        """Bytes from an offset on."""

    def write(self, region: str, offset: int, data: bytes) -> None:
        """Store bytes from an offset on."""

    def clear(self, region: str, offset: int, length: int) -> None:
        """Make whole pages zeros."""


class Bus(Protocol):
    """The VM's address spaces, for devices that are bridges."""

    def read(self, space: Space, address: int, size: int) -> int:
        """Read `size` bytes as a vCPU would; what nobody claims reads as its range says."""

    def write(self, space: Space, address: int, size: int, value: int) -> None:
        """Write `size` bytes as a vCPU would."""


class Context(Protocol):
    """The machine's side of one device."""

    @property
    def clock(self) -> Clock:
        """The guest's clock."""

    @property
    def memory(self) -> Memory:
        """Guest memory, for DMA."""

    @property
    def bus(self) -> Bus:
        """The VM's address spaces."""

    @property
    def storage(self) -> StorageFace:
        """The device's storage."""

    def notify(self, event: str, **fields: object) -> None:
        """Report an event of the device: a constant name, `noun_past_verb`, and its facts."""

    def request(self, kind: Request, value: int = 0) -> None:
        """Ask the hypervisor to shut down, reset, ...; `value` is an exit code."""

    def place(self, region: Region, space: Space, base: int | None) -> None:
        """Move a region that the guest places (a BAR); None takes it off the map."""

    def set_level(self, line: str, level: bool) -> None:
        """Drive an output line; called by `Line` on changes only."""

    def msi(self, address: int, data: int) -> None:
        """Send a message-signalled interrupt: a write of 4 bytes to an interrupt controller."""

    def arm(self, timer: str, deadline_ns: int | None) -> None:
        """Set or cancel a timer; called by `Alarm`."""

    def send(self, backend: str, data: bytes) -> None:
        """Hand bytes to a backend; called by `Channel`."""

    def ready(self, backend: str) -> None:
        """Tell a stream's backend that there may be room again; called by `Channel`."""

    def ask(self, backend: str, number: int, kind: str, data: bytes) -> None:
        """Hand a request to a service's backend, or a work's message on; called by `Client` and `Job`."""

    def cancel(self, backend: str, number: int) -> None:
        """Ask a service's backend to end a request early; called by `Client`."""

    def complete(self, value: int) -> None:
        """Answer the access for which a hook returned `PENDING`."""
