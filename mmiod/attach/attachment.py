"""What every attachment is to the daemon."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from mmiod.attach.flights import Flights
from mmiod.machine.machine import Machine


class Attachment(Protocol):
    """A machine's connection with the world of its guest."""

    machine: Machine

    @property
    def attached(self) -> bool:
        """Whether a hypervisor is there."""

    @property
    def flights(self) -> Flights | None:
        """The exits that are under way; None without a session of the exit protocol."""

    async def run(self) -> None:
        """Keep the machine's time, until cancelled."""

    def inject_now(self, action: Callable[[], None]) -> bool:
        """Run an input of a device, unless the VM takes none now; whether it did."""

    async def inject(self, action: Callable[[], None]) -> None:
        """Run an input of a device, and what follows from it; waits while the VM is off or paused."""

    async def withdrawn(self) -> None:
        """Wait until nothing of what is withheld stands in the hypervisor."""

    def settle(self) -> None:
        """Hand on what devices have answered meanwhile."""

    def stop(self) -> None:
        """Take nothing new; answer what waits for a device with all ones."""
