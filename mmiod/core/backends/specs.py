"""From what a machine file says ("pty", "unix:PATH", { kind = "block", ... }) to a backend."""

from __future__ import annotations

import shlex
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Final, Generic, TypeVar

from attrs import frozen

from mmiod.core.backends.block import BlockBackend
from mmiod.core.backends.entropy import EntropyBackend
from mmiod.core.backends.faces import Place, RequestRefused, ServiceBackend, ServiceLink, StreamBackend
from mmiod.core.backends.processes import ProcessBackend
from mmiod.core.backends.sinks import FileBackend, LogBackend
from mmiod.core.backends.sockets import ConnectBackend, DatagramBackend, UnixBackend
from mmiod.core.backends.swtpm import SwtpmBackend, SwtpmSocketBackend
from mmiod.core.backends.terminals import PtyBackend, StdioBackend
from mmiod.machine.description import BackendDescription, ImageDescription

Backend = TypeVar("Backend")

NULL: Final = "null"


@frozen
class NoBackend:
    """What renders a service that the machine file gives nobody: each request fails."""

    kinds: frozenset[str]
    owns = ""
    keeping = None

    @asynccontextmanager
    async def open(self) -> AsyncIterator[ServiceLink]:
        """There is nothing to open."""
        yield self

    async def perform(self, kind: str, data: bytes) -> bytes:  # noqa: ARG002
        """Refuse."""
        raise RequestRefused("the machine file names no backend")

    async def query(self, kind: str, data: bytes) -> bytes | None:  # noqa: ARG002
        """Nothing was done."""
        return None

    async def cancel(self) -> None:
        """There is nothing under way."""

    async def watch(self) -> None:
        """Nothing can end."""


def stream_backend(spec: BackendDescription, place: Place) -> StreamBackend | None:
    """The backend of a stream; None for `null`.

    Raises:
        ValueError: no backend is called so.
    """
    return None if spec == NULL else _make(str(spec), place, "stream", _STREAMS)


def service_backend(spec: BackendDescription, place: Place, kinds: frozenset[str]) -> ServiceBackend:
    """The backend of a service that is asked these kinds of requests.

    Raises:
        ValueError: no backend is called so, it does not know a request, or there is no such image.
    """
    if spec == NULL:
        return NoBackend(kinds)
    if isinstance(spec, ImageDescription):
        backend: ServiceBackend = _image(spec.path, place, read_only=spec.read_only)
    else:
        backend = _make(spec, place, "service", _SERVICES)
    unknown = kinds - backend.kinds
    if unknown:
        raise ValueError(f"service {place.name} = {str(spec)!r}: it does not do {', '.join(sorted(unknown))}")
    return backend


def _make(spec: str, place: Place, what: str, forms: Mapping[str, _Form[Backend]]) -> Backend:
    kind, _, argument = spec.partition(":")
    form = forms.get(kind)
    if form is None or (not argument if form.needs else argument and form.needs is False):
        usages = ", ".join(found.usage for found in forms.values())
        raise ValueError(f"{what} {place.name} = {spec!r}: a backend is null, {usages}")
    return form.make(argument, place)


@frozen
class _Form(Generic[Backend]):
    usage: str
    needs: bool | None
    """Whether there must be an argument; None if there may be."""
    make: Callable[[str, Place], Backend]


def _image(path: str, place: Place, *, read_only: bool = False) -> BlockBackend:
    backend = BlockBackend(place.path(path), read_only)
    try:
        backend.check()
    except ValueError as error:
        raise ValueError(f"service {place.name} = 'block:{path}': {error}") from error
    return backend


def _swtpm_socket(argument: str, place: Place) -> ServiceBackend:
    data, comma, control = argument.partition(",")
    if not (data and comma and control):
        raise ValueError(f"service {place.name} = 'swtpm-socket:{argument}': it is swtpm-socket:DATA,CONTROL")
    return SwtpmSocketBackend(place.path(data), place.path(control))


def _command(argument: str, place: Place) -> StreamBackend:
    try:
        return ProcessBackend(tuple(shlex.split(argument)))
    except ValueError as error:
        raise ValueError(f"stream {place.name} = 'process:{argument}': {error}") from error


_STREAMS: Final[Mapping[str, _Form[StreamBackend]]] = {
    "log": _Form("log", False, lambda _, place: LogBackend(place)),
    "file": _Form("file:PATH", True, lambda path, place: FileBackend(place.path(path))),
    "stdio": _Form("stdio", False, lambda _argument, _place: StdioBackend()),
    "pty": _Form("pty[:LINK]", None, lambda link, place: PtyBackend(place.path(link) if link else None)),
    "unix": _Form("unix:PATH", True, lambda path, place: UnixBackend(place.path(path))),
    "unix-connect": _Form("unix-connect:PATH", True, lambda path, place: ConnectBackend(place.path(path))),
    "datagram": _Form("datagram:PATH", True, lambda path, place: DatagramBackend(place.path(path))),
    "random": _Form("random[:SEED]", None, lambda seed, _place: EntropyBackend(seed)),
    "process": _Form("process:COMMAND", True, _command),
}
_SERVICES: Final[Mapping[str, _Form[ServiceBackend]]] = {
    "block": _Form("block:PATH", True, _image),
    "swtpm": _Form(
        "swtpm[:DIRECTORY]", None, lambda path, place: SwtpmBackend(place.path(path) if path else None)
    ),
    "swtpm-socket": _Form("swtpm-socket:DATA,CONTROL", True, _swtpm_socket),
}
