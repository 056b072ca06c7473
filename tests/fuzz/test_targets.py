"""The short form of `make fuzz`: each target on its seeds and on a few hundred changes of them."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings, strategies as st

from tests.fuzz import session
from tests.fuzz.target import NAMES, load

EXAMPLES = {
    "attachment": 60,
    "vfio_user": 100,
    "configuration": 100,
    "control": 100,
    "devices": 60,
    "state": 60,
}
SEEDS = 40
"""Seeds of a target that the short form runs as they are."""


@st.composite
def changed(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A seed, or two joined, with some bytes overwritten, cut out or put in."""
    data = bytearray(b"".join(draw(st.lists(st.sampled_from(seeds), min_size=1, max_size=2))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data)


@pytest.mark.parametrize("name", NAMES)
def test_target_holds(name: str) -> None:
    """The invariant in the target's docstring, for its seeds and for what hypothesis makes of them."""
    gc.collect()  # descriptors of earlier tests' machines, which targets would count
    target = load(name)
    seeds = target.seeds()
    for data in seeds[:: -(-len(seeds) // SEEDS)]:
        target.run(data)

    @settings(max_examples=EXAMPLES.get(name, 300))
    @given(changed(seeds) | st.binary(max_size=200))
    def holds(data: bytes) -> None:
        target.run(data)

    holds()


@pytest.mark.needs("atheris")
def test_finding_is_kept_with_what_shows_it_again(tmp_path: Path) -> None:
    """A bug behind two comparisons is found from the edges; its input is kept and fails again."""
    outcome = session.fuzz("tests.fuzz.planted", 200, tmp_path, seed=1)
    assert outcome.finding is not None, outcome.log
    assert outcome.finding.parent == tmp_path / "tests.fuzz.planted" / "findings"
    assert outcome.failed
    command = [sys.executable, "-m", "tests.fuzz", "tests.fuzz.planted", "--input", str(outcome.finding)]
    again = subprocess.run(command, cwd=session.ROOT, capture_output=True, text=True, check=False)
    assert again.returncode != 0
    assert "AssertionError: planted" in again.stderr


def test_log_of_a_run_is_read() -> None:
    """Edges and inputs are the last that were told; a log without any is a failed run."""
    log = """\
#2\tINITED cov: 15 ft: 15 corp: 1/1b exec/s: 0 rss: 42Mb
#809\tREDUCE cov: 19 ft: 30 corp: 4/5b lim: 8 exec/s: 0 rss: 42Mb L: 2/2 MS: 4 EraseBytes-
stat::number_of_executed_units: 457141
stat::average_exec_per_sec:     152380
"""
    good = session.outcome_of("x", log, 0)
    assert (19, 4, 457141, 152380) == (good.edges, good.inputs, good.executions, good.per_second)
    assert not good.failed
    assert session.outcome_of("x", "No module named atheris", 1).failed
