"""What all tests share: the profile of hypothesis, the mark for real parts, and that each test ends."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

import hypothesis
import pytest
import trio
from attrs import define

from mmiod.daemon import _stack, _tasks
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

LIMIT_S = 600
"""Of a test and of each of its fixtures' ends: many times what the longest needs on a busy machine."""
GRACE_S = 10
"""For a loop of tasks to end when it is cancelled."""
MANY_DESCRIPTORS = 128
"""Machines of earlier tests have storage until the collector meets them: so many more, and it does."""
many_descriptors = MANY_DESCRIPTORS


def pytest_configure() -> None:
    """A shell ignores SIGINT for what it starts in the background: not for the programs of these tests."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


class Hangs(BaseException):
    """No `Exception`, so that nobody keeps it, and hypothesis looks for no smaller example."""


@define
class Limit:
    """What hangs fails, and the report says where all tasks of its loop are."""

    stacks: str = ""

    def over(self, _signal: int, _frame: FrameType | None) -> None:
        """A loop of tasks is cancelled first; what goes on nevertheless is interrupted where it is."""
        root = trio.lowlevel.current_root_task() if trio.lowlevel.in_trio_run() else None
        if root is None or self.stacks:
            raise Hangs(self.message)
        self.stacks = "".join(f"{task.name}\n{''.join(_stack(task).format())}" for task in _tasks(root))
        trio.lowlevel.current_trio_token().run_sync_soon(root.child_nurseries[0].cancel_scope.cancel)

    @property
    def message(self) -> str:
        """Why the test failed."""
        return f"it did not end within {LIMIT_S} s\n{self.stacks}"


@contextmanager
def limited() -> Generator[None]:
    """A block that ends in time, or fails."""
    limit = Limit()
    before = signal.signal(signal.SIGALRM, limit.over)
    signal.setitimer(signal.ITIMER_REAL, LIMIT_S, GRACE_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        if limit.stacks:
            raise Hangs(limit.message)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None]:
    """A test marked `needs` runs only with its parts."""
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            parts.need(name)
    with limited():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None]:
    """The test itself."""
    with limited():
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Generator[None]:
    """What its fixtures end; descriptors that only the collector closes do not pile up."""
    with limited():
        result = yield
    global many_descriptors  # noqa: PLW0603  # a collection of the whole suite's memory takes a second
    if _descriptors() > many_descriptors:
        gc.collect()
        many_descriptors = _descriptors() + MANY_DESCRIPTORS
    return result


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))
