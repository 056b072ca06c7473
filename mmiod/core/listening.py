"""Unix sockets that we listen on: bound with our access rights, gone in the end."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from pathlib import Path
from typing import Final

BACKLOG: Final = 128


def bind(stack: contextlib.ExitStack, path: Path, kind: socket.SocketKind) -> socket.socket:
    """A socket that listens on `path`, for owner and group; both disappear with the stack.

    Raises:
        OSError: somebody else listens there, or the path cannot be used.
    """
    _remove_stale(path, kind)
    path.parent.mkdir(parents=True, exist_ok=True)
    listener = stack.enter_context(socket.socket(socket.AF_UNIX, kind | socket.SOCK_CLOEXEC))
    mask = os.umask(0o117)
    try:
        listener.bind(str(path))
    finally:
        os.umask(mask)
    stack.callback(path.unlink, missing_ok=True)
    listener.listen(BACKLOG)
    return listener


def keep(stack: contextlib.ExitStack, path: Path, descriptor: int) -> socket.socket:
    """A socket that listens on `path` already and is ours now; both disappear with the stack."""
    listener = stack.enter_context(socket.socket(fileno=descriptor))
    stack.callback(path.unlink, missing_ok=True)
    return listener


def _remove_stale(path: Path, kind: socket.SocketKind) -> None:
    """Remove a socket that nobody listens on; refuse to take one over that somebody does."""
    if not path.exists() or not stat.S_ISSOCK(path.stat().st_mode):
        return
    with socket.socket(socket.AF_UNIX, kind) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
    raise OSError(errno.EADDRINUSE, "another daemon serves this socket")
