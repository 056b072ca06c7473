"""The 16550A as a PCI function: what differs from the one of a PC's serial port."""

from __future__ import annotations

from devices.pci.uart import PciUart
from mmiod.device.uart16550 import IER, MCR
from mmiod.testing import Harness

CONFIG = "config_space"


def test_a_driver_knows_it_by_its_header() -> None:
    """QEMU docs/specs/pci-serial.rst: 1B36:0002, 16550-compatible, one I/O BAR, INTA."""
    harness = Harness(PciUart)
    assert harness.read_at(0x00, 4, CONFIG) == 0x0002_1B36
    assert harness.read_at(0x08, 4, CONFIG) == 0x0700_0201
    assert harness.read_at(0x3D, 1, CONFIG) == 1
    harness.write_at(0x10, 0xFFFF_FFFF, 4, CONFIG)
    assert harness.read_at(0x10, 4, CONFIG) == 0xFFFF_FFF9
    assert harness.read_at(0x14, 4, CONFIG) == 0


def test_its_registers_are_in_bar_0() -> None:
    """Characters go out, and come in, as on any 16550A."""
    harness = Harness(PciUart)
    harness.write_at(0, ord("A"), 1, "ports")
    assert harness.context.sent == {"serial": b"A"}
    harness.write_at(7, 0x5A, 1, "ports")
    assert harness.read_at(7, 1, "ports") == 0x5A


def test_out2_gates_nothing() -> None:
    """The interrupt is INTA, held back by the command register alone."""
    harness = Harness(PciUart)
    harness.write("ier", IER.ETBEI)
    assert (0, True) == (harness.read("mcr") & MCR.OUT2, harness.levels["intx"])
    harness.write_at(0x04, 1 << 10, 2, CONFIG)
    assert {"intx": False} == harness.levels
    harness.write_at(0x04, 0, 2, CONFIG)
    assert {"intx": True} == harness.levels
    harness.read("iir")
    assert {"intx": False} == harness.levels
