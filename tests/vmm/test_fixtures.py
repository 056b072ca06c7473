"""What stands in an accelerator: put up, taken down, and rung again after a break."""

from __future__ import annotations

import os
from select import select

from attrs import define, field

from mmiod.protocol.exit.events import Grant
from mmiod.protocol.exit.table import NUMBERS
from mmiod.values import Space
from mmiod.vmm.fixtures import Fixtures

PAGE, DOORBELL = (NUMBERS["grant_kind"][name] for name in ("PAGE", "DOORBELL"))
MEMORY = memoryview(bytearray(3 * 4096))


@define
class Kernel:
    """Keeps what stands."""

    pages: dict[int, bytes] = field(factory=dict)
    doorbells: list[tuple[Space, int, int, int]] = field(factory=list)

    def show(self, gpa: int, memory: memoryview) -> None:
        """A page."""
        self.pages[gpa] = bytes(memory)

    def hide(self, gpa: int) -> None:
        """No page."""
        del self.pages[gpa]

    def wire(self, space: Space, address: int, size: int, value: int, eventfd: int) -> None:
        """A doorbell."""
        assert os.fstat(eventfd)
        self.doorbells.append((space, address, size, value))

    def unwire(self, space: Space, address: int, size: int, value: int, eventfd: int) -> None:
        """No doorbell."""
        assert os.fstat(eventfd)
        self.doorbells.remove((space, address, size, value))


def rung(eventfd: int) -> bool:
    """Whether somebody signalled it."""
    return bool(select([eventfd], [], [], 0)[0])


def ring(fixtures: Fixtures, number: int, value: int) -> int:
    """Grant a doorbell; the daemon's end of it."""
    eventfd = os.eventfd(0)
    grant = Grant(number, DOORBELL, Space.MMIO, 2, 0xE000_0000, value)
    fixtures.add(grant, MEMORY, [os.dup(eventfd)])
    return eventfd


def test_a_page_is_shown_from_its_place_in_the_memory() -> None:
    """4096 bytes at `value`; REVOKE takes them away, and one that stands nowhere does nothing."""
    kernel = Kernel()
    fixtures = Fixtures(kernel)
    MEMORY[8192:8194] = b"hi"
    fixtures.add(Grant(1, PAGE, Space.MMIO, 4096, 0xFED4_0000, 8192), MEMORY, [])
    assert kernel.pages == {0xFED4_0000: b"hi" + bytes(4094)}
    fixtures.remove(1)
    fixtures.remove(1)
    assert kernel.pages == {}


def test_a_doorbell_that_comes_back_is_rung_once() -> None:
    """After a break: what was rung before may be lost.  One that was not there before is not rung."""
    kernel = Kernel()
    fixtures = Fixtures(kernel)
    first = ring(fixtures, 1, 0)
    assert (kernel.doorbells, rung(first)) == ([(Space.MMIO, 0xE000_0000, 2, 0)], False)
    fixtures.clear()
    assert kernel.doorbells == []
    again, new = ring(fixtures, 1, 0), ring(fixtures, 2, 1)
    assert (rung(again), rung(new)) == (True, False)
    fixtures.clear()
    for eventfd in (first, again, new):
        os.close(eventfd)
