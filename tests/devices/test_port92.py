"""System control port A, by the ICH9 datasheet, 13.7.3."""

from __future__ import annotations

from devices.legacy.port92 import Port92
from mmiod.device import Request
from mmiod.testing.harness import Harness


def test_a20_gate_is_kept() -> None:
    """ALT_A20_GATE is read/write and 0 after reset; the other bits, a PS/2's lights and lock, are storage."""
    port = Harness(Port92)
    assert port.read("control") == 0
    port.write("control", 0xFE)
    assert port.read("control") == 0xFE
    assert port.context.requests == []
    port.device.reset()
    assert port.read("control") == 0


def test_init_now_asks_for_a_reset() -> None:
    """INIT_NOW resets, and A20 is kept as written with it."""
    port = Harness(Port92)
    port.write("control", 0x03)
    assert port.context.requests == [(Request.RESET, 0)]
    assert port.read("control") == 0x02
