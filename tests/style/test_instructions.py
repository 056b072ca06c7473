"""docs/instructions.md says what the opcode tables say."""

from __future__ import annotations

from pathlib import Path

import pytest

from mmiod.x86 import Mode, decode
from tests.x86.document import REFUSED, filled

DOCUMENT = Path(__file__).parents[2] / "docs" / "instructions.md"


def test_tables_are_those_of_the_code() -> None:
    """`make generate` would change nothing; the figures of the oracles are tests/x86/test_oracle.py's."""
    text = DOCUMENT.read_text()
    assert text == filled(text)
    assert {"coverage", "integer", "vector", "refused"} == {
        line.split()[2] for line in text.splitlines() if line.startswith("<!-- table")
    }


def test_an_instruction_that_is_executed_cannot_be_listed_as_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whoever adds an instruction that the document refuses has to change the document."""
    monkeypatch.setattr("tests.x86.document.REFUSED", (*REFUSED, ("moves", "8b00", 64, "of no reason")))
    assert hasattr(decode(bytes.fromhex("8b00"), Mode.CODE64), "run")
    with pytest.raises(AssertionError, match="moves: 8b00 is executed"):
        filled(DOCUMENT.read_text())
