"""The promises about what needs no message: kept by a device that tells the truth, and only by it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from attrs import define

from mmiod.device import Device, IrqOutput, Region, Register, Request
from mmiod.machine.context import DeviceContext
from mmiod.machine.published import Page
from mmiod.machine.rows import Kind, Row
from mmiod.testing.subject import Broken
from mmiod.testing.suite import Terms, posts_what_nobody_waits_for, shows_what_it_answers
from mmiod.values import Space


@define
class CounterState:
    """How often it was read."""

    reads: int = 0


class Truthful(Device):
    """Registers of each policy."""

    ports = Region(8)
    other = Region(4)
    irq = IrqOutput()
    state: CounterState

    setting = Register(0, published=True, posted=True, region=ports)
    letter = Register(1, access="w", posted=lambda device: not device.setting & 1, region=ports)
    status = Register(2, access="r", published=True, unaffected_by=("letter",), region=ports)
    plain = Register(3, region=ports)

    @status.value
    def _status(self) -> int:
        return 0x60 | self.setting & 1

    @letter.on_write
    def _sent(self, value: int) -> None:
        if self.setting & 1:
            self.irq.set_level(bool(value & 1))

    @plain.on_write
    def _plain(self, value: int) -> None:
        self.irq.set_level(bool(value & 1))


class Interrupts(Truthful):
    """A posted write drives the line."""

    def _sent(self, value: int) -> None:
        self.irq.set_level(bool(value & 1))


class Asks(Truthful):
    """A posted write asks for a reset."""

    def _sent(self, value: int) -> None:
        if value & 1:
            self.context.request(Request.RESET)


class Moves(Truthful):
    """A posted write moves a region."""

    def _sent(self, value: int) -> None:
        self.context.place(self.other, Space.MMIO, value << 44)


class Follows(Truthful):
    """The status follows the letter, and says that it does not."""

    def _sent(self, value: int) -> None:
        self.state.reads = value & 1

    def _status(self) -> int:
        return 0x60 | self.state.reads


class Counts(Truthful):
    """A published read changes the state."""

    def _status(self) -> int:
        self.state.reads += 1
        return 0x60


class Ticks(Truthful):
    """What is published follows the clock, and no input of the device."""

    def _status(self) -> int:
        return self.clock.now_ns & 0xFF


def test_truthful() -> None:
    """Nothing is wrong with it."""
    shows_what_it_answers(Terms(Truthful))
    posts_what_nobody_waits_for(Terms(Truthful))


@pytest.mark.parametrize(
    ("plugin", "said"),
    [
        (Interrupts, "changes a line"),
        (Asks, "changes a line"),
        (Moves, "changes a line"),
        (Follows, "does not wait"),
    ],
)
def test_wrong_posts(plugin: type[Device], said: str) -> None:
    """A posted write that tells the guest something, or changes what does not wait for it, is found."""
    with pytest.raises(AssertionError, match=f"letter .* is posted, and .*{said}"):
        posts_what_nobody_waits_for(Terms(plugin))


@pytest.mark.parametrize(
    ("plugin", "said"), [(Counts, "changes the state"), (Ticks, "is not what is published")]
)
def test_wrong_reads(plugin: type[Device], said: str) -> None:
    """A published read that changes something, or is not what is published, is found."""
    with pytest.raises(AssertionError, match=said):
        shows_what_it_answers(Terms(plugin))


@pytest.mark.parametrize("promise", [shows_what_it_answers, posts_what_nobody_waits_for])
def test_page_that_lags(promise: Callable[[Terms], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind each input and each posted write the page is compared as a whole: one that is late is found."""
    show = Page._show

    def late(page: Page, row: Row, device: Device) -> None:
        if row.kind is Kind.WRITE or not row.allowed:
            show(page, row, device)

    monkeypatch.setattr(Page, "_show", late)
    with pytest.raises(AssertionError, match="is not what is published"):
        promise(Terms(Truthful))


def test_interrupt_before_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """The guest may look as soon as a line changes: what is shown then is not what was before."""
    monkeypatch.setattr(DeviceContext, "_announce", lambda _context: None)
    with pytest.raises(Broken) as caught:
        shows_what_it_answers(Terms(Truthful))
    assert "the guest is told to look, and is shown what was before" in str(caught.value)
