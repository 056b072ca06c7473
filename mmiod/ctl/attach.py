"""`mmioctl attach`: a terminal on a device's stream, by the socket or pseudo terminal that is its backend."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import signal
import socket
import stat
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

from mmiod.ctl.client import Object

ESCAPE: Final = b"\x1d"
"""Ctrl-]"""
CHUNK: Final = 4096
LINGER_S: Final = 0.5
"""How long answers are waited for behind the end of the input."""
_TERMINALS: Final = Path("/dev/pts")
_GONE: Final = frozenset({errno.EIO, errno.ECONNRESET, errno.EPIPE})
"""The far side has closed; EIO is that of a pseudo terminal."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGHUP)
"""What ends us from outside: the terminal is as before then, too."""


class NotAttachable(Exception):
    """There is no such stream, or nothing to connect to; the message says what there is."""


def locate(answer: Object, wanted: str) -> tuple[str, str]:
    """Name and socket of the stream [VM/]DEVICE[.STREAM], in a reply of ListDevices."""
    streams = [
        (f"{device['vm']}/{device['name']}.{backend['name']}", backend)
        for device in answer["devices"]
        for backend in device["backends"]
    ]
    named = [(name, backend) for name, backend in streams if wanted in _names(name)]
    if not named:
        known = ", ".join(name for name, _ in streams) or "none"
        raise NotAttachable(f"{wanted!r} is no stream that has a backend; there are: {known}")
    if len(named) > 1:
        candidates = ", ".join(name for name, _ in named)
        raise NotAttachable(f"{wanted!r} is the name of several streams: {candidates}; say which")
    ((name, backend),) = named
    path = backend["where"]
    if not path or not _attachable(path):
        there = f", which is at {path}" if path else ""
        raise NotAttachable(
            f'{name} has backend "{backend["backend"]}"{there}: only pty and unix:PATH can be attached'
        )
    return name, path


def _attachable(path: str) -> bool:
    """Whether there is a socket or a terminal."""
    try:
        mode = Path(path).stat().st_mode
    except OSError:
        return False
    return stat.S_ISSOCK(mode) or (stat.S_ISCHR(mode) and Path(path).resolve().parent == _TERMINALS)


def _names(stream: str) -> set[str]:
    """What a stream may be called."""
    vm, _, rest = stream.rpartition("/")
    device = rest.partition(".")[0]
    return {stream, rest, device, f"{vm}/{device}"}


def attach(name: str, path: str) -> bool:
    """Join terminal and stream until Ctrl-], the end of input or the far end; whether it was we who ended it.

    Raises:
        NotAttachable: it cannot be opened, or another `mmioctl` has the pseudo terminal.
    """
    if sys.stdin is None or sys.stdout is None:
        raise NotAttachable("standard input or output is closed; nothing to attach")
    with _opened(name, path) as stream:
        print(f"attached to {name}; Ctrl-] ends", file=sys.stderr, flush=True)
        with _raw(sys.stdin.fileno()):
            return _join(stream, sys.stdin.fileno(), sys.stdout.fileno())


@contextmanager
def _opened(name: str, path: str) -> Iterator[int]:
    """A descriptor of the stream."""
    try:
        descriptor = _connect(path) if Path(path).is_socket() else _open(path)
    except OSError as error:
        busy = error.errno == errno.EWOULDBLOCK
        reason = "somebody else is attached" if busy else error.strerror
        raise NotAttachable(f"{name}, which is at {path}: {reason}") from error
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _connect(path: str) -> int:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stream:
        stream.connect(path)
        return stream.detach()


def _open(path: str) -> int:
    """A pseudo terminal, for us alone: two readers would each get a part."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


@contextmanager
def _raw(descriptor: int) -> Iterator[None]:
    """A terminal without echo, lines and signals; what is no terminal stays as it is."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    handlers = [(number, signal.signal(number, _end)) for number in _SIGNALS]
    tty.setraw(descriptor)
    try:
        yield
    finally:
        with suppress(termios.error):  # it has gone itself: SIGHUP
            termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
        for number, handler in handlers:
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _join(stream: int, source: int, sink: int) -> bool:
    while True:
        ready, _, _ = select.select([stream, source], (), ())
        if stream in ready and not _show(stream, sink):
            return False
        if source in ready:
            typed = _read(source)
            before, escape, _ = typed.partition(ESCAPE)
            if not _send(stream, before):
                return False
            if escape:
                return True
            if not typed:
                _linger(stream, sink)
                return True


def _linger(stream: int, sink: int) -> None:
    """The input has ended: show what is said to the last of it."""
    end = time.monotonic() + LINGER_S
    while (left_s := end - time.monotonic()) > 0:
        ready, _, _ = select.select([stream], (), (), left_s)
        if ready and not _show(stream, sink):
            return


def _show(stream: int, sink: int) -> bool:
    """Pass on what has come; whether the far side is still there."""
    data = _read(stream)
    _write(sink, data)
    return bool(data)


def _read(stream: int) -> bytes:
    """What has come; nothing once the far side has gone, or a terminal has."""
    try:
        return os.read(stream, CHUNK)
    except OSError as error:
        if error.errno in _GONE:
            return b""
        raise


def _send(stream: int, data: bytes) -> bool:
    """Whether the far side is still there."""
    try:
        _write(stream, data)
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise
    return True


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
