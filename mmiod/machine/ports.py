"""Where a device's streams and requests leave its machine; nothing here waits."""

from __future__ import annotations

from typing import Protocol

from attrs import define


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

    @property
    def busy(self) -> bool:
        """Whether a request has no answer yet."""

    def ask(self, number: int, kind: str, data: bytes) -> None:
        """Take a request."""

    def cancel(self, number: int) -> None:
        """End a request early if it is still under way."""
