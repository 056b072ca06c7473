"""A varlink client that blocks: one connection, one call at a time."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Final

INTERFACE: Final = "io.mmiod"
IDLE_S: Final = 1.0

Object = Mapping[str, Any]
"""Parameters of a reply: JSON, of the types that the interface description gives."""


class NotRunning(Exception):
    """Nobody serves the control socket, or not us."""


class Ended(Exception):
    """The daemon closed the connection."""


class Refused(Exception):
    """The daemon answered with an error; `given` are the parameters of the call."""

    def __init__(self, error: str, parameters: Object, given: Object) -> None:
        super().__init__(error)
        self.error = error
        self.parameters = parameters
        self.given = given


class Client:
    """A connection to the control socket at `path`.

    Raises:
        NotRunning: the socket is not there, nobody listens, or we may not connect.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._received = b""
        self._given: Object = {}
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise NotRunning(error.strerror or str(error)) from error

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def fileno(self) -> int:
        """To wait for replies."""
        return self._socket.fileno()

    @property
    def received(self) -> bool:
        """Whether a reply, or a part of one, is here already."""
        return bool(self._received)

    def call(self, method: str, **parameters: object) -> Object:
        """One call, one reply; parameters that are None are left out."""
        self._send(method, parameters, more=False)
        reply: Object = self._reply()["parameters"]
        return reply

    def stream(self, method: str, **parameters: object) -> Iterator[Object | None]:
        """One call, replies for as long as the daemon is there; None where `IDLE_S` passed without one.

        Raises:
            Refused, Ended: there is not even a first one.
        """
        self._send(method, parameters, more=True)
        yield self._reply()["parameters"]
        self._socket.settimeout(IDLE_S)
        with contextlib.suppress(Ended):
            while True:
                try:
                    yield self._reply()["parameters"]
                except TimeoutError:
                    yield None

    def _send(self, method: str, parameters: Object, *, more: bool) -> None:
        self._given = {name: value for name, value in parameters.items() if value is not None}
        message = {"method": f"{INTERFACE}.{method}", "parameters": self._given, "more": more}
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            return  # it said why before it closed, or there will be no reply

    def _reply(self) -> Object:
        """The next reply.

        Raises:
            Refused: it is an error.
            Ended: the connection closed.
        """
        while b"\0" not in self._received:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data:
                raise Ended
            self._received += data
        frame, _, self._received = self._received.partition(b"\0")
        reply: Object = json.loads(frame)
        if "error" in reply:
            raise Refused(reply["error"], reply.get("parameters", {}), self._given)
        return reply
