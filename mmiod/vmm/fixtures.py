"""What the daemon lets stand in the hypervisor: pages that the guest reads, doorbells that it rings.

They belong to a connection.  Before a session goes on with another one they are taken out, and
each doorbell that comes back is rung once, for what may have been lost in between.
"""

from __future__ import annotations

import os
from typing import Final, Protocol

from attrs import define, field

from mmiod.protocol.exit.events import Grant
from mmiod.protocol.exit.table import NUMBERS
from mmiod.values import Space

DOORBELL: Final = NUMBERS["grant_kind"]["DOORBELL"]


class Host(Protocol):
    """An accelerator where something may stand."""

    def show(self, gpa: int, memory: memoryview) -> None:
        """Let the guest read a page, and have its writes as exits."""

    def hide(self, gpa: int) -> None:
        """Have its reads as exits, too."""

    def wire(self, space: Space, address: int, size: int, value: int, eventfd: int) -> None:
        """Signal an eventfd instead of an exit, when the guest writes this."""

    def unwire(self, space: Space, address: int, size: int, value: int, eventfd: int) -> None:
        """Have the exit again."""


@define(eq=False)
class Fixtures:
    """What stands in one host."""

    host: Host
    pages: dict[int, Grant] = field(factory=dict)
    """By number."""
    doorbells: dict[int, tuple[Grant, int]] = field(factory=dict)
    """With their eventfds."""
    _known: set[tuple[int, int, int, int]] = field(factory=set)
    """Doorbells of connections before this one."""

    def add(self, grant: Grant, memory: memoryview, descriptors: list[int]) -> None:
        """Put something up; `memory` is what the daemon shares, the descriptor of a doorbell is ours then."""
        if grant.kind != DOORBELL:
            self.pages[grant.number] = grant
            self.host.show(grant.address, memory[grant.value : grant.value + grant.size])
            return
        (eventfd,) = descriptors
        self.doorbells[grant.number] = grant, eventfd
        self.host.wire(*_place(grant), eventfd)
        if _place(grant) in self._known:
            os.eventfd_write(eventfd, 1)

    def remove(self, number: int) -> None:
        """Take something down."""
        page = self.pages.pop(number, None)
        if page is not None:
            self.host.hide(page.address)
        grant, eventfd = self.doorbells.pop(number, (None, -1))
        if grant is not None:
            self.host.unwire(*_place(grant), eventfd)
            os.close(eventfd)

    def clear(self) -> None:
        """Take all down: their connection has ended."""
        self._known = {_place(grant) for grant, _ in self.doorbells.values()} or self._known
        for number in [*self.pages, *self.doorbells]:
            self.remove(number)


def _place(grant: Grant) -> tuple[Space, int, int, int]:
    return Space(grant.space), grant.address, grant.size, grant.value
