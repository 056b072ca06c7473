"""Notifications to the service manager."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from mmiod.service.notify import Notifier, from_environment


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    """A service manager's socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.settimeout(60)
        yield listener


def received(manager: socket.socket) -> dict[str, str]:
    """The variables of the next message, as systemd splits them."""
    lines = manager.recv(4096).decode().split("\n")
    return dict(line.split("=", 1) for line in lines)


def test_messages_are_those_of_sd_notify(manager: socket.socket) -> None:
    """Each call sends the variables that sd_notify(3) names, in one datagram."""
    notifier = Notifier(manager.getsockname())

    notifier.ready("2 VMs")
    assert {"READY": "1", "STATUS": "2 VMs"} == received(manager)
    notifier.status("3 VMs")
    assert {"STATUS": "3 VMs"} == received(manager)
    notifier.watchdog()
    assert {"WATCHDOG": "1"} == received(manager)
    notifier.stopping("2 exits in flight")
    assert {"STOPPING": "1", "STATUS": "2 exits in flight"} == received(manager)
    notifier.failed(OSError(13, "Permission denied", "/run/mmiod"))
    assert {"ERRNO": "13", "STATUS": "[Errno 13] Permission denied: '/run/mmiod'"} == received(manager)


def test_reload_carries_the_monotonic_clock(manager: socket.socket) -> None:
    """Type=notify-reload waits for a time stamp that is not older than its request."""
    notifier = Notifier(manager.getsockname())
    with Path("/proc/uptime").open() as uptime:
        before = float(uptime.read().split()[0])

    notifier.reloading()

    message = received(manager)
    assert message.pop("RELOADING") == "1"
    assert int(message["MONOTONIC_USEC"]) / 1e6 == pytest.approx(before, abs=60)


def test_text_cannot_smuggle_variables(manager: socket.socket) -> None:
    """A line break in a status does not begin another variable."""
    Notifier(manager.getsockname()).status("guest said\nMAINPID=1")

    assert {"STATUS": "guest said MAINPID=1"} == received(manager)


def test_environment_is_read_once(manager: socket.socket) -> None:
    """The variables are taken, so that children do not notify in our name."""
    environment = {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "3000000",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/",
    }

    notifier = from_environment(environment)

    assert {"HOME": "/"} == environment
    assert Notifier(manager.getsockname(), 1.5) == notifier


def test_abstract_address() -> None:
    """`@name` stands for the abstract socket `name`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(f"\0mmiod-test-{os.getpid()}")
        listener.settimeout(60)

        from_environment({"NOTIFY_SOCKET": f"@mmiod-test-{os.getpid()}"}).watchdog()

        assert {"WATCHDOG": "1"} == received(listener)


def test_watchdog_of_another_process_is_not_ours() -> None:
    """WATCHDOG_PID names who shall notify."""
    assert Notifier() == from_environment({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"})


def test_without_manager_nothing_happens() -> None:
    """Outside of a service every call is free."""
    notifier = from_environment({})

    with capture_logs() as events:
        notifier.ready("")

    assert Notifier() == notifier
    assert [] == events


def test_lost_manager_is_logged(tmp_path: Path) -> None:
    """A manager that is gone is no reason to end, and none to be silent."""
    with capture_logs() as events:
        Notifier(str(tmp_path / "gone")).ready("")

    assert [("notify_failed", "[Errno 2] No such file or directory")] == [
        (event["event"], event["reason"]) for event in events
    ]


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("NOTIFY_SOCKET", "relative", "NOTIFY_SOCKET=relative: a path or @name was expected"),
        ("NOTIFY_SOCKET", "", "NOTIFY_SOCKET=: a path or @name was expected"),
        ("WATCHDOG_USEC", "soon", "WATCHDOG_USEC=soon: microseconds were expected"),
    ],
)
def test_bad_environment_is_refused(variable: str, value: str, message: str) -> None:
    """What the manager should never send is an error that names the variable."""
    with pytest.raises(ValueError, match=message):
        from_environment({variable: value})
