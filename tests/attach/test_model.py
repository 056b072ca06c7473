"""The model of the slots' handshake has no error, and each mistake that is made in it has one."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.attach.model import BROKEN, MODEL, PROGRESS, SAFETY, check, mistaken

pytestmark = [pytest.mark.needs("spin"), pytest.mark.needs("gcc")]
LEAST_STATES = 100_000


@pytest.mark.parametrize("search", [SAFETY, PROGRESS])
def test_nobody_sleeps_for_ever(tmp_path: Path, search: tuple[str, ...]) -> None:
    """No run ends with somebody asleep who is waited for, or goes round for ever."""
    found = check(tmp_path, search=search)
    assert found.errors == 0, found.told
    assert found.states > LEAST_STATES


@pytest.mark.parametrize("mistake", BROKEN)
def test_model_can_fail(tmp_path: Path, mistake: str) -> None:
    """Without barriers, without the second look, or in another order."""
    text, options = mistaken(mistake)
    assert check(tmp_path, options, text=text).errors


def test_model_is_short() -> None:
    """So that it can be read beside docs/protocol.md."""
    assert len(MODEL.read_text().splitlines()) < 80
