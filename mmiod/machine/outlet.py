"""Where a machine's signals to the hypervisor go."""

from __future__ import annotations

from typing import Protocol

from mmiod.device import Request
from mmiod.machine.address_map import Stretch


class Outlet(Protocol):
    """Where a machine's signals to the hypervisor go; all of them return at once."""

    def intr(self, vcpu: int, level: bool) -> None:
        """The interrupt request of a vCPU changed."""

    def set_level(self, line: int, level: bool) -> None:
        """A line of the hypervisor's interrupt controller changed."""

    def msi(self, device: str, address: int, data: int) -> None:
        """A device signals an interrupt by a message."""

    def request(self, kind: Request, value: int) -> None:
        """A device asks for a reset, a shutdown, ..."""

    def map_changed(self, *moved: Stretch) -> None:
        """Regions have moved: others may answer there; without arguments, anywhere."""

    def unlearn(self) -> None:
        """Accesses to a device go another way now: what is known of the ways is wrong."""


class Nowhere:
    """The outlet of a machine that no hypervisor is attached to."""

    def intr(self, vcpu: int, level: bool) -> None:  # noqa: D102
        pass

    def set_level(self, line: int, level: bool) -> None:  # noqa: D102
        pass

    def msi(self, device: str, address: int, data: int) -> None:  # noqa: D102
        pass

    def request(self, kind: Request, value: int) -> None:  # noqa: D102
        pass

    def map_changed(self, *moved: Stretch) -> None:  # noqa: D102
        pass

    def unlearn(self) -> None:  # noqa: D102
        pass
