"""Descriptors that come along with messages (SCM_RIGHTS, unix(7))."""

from __future__ import annotations

import array
import os
import socket
from collections.abc import Iterable


def received(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """The descriptors in what `recvmsg` gave; they are the caller's to close."""
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def close(descriptors: Iterable[int]) -> None:
    """Close all of them."""
    for descriptor in descriptors:
        os.close(descriptor)
