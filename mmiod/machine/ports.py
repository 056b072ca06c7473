"""Where a device's streams and requests leave its machine; nothing here waits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from attrs import define, frozen


@define
class BackendStatus:
    """What people want to know of a backend."""

    backend: str
    """As the machine file names it."""
    where: str = ""
    """What a person or program connects to; "" if there is nothing."""
    lost: int = 0
    """Bytes that found no room, or a backend that failed."""
    failure: str | None = None
    """Why it is not open; None while it is, or was not needed yet."""


@frozen
class Keeping:
    """What a service's backend keeps for its VM, and what becomes of it in a saved state."""

    kind: str
    schema: int
    parts: Mapping[str, int]
    """Their names, and the bytes of each at most."""


class StreamPort(Protocol):
    """The near end of a stream's backend."""

    status: BackendStatus

    def put(self, data: bytes) -> None:
        """Take bytes that the device sent; what exceeds a bound is lost and counted."""

    def ready(self) -> None:
        """The device may have room again."""


class ServicePort(Protocol):
    """The near end of a service's backend: what is asked is answered, once, by another hook."""

    status: BackendStatus

    keeping: Keeping | None
    """None: it keeps nothing that a saved state needs."""
    kept: Mapping[str, bytes] | None
    """What it kept when it was last asked, by part; None if it was lost."""
    refusal: str | None
    """Why it did not give or take that."""

    @property
    def busy(self) -> bool:
        """Whether a request has no answer yet."""

    def fetch(self) -> None:
        """Begin to ask what it keeps: no longer busy, it has `kept` or `refusal`."""

    def put_back(self, parts: Mapping[str, bytes]) -> None:
        """Begin to hand it what it kept."""

    def ask(self, number: int, kind: str, data: bytes) -> None:
        """Take a request."""

    def cancel(self, number: int) -> None:
        """End a request early if it is still under way."""

    def disown(self, last: int) -> None:
        """Requests with higher numbers than the `last` one are nobody's: they are not answered."""


class Messenger(Protocol):
    """Reaches guest memory that nobody shares, in answer to what a device's works ask."""

    def ask(self, work: str, kind: str, data: bytes) -> None:
        """Read or write; the answer comes as that of a service, never within this call.

        `data` is address and length, as `mmiod.device.work.RANGE`, and what is written.  A
        work that asks again has no use any more for an answer that has not come: it gets none.
        """
