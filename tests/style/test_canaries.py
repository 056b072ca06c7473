"""The table of planted bugs fits the tree: cheap, so that a stale row shows at once."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.canaries.runner import CanaryError, check
from tests.canaries.table import CANARIES, Canary

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("canary", CANARIES, ids=lambda canary: canary.bug)
def test_row_fits_the_tree(canary: Canary) -> None:
    """Its text occurs exactly once, the bug changes it, and the test that it names is there."""
    check(canary)
    assert canary.old != canary.new
    file, _, name = canary.test.partition("::")
    function = re.escape(name.partition("[")[0])
    text = (ROOT / file).read_text()
    assert re.search(rf"^(?:(?:async )?def {function}\(|{function} = )", text, re.MULTILINE), canary.test


def test_bugs_are_different_and_many() -> None:
    """Ten at least, each with a name of its own."""
    assert len(CANARIES) == len({canary.bug for canary in CANARIES})
    assert len(CANARIES) >= 10


@pytest.mark.parametrize("old", ["not in this file", "a"])
def test_row_that_does_not_fit_is_named(tmp_path: Path, old: str) -> None:
    """No occurrence, or several: the error says which row."""
    (tmp_path / "x.py").write_text("a = a")
    with pytest.raises(CanaryError, match=r"'lost bug': its text is [02] times in x\.py"):
        check(Canary("lost bug", "x.py", old, "b", ""), tmp_path)
