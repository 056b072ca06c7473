"""QEMU's `isa-debug-exit`; tests/qemu/test_more.py compares the exit codes."""

from __future__ import annotations

import pytest

from devices.pseudo.debugexit import DebugExit
from mmiod.device import Request
from mmiod.testing import Harness


@pytest.mark.parametrize(("offset", "size", "value"), [(0, 1, 0), (0, 4, 0x10), (2, 2, 0xFFFF), (3, 1, 1)])
def test_a_write_asks_for_an_odd_exit_code(offset: int, size: int, value: int) -> None:
    """Twice the value and 1, at any offset and size."""
    harness = Harness(DebugExit)
    harness.write_at(offset, value, size)
    assert [(Request.EXIT, 2 * value + 1)] == harness.context.requests


def test_reading_ends_nothing() -> None:
    """It gives 0."""
    harness = Harness(DebugExit)
    assert (0, []) == (harness.read_at(0, 4), harness.context.requests)
