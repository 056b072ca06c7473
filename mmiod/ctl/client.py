"""A varlink client that blocks: one connection, one call at a time."""

from __future__ import annotations

import contextlib
import errno
import json
import socket
from collections.abc import Iterator, Mapping
from typing import Any, Final

START: Final = (
    "start it with `systemctl start mmiod` or `mmiod serve --config FILE`, "
    "or name its control socket with --socket"
)
JOIN: Final = "join the socket's group, usually mmiod, or be root"
NAME: Final = "name mmiod's control socket with --socket"
SEE: Final = "see whether mmiod runs, and whether that is its control socket"
_REMEDIES: Final = {errno.ENOENT: START, errno.ECONNREFUSED: START, errno.EACCES: JOIN, errno.EPERM: JOIN}
"""By what connecting fails with; after all else it is no control socket."""

INTERFACE: Final = "io.mmiod"
IDLE_S: Final = 1.0

Object = Mapping[str, Any]
"""Parameters of a reply: JSON, of the types that the interface description gives."""


class NotRunning(Exception):
    """Nobody serves the control socket, or not us; with what can be done about it."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(reason)
        self.remedy = remedy


class Unsayable(ValueError):
    """A word of the command line that cannot be sent."""


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
        self._answered = False
        self._given: Object = {}
        try:
            self._socket.connect(path)
        except OSError as error:
            self._socket.close()
            remedy = _REMEDIES.get(error.errno or 0, NAME)
            raise NotRunning(error.strerror or str(error), remedy) from error

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
        """One call, one reply; parameters that are None are left out.

        Raises:
            Refused: the reply is an error.
            Ended, NotRunning: there is no reply.
            Unsayable: a parameter is no text.
        """
        self._send(method, parameters, more=False)
        return self._reply()

    def stream(self, method: str, **parameters: object) -> Iterator[Object | None]:
        """One call, replies for as long as the daemon is there; None where `IDLE_S` passed without one.

        Raises:
            Refused, Ended, NotRunning: there is not even a first one.
            Unsayable: as for `call`.
        """
        self._send(method, parameters, more=True)
        yield self._reply()
        self._socket.settimeout(IDLE_S)
        with contextlib.suppress(Ended):
            while True:
                try:
                    yield self._reply()
                except TimeoutError:
                    yield None

    def _send(self, method: str, parameters: Object, *, more: bool) -> None:
        self._given = {name: value for name, value in parameters.items() if value is not None}
        message = {"method": f"{INTERFACE}.{method}", "parameters": self._given, "more": more}
        try:
            data = json.dumps(message, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise Unsayable(f"{error.object[error.start : error.end]!r} is not UTF-8") from None
        try:
            self._socket.sendall(data + b"\0")
        except (BrokenPipeError, ConnectionResetError):
            return  # it said why before it closed, or there will be no reply

    def _reply(self) -> Object:
        """The parameters of the next reply.

        Raises:
            Refused: it is an error.
            Ended: the connection closed.
            NotRunning: it is none, or the connection closed without any.
        """
        while b"\0" not in self._received:
            try:
                data = self._socket.recv(1 << 16)
            except ConnectionResetError:
                data = b""
            if not data and not self._answered:
                raise NotRunning("the connection was closed without an answer", SEE)
            if not data:
                raise Ended
            self._received += data
            self._answered = True
        frame, _, self._received = self._received.partition(b"\0")
        try:
            error, found = _read(frame)
        except (ValueError, RecursionError):
            raise NotRunning("what answers there speaks no varlink", NAME) from None
        if error is not None:
            raise Refused(error, found, self._given)
        return found


def _read(frame: bytes) -> tuple[str | None, Object]:
    """A reply's error, if it is one, and its parameters.

    Raises:
        ValueError, RecursionError: it is no reply of varlink's.
    """
    reply = json.loads(frame)
    parameters = reply.get("parameters", {}) if isinstance(reply, dict) else None
    if not isinstance(parameters, dict):
        raise ValueError("a reply and its parameters are objects")  # noqa: TRY004  # as what json raises
    return reply.get("error"), parameters
