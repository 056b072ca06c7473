"""Which hook runs now, since when, and how it can fail: what the watchdog and the hosts share."""

from __future__ import annotations

from collections.abc import Callable, MutableSequence
from time import perf_counter_ns
from typing import TypeVar

from attrs import define, field

T = TypeVar("T")


class HookDeadlineExceeded(BaseException):
    """Raised by the watchdog thread inside a hook that runs for too long.

    Not an `Exception`, so that a plugin's own `except Exception` does not catch it.
    """


class RemoteError(Exception):
    """A hook failed in another process: the text has the type and the reason."""


def reason_of(error: BaseException) -> str:
    """What is told of a hook's failure."""
    return str(error) if isinstance(error, RemoteError) else f"{type(error).__name__}: {error}"


@define(eq=False)
class Mark:
    """What runs now, for the watchdog: a hook of device `name` since `since_ns`, 0 if none.

    The time is CLOCK_MONOTONIC's: on Linux `perf_counter_ns` and `monotonic_ns` are the same.

    `serial` changes whenever that does.  The watchdog compares it and raises without a
    point in between where the GIL could change hands, so that a hook that has ended is
    never interrupted.
    """

    name: str = ""
    since_ns: int = 0
    serial: int = 0
    struck: bool = False
    """The watchdog has interrupted a hook, which may have ended before it came to know."""
    running: MutableSequence[int] | memoryview = field(factory=lambda: [0])
    """One place, which outlives the process: the number of the device that has an input, 0 if none."""

    def enter(self, name: str) -> tuple[str, int, int]:
        """A hook begins; what ran around it is for `leave`."""
        now = perf_counter_ns()
        outer = (self.name, self.since_ns, now)
        self.serial += 1
        self.name, self.since_ns = name, now
        return outer

    def leave(self, outer: tuple[str, int, int]) -> None:
        """The hook is over; its time is not that of the hook around it."""
        name, since_ns, entered_ns = outer
        if since_ns:
            since_ns += perf_counter_ns() - entered_ns
        self.serial += 1
        self.name, self.since_ns = name, since_ns

    def flinch(self) -> None:
        """Raise what the watchdog has raised and nobody has met: the interpreter does, as it begins this.

        A lane that is compiled would never: C code does not look.
        """
        self.struck = False

    def watched(self, name: str, action: Callable[[], T]) -> T:
        """Run one of several hooks in a row: it has a deadline of its own."""
        outer = self.enter(name)
        try:
            return action()
        finally:
            self.leave(outer)

    def unwatched(self, action: Callable[[], T]) -> T:
        """Run what ends by itself, by a deadline of its own."""
        outer = self.enter(self.name)
        self.since_ns = 0
        try:
            return action()
        finally:
            self.leave(outer)
