"""The rate of events."""

from __future__ import annotations

import structlog
from attrs import define
from hypothesis import given, settings, strategies as st
from structlog.testing import capture_logs
from structlog.typing import EventDict

from mmiod.service.limiter import BURST, MAX_KINDS, PERIOD_S, REPORT, RateLimiter


@define
class Clock:
    """Seconds that pass when told to."""

    now: float = 0.0

    def __call__(self) -> float:
        """The time."""
        return self.now


def send(limiter: RateLimiter, **event: object) -> EventDict | None:
    """What becomes of an event; None if it is dropped."""
    try:
        return limiter(None, "warning", dict(event))
    except structlog.DropEvent:
        return None


def test_burst_passes_and_the_rest_is_counted() -> None:
    """Of many equal events `BURST` pass; the first one of the next period says how many did not."""
    clock = Clock()
    limiter = RateLimiter(clock)

    passed = [send(limiter, event="access_unclaimed", vm="vm0") for _ in range(BURST + 7)]
    clock.now += PERIOD_S
    later = [send(limiter, event="access_unclaimed", vm="vm0") for _ in range(2)]

    assert [True] * BURST + [False] * 7 == [event is not None for event in passed]
    assert [7, None] == [event and event.get("suppressed") for event in later]


def test_kinds_do_not_disturb_each_other() -> None:
    """Another event, VM or device has a rate of its own."""
    limiter = RateLimiter(Clock())
    for _ in range(BURST + 1):
        send(limiter, event="a", vm="vm0", device="uart0")

    assert send(limiter, event="a", vm="vm0", device="uart0") is None
    assert send(limiter, event="b", vm="vm0", device="uart0") is not None
    assert send(limiter, event="a", vm="vm1", device="uart0") is not None
    assert send(limiter, event="a", vm="vm0", device="pit") is not None
    assert send(limiter, event="a") is not None


def test_report_tells_counts_that_no_event_brought() -> None:
    """When a kind falls silent, `report` logs its count once; a period that is not over waits."""
    clock = Clock()
    limiter = RateLimiter(clock)
    for _ in range(BURST + 3):
        send(limiter, event="a", vm="vm0", device="uart0")

    with capture_logs() as early:
        limiter.report()
    clock.now += PERIOD_S
    with capture_logs() as due:
        limiter.report()
        limiter.report()

    expected = {"event": REPORT, "name": "a", "suppressed": 3, "vm": "vm0", "device": "uart0"}
    assert [] == early
    assert [expected | {"log_level": "warning"}] == due


@settings(max_examples=100)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 2 * PERIOD_S)), max_size=60))
def test_nothing_is_lost(steps: list[tuple[str, float]]) -> None:
    """Events that passed and counts that were told add up to what was sent, whatever the timing."""
    clock = Clock()
    limiter = RateLimiter(clock)
    told = 0
    with capture_logs() as reports:
        for name, pause in steps:
            clock.now += pause / 8
            event = send(limiter, event=name)
            told += 0 if event is None else 1 + event.get("suppressed", 0)
        limiter.report(final=True)

    assert len(steps) == told + sum(report["suppressed"] for report in reports)


def test_memory_is_bounded_and_still_nothing_lost() -> None:
    """One kind too many ends the oldest one's period, with its count."""
    limiter = RateLimiter(Clock())
    for _ in range(BURST + 2):
        send(limiter, event="first")

    with capture_logs() as reports:
        for number in range(MAX_KINDS):
            send(limiter, event=f"other_{number}")

    assert [("first", 2)] == [(report["name"], report["suppressed"]) for report in reports]
    assert MAX_KINDS == len(limiter._windows)
