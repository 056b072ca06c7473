"""pvpanic as a PCI function: QEMU docs/specs/pvpanic.rst."""

from __future__ import annotations

from devices.pci.pvpanic import PciPvPanic
from mmiod.testing import Harness


def test_a_driver_knows_it_by_its_header() -> None:
    """1B36:0011, one memory BAR, no interrupt."""
    harness = Harness(PciPvPanic)
    assert harness.read_at(0x00, 4, "config_space") == 0x0011_1B36
    assert harness.read_at(0x3D, 1, "config_space") == 0
    harness.write_at(0x10, 0xFFFF_FFFF, 4, "config_space")
    assert harness.read_at(0x10, 4, "config_space") == 0xFFFF_FFF0


def test_a_write_reports_the_known_bits() -> None:
    """A read says which events it knows; bit 2 (SHUTDOWN) is none of them."""
    harness = Harness(PciPvPanic)
    assert harness.read("events") == 3
    harness.write("events", 5)
    assert [("guest_panicked", {"events": 1})] == harness.context.events
