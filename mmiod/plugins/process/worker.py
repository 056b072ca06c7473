"""The process of one device: `python -m mmiod.plugins.process.worker FD`.

It loads the plugin, confines itself, says that it is ready, and then does what it is told,
one message at a time:

    ("begin", saved, entries, owing, refused)    make the device, and live through its journal
    ("succeed", saved, drop, now_ns, wall_s)     make it with the state of the generation before
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
from mmiod.device import Device
from mmiod.errors import RestoreError
from mmiod.machine.description import DeviceDescription
from mmiod.machine.inputs import INPUTS, QUESTIONS, Perform, skip
from mmiod.machine.replay import Replay, adopt
from mmiod.machine.snapshot import fit, give
from mmiod.plugins.loader import Source, make
from mmiod.plugins.process.channel import WorkerEnd
from mmiod.plugins.process.confinement import confine, die_with_parent
from mmiod.plugins.process.remote import RemoteContext
from mmiod.plugins.process.texts import from_text, prepare, to_text

PERFORM: Final[Mapping[str, Perform]] = {**INPUTS, **QUESTIONS}


@define(eq=False)
class Worker:
    """One device, and the host that it belongs to."""

    channel: WorkerEnd
    plugin: type[Device]
    config: object
    before: type[Device] | None = None
    """The generation that this one may have to succeed."""
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

    def succeed(self, saved: str, drop: bool, now_ns: int, wall_s: int) -> tuple[str, str, list[str]]:
        """Make the device with a state of the generation before: why not, what it is, what was dropped."""
        assert self.before is not None, "the host has told"
        self.context.now, self.context.wall = now_ns, wall_s
        self.device = self.plugin(self.context, self.config)
        try:
            state, dropped = fit(from_text(self.before, saved), self.before, self.plugin, drop=drop)
            give(self.device, state)
        except RestoreError as error:
            return str(error), "", []
        self.device.on_reload()
        return "", self.save(), dropped

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
    "succeed": Worker.succeed,
    "save": Worker.save,
    "give": Worker.give,
    "inspect": Worker.inspect,
}


def main() -> None:
    """Serve the host at a descriptor."""
    die_with_parent()
    channel = WorkerEnd(socket.socket(fileno=int(sys.argv[1])))
    try:
        source, before, config, directory = channel.receive()
        plugin = make(Source(**source))
        succeeded = None if before is None else make(Source(**before))
        described = DeviceDescription(source["name"], config=config)
        configured = configuration.configure(plugin, described, Path(directory))
        for each in (plugin, succeeded):
            if each is not None:
                prepare(each)
        channel.flush("ready", confine())
        Worker(channel, plugin, configured, succeeded).serve()
    except (EOFError, ConnectionError):
        return  # the host has ended, or has no more use for us


if __name__ == "__main__":
    main()
