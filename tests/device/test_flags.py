"""Flags that are plain numbers when they are combined."""

from __future__ import annotations

import enum

import pytest
from hypothesis import given, strategies as st

from mmiod.device import Device, Region, Register, plain
from mmiod.testing import Harness


class Slow(enum.IntFlag):
    """What Python makes of flags."""

    A = 1
    B = 2
    WIDE = 0x80


@plain
class Fast(enum.IntFlag):
    """The same flags."""

    A = 1
    B = 2
    WIDE = 0x80


LISTED = enum.IntFlag("LISTED", "A B")
plain(LISTED)


@given(st.sampled_from(["A", "B", "WIDE"]), st.sampled_from(["A", "B", "WIDE"]) | st.integers(0, 255))
def test_they_are_what_python_makes_of_flags_but_numbers(one: str, other: str | int) -> None:
    """Every operator, flags and numbers on both sides."""
    slow, fast = ((flags[one], flags[other] if isinstance(other, str) else other) for flags in (Slow, Fast))
    for found, expected in (
        (fast[0] | fast[1], slow[0] | slow[1]),
        (fast[1] | fast[0], slow[1] | slow[0]),
        (fast[0] & fast[1], slow[0] & slow[1]),
        (fast[1] & fast[0], slow[1] & slow[0]),
        (fast[0] ^ fast[1], slow[0] ^ slow[1]),
        (fast[1] ^ fast[0], slow[1] ^ slow[0]),
        (0xFF & ~fast[0], 0xFF & ~slow[0]),
    ):
        assert (int, int(expected)) == (type(found), found)


@pytest.mark.parametrize("flags", [Fast, LISTED])
def test_they_name_the_bits_of_a_register(flags: type[enum.IntFlag]) -> None:
    """Members keep name and value."""

    class Panel(Device):
        main = Region(1)
        lamps = Register(0, fields=flags, region=main)

    harness = Harness(Panel)
    harness.write("lamps", 1)
    assert ("A", 1) == (flags.A.name, Panel.lamps.describe(harness.read("lamps"))["A"])  # type: ignore[attr-defined]
