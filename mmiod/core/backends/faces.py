"""What a backend is to the device task.

A stream's backend opens *links*: bytes out, bytes in.  A service's backend opens *service
links*: one request, one reply.  `open` is a context manager; whatever it holds (a socket,
a process) is gone when it is left.  What fails raises `OSError`, trio's resource errors
or `BackendFailed`, and the device task opens anew.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol, runtime_checkable

from attrs import frozen

from mmiod.machine.ports import Keeping


class BackendFailed(Exception):
    """The far side ended or broke its protocol; the message is the reason, for people."""


class RequestRefused(Exception):
    """This request was not done and will not be, though the backend lives."""


@frozen
class Place:
    """Whose backend it is; paths in specs are relative to `directory`."""

    vm: str
    device: str
    name: str
    """Of the stream or the service."""
    directory: Path = Path()

    def path(self, text: str) -> Path:
        """A path as a machine file writes it: `{vm}` and `{device}` stand for the names."""
        return self.directory / text.replace("{vm}", self.vm).replace("{device}", self.device)


class Link(Protocol):
    """An open stream; trio's streams are such."""

    async def send_all(self, data: bytes) -> None:
        """Take bytes that the device sent."""

    async def receive_some(self, max_bytes: int) -> bytes | bytearray:
        """Bytes for the device, at least one; none if the far side has ended."""


class StreamBackend(Protocol):
    """What a stream leads to."""

    @property
    def where(self) -> str:
        """What a person connects to while the link is open or awaited; "" if there is nothing."""

    @property
    def owns(self) -> str:
        """What only one backend of the daemon can have; "" if there is nothing."""

    @property
    def framed(self) -> bool:
        """Whether each piece that the device sends is a message of its own."""

    @property
    def attached(self) -> bool:
        """Whether anybody is known to take the bytes of the open link."""

    def open(self) -> AbstractAsyncContextManager[Link]:
        """Begin; may wait."""


@runtime_checkable
class ExactLink(Link, Protocol):
    """An open stream that tells at each moment what has gone."""

    async def send_some(self, data: bytes) -> int:
        """Take some bytes that the device sent; cancelled, it has taken none."""


@runtime_checkable
class Lasting(StreamBackend, Protocol):
    """What has descriptors that a daemon which executes itself anew keeps; its links are exact."""

    inherited: dict[str, int]
    """What another backend of the same kind had open, by name: the next `open` takes it over."""

    def descriptors(self) -> dict[str, int]:
        """What is open now, by name."""


class ServiceLink(Protocol):
    """An open service."""

    async def perform(self, kind: str, data: bytes) -> bytes:
        """Do a request.

        Raises:
            RequestRefused: it was not done, for this reason.
        """

    async def query(self, kind: str, data: bytes) -> bytes | None:
        """The reply to a request that was in doubt; None if it was not done."""

    async def cancel(self) -> None:
        """End the request under way early, if that can be.

        Raises:
            RequestRefused: it goes on.
        """

    async def watch(self) -> None:
        """Raise when the far side dies."""


@runtime_checkable
class QuickLink(ServiceLink, Protocol):
    """An open service that may do a request in next to no time."""

    @property
    def quick(self) -> frozenset[str]:
        """The kinds that are worth a try."""

    def at_once(self, kind: str, data: bytes) -> bytes | None:
        """Do a request in the core; None: `perform` goes on with it.

        Raises:
            RequestRefused: it was not done, for this reason.
        """


@runtime_checkable
class KeepingLink(ServiceLink, Protocol):
    """An open service with a state of its own, which goes with the VM's."""

    async def fetch(self) -> dict[str, bytes]:
        """What it keeps, by part.

        Raises:
            RequestRefused: it has lost what the device counts on.
        """

    async def put_back(self, parts: Mapping[str, bytes]) -> None:
        """Go on from what another one kept.

        Raises:
            RequestRefused: it does not take that, and is as it was.
        """


class ServiceBackend(Protocol):
    """What renders a service."""

    @property
    def keeping(self) -> Keeping | None:
        """What its links keep, which are `KeepingLink`s then; None if they keep nothing."""

    @property
    def owns(self) -> str:
        """What only one backend of the daemon can have; "" if there is nothing."""

    @property
    def kinds(self) -> frozenset[str]:
        """The requests that it knows."""

    def open(self) -> AbstractAsyncContextManager[ServiceLink]:
        """Begin; may wait."""
