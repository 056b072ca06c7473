"""Messages between a host and its worker, on a pair of stream sockets.

To the worker they are marshalled: it runs the same Python, and trusts us.  From it they are
JSON, of which nothing but plain values can come: a guest may have taken the worker over.
Each message follows its length in 4 bytes.  What a hook does is gathered and leaves with
what the worker waits for next, so a plain access is one message each way.
"""

from __future__ import annotations

import json
import marshal
import socket
import struct
from base64 import b64decode, b64encode
from collections.abc import Iterator
from time import perf_counter_ns
from typing import Any, Final

from attrs import define, field

from mmiod.device import PENDING, Pending

LENGTH: Final = struct.Struct("<I")
MAX_MESSAGE: Final = 64 << 20
_CHUNK: Final = 1 << 16

Message = list[Any]
"""A name, and plain values."""


class WorkerGone(Exception):
    """The worker ended, or says what no worker says."""


@define(eq=False)
class HostEnd:
    """The daemon's end."""

    socket: socket.socket
    _received: bytearray = field(factory=bytearray)

    def send(self, message: tuple[Any, ...]) -> None:
        """Hand a message over.

        Raises:
            WorkerGone: nobody takes it.
        """
        data = marshal.dumps(message)
        try:
            self.socket.sendall(LENGTH.pack(len(data)) + data)
        except OSError as error:
            raise WorkerGone(f"its process has ended ({error.strerror or error})") from error

    def receive(self, deadline_ns: int) -> Iterator[Message]:
        """What the worker says, all that comes at once, by `perf_counter_ns`.

        Raises:
            TimeoutError: nothing comes in time.
            WorkerGone: it has ended.
        """
        data = self._take(deadline_ns)
        try:
            messages = json.loads(data, object_hook=_decoded)
        except (ValueError, RecursionError) as error:
            raise WorkerGone(f"it answers {data[:80]!r}") from error
        if not isinstance(messages, list) or not all(isinstance(each, list) and each for each in messages):
            raise WorkerGone(f"it answers {data[:80]!r}")
        yield from messages

    def _take(self, deadline_ns: int) -> bytes:
        self._fill(LENGTH.size, deadline_ns)
        (length,) = LENGTH.unpack_from(self._received)
        if length > MAX_MESSAGE:
            raise WorkerGone(f"it announces {length} bytes, at most {MAX_MESSAGE} are taken")
        self._fill(LENGTH.size + length, deadline_ns)
        data = bytes(self._received[LENGTH.size : LENGTH.size + length])
        del self._received[: LENGTH.size + length]
        return data

    def _fill(self, length: int, deadline_ns: int) -> None:
        while len(self._received) < length:
            left_ns = deadline_ns - perf_counter_ns()
            if left_ns <= 0:
                raise TimeoutError
            self.socket.settimeout(left_ns / 1e9)
            try:
                data = self.socket.recv(_CHUNK)
            except ConnectionError:
                data = b""
            if not data:
                raise WorkerGone("its process has ended")
            self._received += data


@define(eq=False)
class WorkerEnd:
    """The worker's end."""

    socket: socket.socket
    _gathered: list[Message] = field(factory=list)

    def put(self, *message: object) -> None:
        """Say something that needs no answer."""
        self._gathered.append(list(message))

    def flush(self, *message: object) -> None:
        """Say something, and all that was gathered before it."""
        self._gathered.append(list(message))
        data = json.dumps(self._gathered, default=_encoded).encode()
        self._gathered.clear()
        self.socket.sendall(LENGTH.pack(len(data)) + data)

    def receive(self) -> tuple[Any, ...]:
        """The next message of the host.

        Raises:
            EOFError: it has ended.
        """
        (length,) = LENGTH.unpack(self._exactly(LENGTH.size))
        message: tuple[Any, ...] = marshal.loads(self._exactly(length))  # noqa: S302
        return message

    def _exactly(self, length: int) -> bytes:
        data = self.socket.recv(length, socket.MSG_WAITALL)
        if len(data) < length:
            raise EOFError
        return data


def _encoded(value: object) -> object:
    if isinstance(value, bytes | bytearray):
        return {"bytes": b64encode(value).decode()}
    if isinstance(value, Pending):
        return {"pending": True}
    return {"repr": f"{value!r:.80}"}


@define
class Foreign:
    """A value of a type that is in no contract; it prints as it did there."""

    text: str

    def __repr__(self) -> str:
        return self.text


def _decoded(found: dict[str, Any]) -> object:
    if found.keys() == {"bytes"}:
        return b64decode(found["bytes"])
    if found.keys() == {"pending"}:
        return PENDING
    if found.keys() == {"repr"}:
        return Foreign(str(found["repr"]))
    return found
