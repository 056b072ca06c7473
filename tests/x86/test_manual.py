"""The forms that no oracle runs, against cases computed by hand."""

from __future__ import annotations

import iced_x86 as iced
import pytest

from tests.x86.forms import BY_NAME, CODES, Judge, executed_forms, judge
from tests.x86.manual import ROWS, Row, run


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.form}-{row.code}")
def test_row(row: Row) -> None:
    """The bytes are the form; accesses and results are those of the manual."""
    assert BY_NAME[row.form] == iced.Decoder(int(row.mode), bytes.fromhex(row.code)).decode().code
    assert (list(row.accesses), row.after) == run(row)


def test_every_form_without_an_oracle_has_a_row() -> None:
    """And no form has a row that an oracle could judge."""
    manual = {CODES[code] for code in executed_forms() if judge(code) is Judge.MANUAL}
    assert manual == {row.form for row in ROWS}
