"""The PCI Express test function: its own docstring is the specification."""

from __future__ import annotations

import pytest

from devices.pci.testdev_express import ExpressTestFunction as Function
from mmiod.testing import Harness

CONFIG = "config_space"
COMMAND, MSI, MSIX = 0x04, 0x80, 0xA0
TABLE = 0x800


def function() -> Harness[Function]:
    """One that may master the bus."""
    harness = Harness(Function)
    harness.write_at(COMMAND, 4, 2, CONFIG)
    return harness


def enable_msi(harness: Harness[Function]) -> None:
    """Four vectors of data 40h."""
    for offset, value, size in ((4, 0xFEE0_0000, 4), (12, 0x40, 2), (2, 2 << 4 | 1, 2)):
        harness.write_at(MSI + offset, value, size, CONFIG)


def enable_msix(harness: Harness[Function]) -> None:
    """Vector n has data 50h + n."""
    for vector in range(4):
        for offset, value in enumerate((0xFEE0_0000, 0, 0x50 + vector, 0)):
            harness.write_at(TABLE + 16 * vector + 4 * offset, value, 4, "registers")
    harness.write_at(MSIX + 2, 1 << 15, 2, CONFIG)


def test_raise_uses_the_pin_while_no_messages_are_enabled() -> None:
    """Until the status is acknowledged."""
    harness = function()
    harness.write("raised", 2)
    assert (4, True) == (harness.read("raised_status"), harness.levels["intx"])
    harness.write("raised_status", 4)
    assert (0, False) == (harness.read("raised_status"), harness.levels["intx"])


@pytest.mark.parametrize(("enable", "data"), [(enable_msi, 0x42), (enable_msix, 0x52)])
def test_raise_sends_the_vectors_message(enable: object, data: int) -> None:
    """And leaves pin and status alone."""
    harness = function()
    assert callable(enable)
    enable(harness)
    harness.write("raised", 2)
    assert [(0xFEE0_0000, data)] == harness.context.messages
    assert (0, False) == (harness.read("raised_status"), harness.levels["intx"])
