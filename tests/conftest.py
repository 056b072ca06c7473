"""What all tests share: the profile of hypothesis and the mark for real parts."""

from __future__ import annotations

import os

import hypothesis
import pytest

from tests import parts

# No deadline and no too_slow: the clock of a busy two-core machine proves nothing.  In CI
# the examples are always the same, so that a commit passes or fails for what it changes.
hypothesis.settings.register_profile(
    "mmiod",
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("mmiod")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `needs` runs only with its parts."""
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            parts.need(name)
