"""One daemon after another: what the last one died of is not served again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import structlog

from mmiod.core.watchdog import PATIENCE, Watchdog
from mmiod.errors import ConfigError
from mmiod.machine.machine import Machine
from mmiod.service import last_words

LEAST_PATIENCE_S: Final = 3.0
"""Our own C code keeps the lock as well: a saved state of many megabytes is one call."""


class HookLostError(Exception):
    """A device's hook never returned."""


def succeed(control: Path, machines: Mapping[str, Machine], watchdog: Watchdog) -> None:
    """Hear the last words of the daemon before us, and prepare for ours.

    To be called when the sockets are ours: until then the daemon before us may live.

    Raises:
        ConfigError: nothing can be written beside the control socket.
    """
    words = last_words.read(control)
    if words is not None:
        running = [f"{vm}/{device}" for vm, device in words.running]
        structlog.get_logger().error("daemon_aborted", devices=running, stacks=words.stacks)
        for vm, device in words.running:
            if vm in machines and device in machines[vm].hosts:
                _take_out(machines[vm], device)
    names = {vm: tuple(machine.hosts) for vm, machine in machines.items()}
    patience_s = max(LEAST_PATIENCE_S, PATIENCE * watchdog.deadline_ns / 1e9)
    try:
        switch = last_words.write(control, names, patience_s)
    except OSError as error:
        raise ConfigError([f"{error.filename}: {error.strerror}"]) from error
    for number, machine in enumerate(machines.values()):
        machine.mark.running = switch.running(number)
    watchdog.lifeline = switch


def _take_out(machine: Machine, device: str) -> None:
    """Not to be tried again: what failed would end the daemon again."""
    lost = HookLostError("its hook did not return, and the daemon had to be aborted: see daemon_aborted")
    machine.hosts[device].quarantine(lost)
    machine.backoff.forget(device)
