"""The sockets that the daemon listens on: the service manager's, inherited ones, its own."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping
from pathlib import Path

from attrs import define

from mmiod.core.listening import bind, keep
from mmiod.errors import ConfigError
from mmiod.upgrade.heir import Heir
from mmiod.upgrade.upgrader import Listening


@define(eq=False)
class Listeners:
    """Opens them; those that nobody passed disappear with `stack`."""

    stack: contextlib.ExitStack
    passed: Mapping[str, list[socket.socket]]
    """By name."""
    heir: Heir | None
    listening: list[Listening]
    """Gets each socket."""

    def open(self, name: str, path: Path, kind: socket.SocketKind) -> list[socket.socket]:
        """The listeners of a name; `path` is where ours is.

        Raises:
            ConfigError: it cannot be bound.
        """
        found = [Listening(name, path, passed, True) for passed in self.passed.get(name, ())]
        found = found or self._inherited(name, path) or [Listening(name, path, self._bind(path, kind), False)]
        self.listening += found
        return [one.socket for one in found]

    def _inherited(self, name: str, path: Path) -> list[Listening]:
        taken = [] if self.heir is None else self.heir.listeners(name, str(path))
        return [
            Listening(
                name, path, socket.socket(fileno=number) if passed else keep(self.stack, path, number), passed
            )
            for number, passed in taken
        ]

    def _bind(self, path: Path, kind: socket.SocketKind) -> socket.socket:
        try:
            return bind(self.stack, path, kind)
        except OSError as error:
            raise ConfigError([f"{path}: {error.strerror or error}"]) from error
