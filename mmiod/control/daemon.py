"""What the control socket needs of the daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from mmiod.attach.flights import Flights
from mmiod.machine.machine import Machine
from mmiod.trace import Recorder


class Daemon(Protocol):
    """The daemon, as commands see it; everything is read in the core's thread."""

    @property
    def machines(self) -> Mapping[str, Machine]:
        """All VMs by name."""

    @property
    def recorder(self) -> Recorder:
        """The traffic of all VMs."""

    def flights(self, vm: str) -> Flights | None:
        """The exits of a VM's session; None while no hypervisor is attached."""

    def work(self, action: Callable[[], None]) -> None:
        """Run an action that calls a plugin's code: under the watchdog's eyes."""
