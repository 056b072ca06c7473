"""Sockets that the service manager opened for us: sd_listen_fds_with_names(3)."""

from __future__ import annotations

import os
import socket
from collections.abc import MutableMapping
from typing import Final

FIRST: Final = 3
"""SD_LISTEN_FDS_START: passed descriptors follow standard error."""
UNNAMED: Final = "unknown"
"""The name that systemd gives where the unit gives none."""


def passed_sockets(
    environment: MutableMapping[str, str] = os.environ, *, first: int = FIRST
) -> dict[str, list[socket.socket]]:
    """Take over the passed sockets, by FileDescriptorName=; each is ours to close.

    The variables are taken out of the environment and no child inherits a descriptor.

    Raises:
        ValueError: LISTEN_FDS is no number, or does not fit LISTEN_FDNAMES.
        OSError: a descriptor is not open or no socket.
    """
    count, names, pid = (environment.pop(f"LISTEN_{name}", None) for name in ("FDS", "FDNAMES", "PID"))
    if count is None or pid != str(os.getpid()):
        return {}
    if not count.isdecimal():
        raise ValueError(f"LISTEN_FDS={count}: a number of descriptors was expected")
    labels = names.split(":") if names else [UNNAMED] * int(count)
    if len(labels) != int(count):
        raise ValueError(f"LISTEN_FDNAMES={names}: {count} names were expected, as LISTEN_FDS says")
    found: dict[str, list[socket.socket]] = {}
    for number, label in enumerate(labels, first):
        os.set_inheritable(number, False)
        found.setdefault(label, []).append(socket.socket(fileno=number))
    return found
