"""Guest time and the timers on it.

Real time runs with a monotonic source and stands while the VM is paused.  Virtual time
stands still by itself: every exit brings it forward, so that two runs are equal.
Timers fire in the order of deadline, then of arming, from `fire_due` only: never
inside another hook.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable
from typing import Final

from attrs import define, field

NS_PER_S: Final = 1_000_000_000
NEVER: Final = (1 << 64) - 1
"""The deadline of no timer."""
VIRTUAL_WALL_START_S: Final = 1_767_225_600
"""2026-01-01 00:00:00 UTC: what a real-time clock shows at power-on in virtual time."""

MAX_FIRED: Final = 100_000
"""Timers on one way of a virtual clock: seconds of guest time at any rate that hardware has."""

Fire = Callable[[], None]


@define(eq=False)
class MachineClock:
    """One VM's clock.

    `monotonic` gives host ns and must not go back; `wall` gives seconds since 1970.
    """

    monotonic: Callable[[], int]
    wall: Callable[[], float]
    virtual: bool = False
    wall_start_s: int = 0
    """What a real-time clock showed at guest time 0."""
    armed: dict[tuple[str, str], tuple[int, int, Fire]] = field(factory=dict)
    on_change: Callable[[], None] | None = None
    """Called when the next deadline is before `awaited_ns`, and when the clock goes on."""
    awaited_ns: int = NEVER
    """The deadline that whoever is called waits for anyway."""
    quiet_until: int = 0
    """By `monotonic`: until then no timer is due; 0 while time stands."""
    origin_ns: int = 0
    """What `monotonic` gave at guest time 0, while time passes."""
    _queue: list[tuple[int, int, tuple[str, str]]] = field(factory=list)
    _numbers: itertools.count[int] = field(factory=itertools.count)
    _stands_at: int | None = 0

    @property
    def now_ns(self) -> int:
        """Guest time in ns since power-on."""
        if self._stands_at is not None:
            return self._stands_at
        return self.monotonic() - self.origin_ns

    @property
    def wall_s(self) -> int:
        """Seconds since 1970 for a real-time clock: follows guest time, second by second."""
        return self.wall_start_s + self.now_ns // NS_PER_S

    def power_on(self, *, virtual: bool) -> None:
        """Begin at 0, with no timer armed; a virtual clock also begins at a fixed wall time."""
        self.virtual = virtual
        self.armed.clear()
        self._queue.clear()
        self.awaited_ns = NEVER
        self._stands_at = 0
        self.wall_start_s = VIRTUAL_WALL_START_S if virtual else int(self.wall())
        self._look_ahead()
        if not virtual:
            self.go()

    def restore(self, now_ns: int, wall_start_s: int) -> None:
        """Continue a saved clock: no timer armed, standing if it stood, else running."""
        self.armed.clear()
        self._queue.clear()
        self.awaited_ns = NEVER  # in the time that was
        self.wall_start_s = wall_start_s
        if self._stands_at is not None:
            self._stands_at = now_ns
        else:
            self.origin_ns = self.monotonic() - now_ns
        self._look_ahead()

    def stop(self) -> None:
        """Stand still (PAUSE)."""
        self._stands_at = self.now_ns
        self._look_ahead()

    def go(self) -> None:
        """Run again from where it stands (RESUME); a virtual clock has nothing to do."""
        if self._stands_at is not None and not self.virtual:
            self.origin_ns = self.monotonic() - self._stands_at
            self._stands_at = None
            self._look_ahead()
            if self.on_change is not None:
                self.on_change()

    @property
    def runs(self) -> bool:
        """Whether time passes by itself."""
        return self._stands_at is None

    def advance_to(self, guest_ns: int, limit: int = MAX_FIRED) -> bool:
        """Bring a virtual clock forward; every timer on the way fires at its own time.

        Time never goes back.  After `limit` timers it stands still where the next one is
        due: a timer may set itself again, and a peer may ask for the end of the world.

        Returns:
            Whether it got there.
        """
        if not self.virtual or self._stands_at is None:
            return True
        while self._due(guest_ns):
            if not limit:
                return False
            self._stands_at = max(self._stands_at, self.deadline_ns)
            limit -= self.fire_due(1)
        self._stands_at = max(self._stands_at, guest_ns)
        return True

    def arm(self, owner: str, timer: str, deadline_ns: int | None, fire: Fire) -> None:
        """Set or cancel the timer `timer` of the device `owner`."""
        key = (owner, timer)
        known = self.armed.pop(key, None)
        if deadline_ns is None:
            if known is not None:
                self._look_ahead()
            return
        number = next(self._numbers)
        self.armed[key] = (deadline_ns, number, fire)
        heapq.heappush(self._queue, (deadline_ns, number, key))
        if len(self._queue) > 2 * len(self.armed) + 64:  # a guest can set a far timer again and again
            self._queue = [(deadline, number, key) for key, (deadline, number, _) in self.armed.items()]
            heapq.heapify(self._queue)
        self._look_ahead()
        if deadline_ns < self.awaited_ns and self.on_change is not None:
            self.on_change()

    @property
    def deadline_ns(self) -> int:
        """When the next timer is due, `NEVER` if none is armed."""
        while self._queue:
            deadline, number, key = self._queue[0]
            known = self.armed.get(key)
            if known is not None and known[1] == number:
                return deadline
            heapq.heappop(self._queue)
        return NEVER

    def fire_due(self, limit: int = 1024) -> int:
        """Fire what is due now, at most `limit` timers; return how many fired.

        In real time one that sets itself to now is due the next time: others have their turn.
        """
        fired, now_ns = 0, self.now_ns
        while fired < limit and self._due(now_ns):
            _, _, key = heapq.heappop(self._queue)
            _, _, fire = self.armed.pop(key)
            fire()
            fired += 1
        self._look_ahead()
        return fired

    def _look_ahead(self) -> None:
        self.quiet_until = 0 if self._stands_at is not None else self.origin_ns + self.deadline_ns

    def _due(self, now_ns: int) -> bool:
        """Whether a timer is armed for `now_ns` or before; at the end of the world none is."""
        return self.deadline_ns <= min(now_ns, NEVER - 1)
