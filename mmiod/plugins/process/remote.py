"""The surroundings of a device in a worker: what its hooks do and ask goes to the host."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

from attrs import define

from mmiod.device import Region, Request
from mmiod.device.faces import Ranges
from mmiod.plugins.process.channel import WorkerEnd
from mmiod.values import Space


@define(eq=False)
class RemoteContext:
    """The machine's side of the device, at the other end of the channel."""

    channel: WorkerEnd
    handle: Callable[..., None]
    """Does what the host says."""
    now: int = 0
    wall: int = 0

    def ask_host(self, *question: object) -> Any:  # noqa: ANN401
        """What the host answers; the way to that may lead back to the device."""
        self.channel.flush(*question)
        while True:
            kind, *arguments = self.channel.receive()
            if kind == "answer":
                return arguments[0]
            self.handle(kind, *arguments)

    @property
    def clock(self) -> RemoteClock:  # noqa: D102
        return RemoteClock(self)

    @property
    def memory(self) -> RemoteMemory:  # noqa: D102
        return RemoteMemory(self)

    @property
    def bus(self) -> RemoteBus:  # noqa: D102
        return RemoteBus(self)

    @property
    def storage(self) -> RemoteStorage:  # noqa: D102
        return RemoteStorage(self)

    def notify(self, event: str, **fields: object) -> None:  # noqa: D102
        self.channel.put("notify", event, fields)

    def request(self, kind: Request, value: int = 0) -> None:  # noqa: D102
        self.channel.put("request", int(kind), value)

    def place(self, region: Region, space: Space, base: int | None) -> None:  # noqa: D102
        self.channel.put("place", region.name, int(space), base)

    def set_level(self, line: str, level: bool) -> None:  # noqa: D102
        self.channel.put("set_level", line, level)

    def msi(self, address: int, data: int) -> None:  # noqa: D102
        self.channel.put("msi", address, data)

    def arm(self, timer: str, deadline_ns: int | None) -> None:  # noqa: D102
        self.channel.put("arm", timer, deadline_ns)

    def send(self, backend: str, data: bytes) -> None:  # noqa: D102
        self.channel.put("send", backend, data)

    def ready(self, backend: str) -> None:  # noqa: D102
        self.channel.put("ready", backend)

    def ask(self, backend: str, number: int, kind: str, data: bytes) -> None:  # noqa: D102
        self.channel.put("ask", backend, number, kind, data)

    def cancel(self, backend: str, number: int) -> None:  # noqa: D102
        self.channel.put("cancel", backend, number)

    def complete(self, value: int) -> None:  # noqa: D102
        self.channel.put("complete", value)


@define
class RemoteClock:
    """Guest time as it was when the hook began; the host's journal hears that it was looked at."""

    context: RemoteContext

    @property
    def now_ns(self) -> int:  # noqa: D102
        self.context.channel.put("told", self.context.now)
        return self.context.now

    @property
    def wall_s(self) -> int:  # noqa: D102
        self.context.channel.put("told", self.context.wall)
        return self.context.wall


@define
class RemoteMemory:
    """Guest memory, read and written by the host."""

    context: RemoteContext

    @property
    def below_4g(self) -> int:  # noqa: D102
        below: int = self.context.ask_host("memory.below_4g")
        return below

    @property
    def above_4g(self) -> int:  # noqa: D102
        above: int = self.context.ask_host("memory.above_4g")
        return above

    def read(self, gpa: int, length: int) -> bytes:  # noqa: D102
        data: bytes = self.context.ask_host("memory.read", gpa, length)
        return data

    def fetch(self, gpa: int, length: int) -> bytes | None:  # noqa: D102
        data: bytes | None = self.context.ask_host("memory.fetch", gpa, length)
        return data

    def store(self, gpa: int, data: bytes) -> bool:  # noqa: D102
        stored: bool = self.context.ask_host("memory.store", gpa, bytes(data))
        return stored

    def gather(self, ranges: Ranges) -> bytes | None:  # noqa: D102
        data: bytes | None = self.context.ask_host("memory.gather", [*chain.from_iterable(ranges)])
        return data

    def scatter(self, ranges: Ranges, data: bytes) -> bool:  # noqa: D102
        flat = [*chain.from_iterable(ranges)]
        stored: bool = self.context.ask_host("memory.scatter", flat, bytes(data))
        return stored

    def holds(self, gpa: int, length: int) -> bool:  # noqa: D102
        held: bool = self.context.ask_host("memory.holds", gpa, length)
        return held

    def by_message(self, gpa: int, length: int) -> bool:  # noqa: D102
        distant: bool = self.context.ask_host("memory.by_message", gpa, length)
        return distant

    def write(self, gpa: int, data: bytes) -> None:  # noqa: D102
        self.context.channel.put("memory.write", gpa, bytes(data))


@define
class RemoteStorage:
    """The device's storage, read and written by the host."""

    context: RemoteContext

    def read(self, region: str, offset: int, length: int) -> bytes:  # noqa: D102
        data: bytes = self.context.ask_host("storage.read", region, offset, length)
        return data

    def write(self, region: str, offset: int, data: bytes) -> None:  # noqa: D102
        self.context.channel.put("storage.write", region, offset, data)

    def clear(self, region: str, offset: int, length: int) -> None:  # noqa: D102
        self.context.channel.put("storage.clear", region, offset, length)


@define
class RemoteBus:
    """The VM's address spaces; what the bus does to other devices is done at once."""

    context: RemoteContext

    def read(self, space: Space, address: int, size: int) -> int:  # noqa: D102
        value: int = self.context.ask_host("bus.read", int(space), address, size)
        return value

    def write(self, space: Space, address: int, size: int, value: int) -> None:  # noqa: D102
        self.context.ask_host("bus.write", int(space), address, size, value)
