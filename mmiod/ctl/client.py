"""A varlink client that blocks: one connection, one call at a time."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Final

INTERFACE: Final = "io.mmiod"

Object = Mapping[str, Any]
"""Parameters of a reply: JSON, of the types that the interface description gives."""


class NotRunning(Exception):
    """Nobody serves the control socket, or not us."""


class Ended(Exception):
    """The daemon closed the connection."""


class Refused(Exception):
    """The daemon answered with an error."""

    def __init__(self, error: str, parameters: Object) -> None:
        super().__init__(error)
        self.error = error
        self.parameters = parameters


class Client:
    """A connection to the control socket at `path`.

    Raises:
        NotRunning: the socket is not there, nobody listens, or we may not connect.
    """

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._received = b""
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            raise NotRunning(error.strerror or str(error)) from error

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def call(self, method: str, **parameters: object) -> Object:
        """One call, one reply; parameters that are None are left out."""
        self._send(method, parameters, more=False)
        reply: Object = self._reply()["parameters"]
        return reply

    def stream(self, method: str, **parameters: object) -> Iterator[Object]:
        """One call, replies until there are no more."""
        self._send(method, parameters, more=True)
        continues = True
        while continues:
            reply = self._reply()
            continues = reply.get("continues", False)
            yield reply["parameters"]

    def _send(self, method: str, parameters: Object, *, more: bool) -> None:
        given = {name: value for name, value in parameters.items() if value is not None}
        message = {"method": f"{INTERFACE}.{method}", "parameters": given, "more": more}
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
            raise Refused(reply["error"], reply.get("parameters", {}))
        return reply
