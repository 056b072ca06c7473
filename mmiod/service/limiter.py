"""Keep a noisy guest from filling the log: a rate for each event, and no silent loss.

An event is told from others by its name and by what it is about (`SUBJECT` keys).
The first `BURST` (or what `BURSTS` says) in a period pass; the next ones are counted.  The count appears as
`suppressed` on the first event of the same kind in a later period, or, if none comes,
in an `events_suppressed` of its own when `report` is called.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import structlog
from attrs import define, field
from structlog.typing import EventDict, WrappedLogger

BURST: Final = 5
BURSTS: Final = {"stream_line": 1000, "task_dumped": 10_000, "exit_dumped": 10_000}
"""Of events that are no repetition of each other: a console's text, an operator's dump."""
PERIOD_S: Final = 10.0
SUBJECT: Final = ("vm", "device")
MAX_KINDS: Final = 1024
"""Kinds that are told apart; for one more, the oldest period ends early."""
REPORT: Final = "events_suppressed"

Kind = tuple[str, ...]


@define(eq=False)
class Window:
    """One kind's period."""

    began: float
    passed: int = 0
    suppressed: int = 0


@define(eq=False)
class RateLimiter:
    """A processor for structlog; `clock` gives seconds."""

    clock: Callable[[], float] = time.monotonic
    _windows: dict[Kind, Window] = field(factory=dict, init=False)

    def __call__(self, logger: WrappedLogger, method: str, event: EventDict) -> EventDict:  # noqa: ARG002
        """Let an event pass, or count it.

        Raises:
            structlog.DropEvent: its kind has had its share of this period.
        """
        if event["event"] == REPORT:
            return event
        kind = (str(event["event"]), *(str(event.get(key, "")) for key in SUBJECT))
        now = self.clock()
        window = self._windows.get(kind)
        if window is None or now - window.began >= PERIOD_S:
            if window is not None and window.suppressed:
                event["suppressed"] = window.suppressed
            window = self._begin(kind, now)
        if window.passed == BURSTS.get(kind[0], BURST):
            window.suppressed += 1
            raise structlog.DropEvent
        window.passed += 1
        return event

    def report(self, *, final: bool = False) -> None:
        """Log the counts of periods that are over (of all, if it is the `final` report) and forget them."""
        now = self.clock()
        over = [kind for kind, window in self._windows.items() if final or now - window.began >= PERIOD_S]
        for kind in over:
            self._end(kind)

    def _begin(self, kind: Kind, now: float) -> Window:
        """A new period, at the end of the dict, so that the oldest one is its first."""
        self._windows.pop(kind, None)
        if len(self._windows) == MAX_KINDS:
            self._end(next(iter(self._windows)))
        window = self._windows[kind] = Window(now)
        return window

    def _end(self, kind: Kind) -> None:
        window, (name, *subject) = self._windows.pop(kind), kind
        if window.suppressed:
            about = {key: word for key, word in zip(SUBJECT, subject, strict=True) if word}
            structlog.get_logger().warning(REPORT, name=name, suppressed=window.suppressed, **about)
