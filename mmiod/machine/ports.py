"""Where a device's streams and requests leave its machine; nothing here waits."""

from __future__ import annotations

from typing import Protocol


class StreamPort(Protocol):
    """The near end of a stream's backend."""

    def put(self, data: bytes) -> None:
        """Take bytes that the device sent; what exceeds a bound is lost and counted."""

    def ready(self) -> None:
        """The device may have room again."""


class ServicePort(Protocol):
    """The near end of a service's backend: what is asked is answered, once, by another hook."""

    @property
    def busy(self) -> bool:
        """Whether a request has no answer yet."""

    def ask(self, number: int, kind: str, data: bytes) -> None:
        """Take a request."""

    def cancel(self, number: int) -> None:
        """End a request early if it is still under way."""
