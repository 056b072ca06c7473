"""The process of one device: `python -m mmiod.plugins.process.worker FD`.

It loads the plugin, confines itself, says that it is ready, and then does what it is told,
one message at a time:

    ("begin", saved, entries, owing, refused)    make the device, and live through its journal
    (INPUT, arguments, now_ns, wall_s)           an input; guest time stands while its hook runs
    ("save", ), ("give", ...), ("inspect", register)

Every one is answered by "answer" or "failed".  What the device does to its surroundings goes
out before that; what it asks of guest memory and of the bus waits for the host.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from attrs import define, field

from mmiod import config as configuration
from mmiod.device import Device, Region, Request
from mmiod.machine.description import DeviceDescription
from mmiod.machine.inputs import INPUTS, QUESTIONS, Perform, skip
from mmiod.machine.replay import Replay, adopt
from mmiod.machine.snapshot import give
from mmiod.plugins.loader import Source, make
from mmiod.plugins.process.channel import WorkerEnd
from mmiod.plugins.process.confinement import confine, die_with_parent
from mmiod.plugins.process.texts import from_text, prepare, to_text
from mmiod.values import Space

PERFORM: Final[Mapping[str, Perform]] = {**INPUTS, **QUESTIONS}


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

    def holds(self, gpa: int, length: int) -> bool:  # noqa: D102
        held: bool = self.context.ask_host("memory.holds", gpa, length)
        return held

    def write(self, gpa: int, data: bytes) -> None:  # noqa: D102
        self.context.channel.put("memory.write", gpa, bytes(data))


@define
class RemoteBus:
    """The VM's address spaces; what the bus does to other devices is done at once."""

    context: RemoteContext

    def read(self, space: Space, address: int, size: int) -> int:  # noqa: D102
        value: int = self.context.ask_host("bus.read", int(space), address, size)
        return value

    def write(self, space: Space, address: int, size: int, value: int) -> None:  # noqa: D102
        self.context.ask_host("bus.write", int(space), address, size, value)


@define(eq=False)
class Worker:
    """One device, and the host that it belongs to."""

    channel: WorkerEnd
    plugin: type[Device]
    config: object
    context: RemoteContext = field(init=False)
    device: Device = field(init=False)

    def __attrs_post_init__(self) -> None:
        """The context is the device's for good."""
        self.context = RemoteContext(self.channel, self.handle)

    def serve(self) -> None:
        """Do what comes, until the host ends."""
        while True:
            self.handle(*self.channel.receive())

    def handle(self, kind: str, *arguments: object) -> None:
        """Do one thing and answer."""
        try:
            answer = self._do(kind, list(arguments))
        except EOFError:
            raise
        except Exception as error:  # noqa: BLE001  # a plugin may raise anything
            self.channel.flush("failed", f"{type(error).__name__}: {error}")
        else:
            self.channel.flush("answer", answer)

    def _do(self, kind: str, arguments: list[Any]) -> object:
        perform = PERFORM.get(kind)
        if perform is None:
            return COMMANDS[kind](self, *arguments)
        given, self.context.now, self.context.wall = arguments
        return perform(self.device, *given)

    def begin(
        self,
        saved: str | None,
        entries: list[Any],
        owing: bool,
        refused: tuple[str, tuple[object, ...]] | None,
    ) -> object:
        """Make the device, and bring it to where its journal ends."""
        replay = Replay(entries, self.context, owing)
        self.device = self.plugin(replay, self.config)
        replay.begin(self.device)
        if saved is not None:
            give(self.device, from_text(self.plugin, saved))
            self.device.on_reload()
        while not replay.ended:
            replay.step()
        if refused is not None:
            skip(self.device, *refused)
        adopt(self.device, self.context)
        return [replay.owing, replay.inputs, self.save()]

    def save(self) -> str:
        """What the device is now."""
        return to_text(self.device)

    def give(self, saved: str, restored: Mapping[str, bool], now_ns: int, wall_s: int) -> str:
        """Bring the device to a state that was saved with its machine."""
        self.context.now, self.context.wall = now_ns, wall_s
        give(self.device, from_text(self.plugin, saved))
        for name, client in self.device.clients.items():
            client.restored = restored[name]
        self.device.on_restore()
        return self.save()

    def inspect(self, register: str, now_ns: int, wall_s: int) -> int:
        """A register, without side effects."""
        self.context.now, self.context.wall = now_ns, wall_s
        return self.plugin.declared[register].__get__(self.device, self.plugin)


COMMANDS: Final[Mapping[str, Callable[..., object]]] = {
    "begin": Worker.begin,
    "save": Worker.save,
    "give": Worker.give,
    "inspect": Worker.inspect,
}


def main() -> None:
    """Serve the host at a descriptor."""
    die_with_parent()
    channel = WorkerEnd(socket.socket(fileno=int(sys.argv[1])))
    try:
        source, config, directory = channel.receive()
        plugin = make(Source(**source))
        described = DeviceDescription(source["name"], config=config)
        configured = configuration.configure(plugin, described, Path(directory))
        prepare(plugin)
        channel.flush("ready", confine())
        Worker(channel, plugin, configured).serve()
    except (EOFError, BrokenPipeError):
        return  # the host has ended, or has no more use for us


if __name__ == "__main__":
    main()
