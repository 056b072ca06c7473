"""How things look to people."""

from __future__ import annotations

import pytest

from mmiod.ctl.text import duration, fields, hexadecimal, table


def test_columns_are_aligned() -> None:
    """Columns are as wide as their widest cell, numbers flush right, no blanks at the end."""
    expected = "NAME   COUNT  NOTE\nuart0      7\npit     1000  late"

    assert expected == table(
        ("NAME", "COUNT", "NOTE"), [("uart0", "7", ""), ("pit", "1000", "late")], frozenset({"COUNT"})
    )


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (None, "-"),
        (0, "0ns"),
        (999, "999ns"),
        (1000, "1us"),
        (4123, "4.12us"),
        (41_230, "41.2us"),
        (999_999, "999us"),
        (1_500_000, "1.5ms"),
        (3_600_000_000_000, "3600s"),
    ],
)
def test_duration_has_three_digits(ns: int | None, text: str) -> None:
    """Times are short and keep their unit."""
    assert text == duration(ns)


def test_numbers() -> None:
    """Hex has the digits of its size; small fields are decimal."""
    assert "0x0083" == hexadecimal(0x83, 2)
    assert "0x83" == hexadecimal(0x83)
    assert "WLS=3 DLAB=0 BASE=0xfe" == fields({"WLS": 3, "DLAB": 0, "BASE": 0xFE})
