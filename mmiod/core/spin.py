"""How long the core looks at a shared memory, or at its sockets, where nothing happens, before it sleeps.

Looking costs a CPU, sleeping costs the next exit a wake-up of 25-150 us (docs/performance.md),
so a source is looked at for as long as an event is likely.  What came soon after the core had
fallen asleep, or came while it looked, makes it look up to the whole cap; each sleep that looking
did not save halves the time, to nothing in the end.
"""

from __future__ import annotations

import os
import resource
from typing import Final, Protocol

from attrs import define, field

OFTEN: Final = 4
"""Preemptions in a turn of the pump's."""
LEAST_NS: Final = 5_000
"""Of looking: less than that saves nothing."""


class Source(Protocol):
    """A shared memory, as the pump sees it."""

    spin: Spin

    def poll(self, looks: int, /) -> bool:
        """Look so many times for what has come, and do it; whether anything had."""

    def park(self) -> bool:
        """Ask to be woken by the kick; False if something has come meanwhile."""

    def rouse(self) -> None:
        """The kick is not needed any more."""


@define(eq=False)
class Spin:
    """The time for one source."""

    cap_ns: int
    """0: the core never waits awake."""
    budget_ns: int = field(init=False)
    since_ns: int = 0
    """When the last event was seen."""

    def __attrs_post_init__(self) -> None:
        """Begin with all of it."""
        self.budget_ns = self.cap_ns

    def over(self, now_ns: int) -> bool:
        """Whether looking has lasted long enough."""
        return now_ns - self.since_ns >= self.budget_ns

    def woken(self, now_ns: int) -> None:
        """The kick ended a sleep."""
        if now_ns - self.since_ns < 2 * self.cap_ns:
            self.budget_ns = self.cap_ns
        else:
            self.budget_ns = self.budget_ns // 2 if self.budget_ns > LEAST_NS else 0
        self.since_ns = now_ns


@define(eq=False)
class Preemptions:
    """How often others took our CPU.

    A client on our CPU does so whenever it is answered.  When the scheduler does not let it, it is to
    come next and cannot while we look.  Any other one that computes takes it once in some ms.
    """

    _counted: int = 0

    def often(self) -> bool:
        """Whether it was so since the last time."""
        before, self._counted = self._counted, resource.getrusage(resource.RUSAGE_THREAD).ru_nivcsw
        return self._counted - before >= OFTEN


def cap_ns(spin_us: int) -> int:
    """What was configured, or 0 where the client needs the CPU on which we would look: there is one."""
    return 1000 * spin_us if (os.cpu_count() or 1) > 1 else 0
