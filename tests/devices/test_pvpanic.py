"""pvpanic: QEMU docs/specs/pvpanic.rst."""

from __future__ import annotations

from devices.pseudo.pvpanic import PvPanic
from mmiod.testing import Harness


def test_a_read_tells_which_events_it_knows() -> None:
    """Bit 0 panicked, bit 1 crash loaded; writes do not change that."""
    harness = Harness(PvPanic)
    harness.write("events", 0)
    assert harness.read("events") == 3


def test_a_write_reports_the_known_bits() -> None:
    """One event per write, in order; unknown bits are dropped."""
    harness = Harness(PvPanic)
    for value in (0x01, 0xFE):
        harness.write("events", value)
    expected = [("guest_panicked", {"events": 1}), ("guest_panicked", {"events": 2})]
    assert expected == harness.context.events
