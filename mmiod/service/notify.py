"""Tell the service manager how we are: sd_notify(3), the protocol of NOTIFY_SOCKET.

Without a manager every call does nothing.  A manager that does not answer costs at
most `TIMEOUT_S`; what could not be told is logged, as it is no reason to end.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from typing import Final

import structlog
from attrs import frozen

TIMEOUT_S: Final = 1.0


@frozen
class Notifier:
    """The way to the service manager; `address` is None where there is none."""

    address: str | None = None
    watchdog_s: float | None = None
    """A watchdog message is due at least this often; half the manager's patience."""

    def ready(self, status: str) -> None:
        """Start-up, or a reload, is done."""
        self._send(READY="1", STATUS=status)

    def status(self, text: str) -> None:
        """One line for `systemctl status`."""
        self._send(STATUS=text)

    def watchdog(self) -> None:
        """The core task is alive: to be called from there."""
        self._send(WATCHDOG="1")

    def reloading(self) -> None:
        """A reload begins; `ready` ends it.  Type=notify-reload waits for the time stamp."""
        self._send(RELOADING="1", MONOTONIC_USEC=str(time.monotonic_ns() // 1000))

    def stopping(self, status: str) -> None:
        """The end begins."""
        self._send(STOPPING="1", STATUS=status)

    def failed(self, error: OSError) -> None:
        """Start-up fails, and this is why."""
        self._send(ERRNO=str(error.errno or 0), STATUS=str(error))

    def _send(self, **variables: str) -> None:
        if self.address is None:
            return
        # A value with a line break would be read as two variables.
        lines = [f"{name}={' '.join(value.splitlines())}" for name, value in variables.items()]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.settimeout(TIMEOUT_S)
                channel.sendto("\n".join(lines).encode(), self.address)
        except OSError as error:
            structlog.get_logger().warning("notify_failed", address=self.address, reason=str(error))


def from_environment(environment: MutableMapping[str, str] = os.environ) -> Notifier:
    """Take the manager's address out of the environment, so that no child speaks for us.

    Raises:
        ValueError: NOTIFY_SOCKET is neither a path nor an abstract address, or WATCHDOG_USEC no number.
    """
    address = environment.pop("NOTIFY_SOCKET", None)
    watchdog_us = environment.pop("WATCHDOG_USEC", None)
    watchdog_pid = environment.pop("WATCHDOG_PID", None)
    if address is not None and address[:1] not in {"/", "@"}:
        raise ValueError(f"NOTIFY_SOCKET={address}: a path or @name was expected")
    if watchdog_us is not None and not watchdog_us.isdecimal():
        raise ValueError(f"WATCHDOG_USEC={watchdog_us}: microseconds were expected")
    ours = watchdog_us is not None and watchdog_pid in {None, str(os.getpid())}
    return Notifier(
        address="\0" + address[1:] if address is not None and address[0] == "@" else address,
        watchdog_s=int(watchdog_us or 0) / 2_000_000 if ours else None,
    )
