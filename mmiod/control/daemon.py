"""What the control socket needs of the daemon."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from mmiod.attach.flights import Flights
from mmiod.attach.function import FunctionAttachment
from mmiod.machine.machine import Machine
from mmiod.plugins.reload import Reloader
from mmiod.trace import Recorder
from mmiod.upgrade.upgrader import Upgrader


class Daemon(Protocol):
    """The daemon, as commands see it; everything is read in the core's thread."""

    @property
    def machines(self) -> Mapping[str, Machine]:
        """All VMs by name."""

    @property
    def recorder(self) -> Recorder:
        """The traffic of all VMs."""

    @property
    def reloader(self) -> Reloader:
        """What replaces plugins."""

    @property
    def upgrader(self) -> Upgrader:
        """What executes the daemon anew."""

    def flights(self, vm: str) -> Flights | None:
        """The exits of a VM's session; None while no hypervisor is attached."""

    def functions(self, vm: str) -> Mapping[str, FunctionAttachment]:
        """What a VM's hypervisor reaches by vfio-user, by device; nothing for the exit protocol."""

    async def withdrawn(self) -> None:
        """Wait until nothing of what is withheld stands in a hypervisor."""

    def settle(self, vm: str) -> None:
        """Hand on what was answered, or let go, without an input of a VM's devices."""

    def work(self, action: Callable[[], None]) -> None:
        """Run an action that calls a plugin's code: under the watchdog's eyes."""
