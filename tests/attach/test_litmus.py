"""The barrier of the slots' sleep and wake-up, against a peer in C on another CPU."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mmiod.attach import shared
from tests.attach.litmus import compiled, lost

pytestmark = [
    pytest.mark.needs("gcc"),
    pytest.mark.skipif(not shared.OFFERED, reason="x86-64 only"),
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="both sides must run at once"),
]
ROUNDS = 100_000
PATIENCE_S = 200
"""Where other programs are busy, both sides seldom run at once."""


@pytest.fixture(scope="module")
def peer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The peer, compiled."""
    return compiled(tmp_path_factory.mktemp("litmus"))


def test_no_wake_up_is_lost_behind_the_barrier(peer: Path, tmp_path: Path) -> None:
    """In no round both sides miss each other; `make litmus` plays 10^7."""
    assert lost(peer, tmp_path, ROUNDS, barrier=True) == 0


def test_wake_ups_are_lost_without_it(peer: Path, tmp_path: Path) -> None:
    """So the test above can fail."""
    end = time.monotonic() + PATIENCE_S
    while not lost(peer, tmp_path, ROUNDS, barrier=False):
        assert time.monotonic() < end
