"""Field names in an access."""

from __future__ import annotations

import enum

from hypothesis import given, settings, strategies as st

from mmiod.device import Device, Field, Register
from mmiod.trace import decode


class Lcr(enum.IntFlag):
    """Some of a 16550A's line control register."""

    STB = 1 << 2
    DLAB = 1 << 7


class Sample(Device):
    """Two registers with fields."""

    length = 8
    lcr = Register(3, fields=Lcr)
    wide = Register(4, size=4, fields={"LOW": Field(0, 3), "MIDDLE": Field(6, 4), "HIGH": Field(24, 8)})


def test_whole_access_shows_all_fields() -> None:
    """An access of the register's own size gives what the declaration's `describe` gives."""
    assert {"STB": 0, "DLAB": 1} == decode(Sample.lcr, 3, 1, 0x83)
    for value in (0, 0xA5C7_1234, 0xFFFF_FFFF):
        assert Sample.wide.describe(value) == decode(Sample.wide, 4, 4, value)


def test_part_of_a_register_shows_whole_fields_only() -> None:
    """A byte of a wide register says nothing of fields that it does not hold, or holds in part."""
    assert {"LOW": 5} == decode(Sample.wide, 4, 1, 0xFD)
    assert {} == decode(Sample.wide, 5, 1, 0xFF)
    assert {"HIGH": 0x80} == decode(Sample.wide, 7, 1, 0x80)


@settings(max_examples=50)
@given(st.integers(0, 0xFF), st.integers(0, 0xFFFF_FFFF), st.integers(0, 0xFF))
def test_access_around_a_register(before: int, value: int, behind: int) -> None:
    """An access that begins before the register and ends behind it shows its fields all the same."""
    whole = before | value << 8 | behind << 40

    assert Sample.wide.describe(value) == decode(Sample.wide, 3, 6, whole)
