"""The core task's loop: one private epoll for all descriptors, synchronous callbacks, and slots.

An attachment registers a descriptor and a callback; the callback takes one message or a few, so
that all connections get their turn, and what it leaves is reported again.  Between
polls the loop passes a trio checkpoint every `TURN_NS`, and with nothing to do it parks
on the epoll itself: one trio object for all connections, none of them on an exit's way.

Exits in shared memory tell nobody that they are there: their source is looked at, in turn with
the others, until it has been silent for a while.  Then it is parked, on its own, and costs
nothing until its client writes to the kick, one of the descriptors.  So is the epoll: a client
that comes back soon, as one does that has just been answered, finds the loop awake.

A client on our CPU mostly runs while we answer it, as our `send` is preempted.  When the scheduler does
not let it, it cannot send what we look for: so where we are preempted often it is given the CPU.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from time import monotonic_ns
from typing import Final

import trio
from attrs import define, field

from mmiod.core.spin import Preemptions, Source, Spin

TURN_NS: Final = 500_000
"""Time between two checkpoints while there is work."""
READABLE: Final = select.EPOLLIN | select.EPOLLRDHUP
WRITABLE: Final = select.EPOLLOUT
_EVENTS_PER_POLL: Final = 64
LOOKS: Final = 32
"""At every source between two looks at the clock and at the descriptors."""

Callback = Callable[[int], None]
"""Takes the epoll events of its descriptor."""


@define(eq=False)
class Pump:
    """All descriptors of the core; `working` is set while it is not parked."""

    working: threading.Event
    spin_ns: int = 0
    """How long to look at a source, or at the descriptors, at most before it is parked."""
    _epoll: select.epoll = field(factory=select.epoll)
    _callbacks: dict[int, Callback] = field(factory=dict)
    _due: list[Callable[[], None]] = field(factory=list)
    _wake: int = field(factory=lambda: os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
    _awake: tuple[Source, ...] = ()
    """Replaced as a whole: a source may end while the loop goes through them."""
    alone: bool = True
    """Nobody else had anything when the descriptors were looked at: who is called may take more in a row."""
    _turning: bool = False
    _gives_way: bool = False
    """Another task has something to do."""
    _descriptors: Spin = field(init=False)
    _preempted: Preemptions = field(factory=Preemptions)

    def __attrs_post_init__(self) -> None:
        """Watch the descriptor that ends a park."""
        self._descriptors = Spin(self.spin_ns)
        self.register(self._wake, self._woken, select.EPOLLIN)

    def _woken(self, _events: int) -> None:
        os.eventfd_read(self._wake)

    def register(self, descriptor: int, callback: Callback, events: int = READABLE) -> None:
        """Call back when the descriptor is ready, again and again until it is read."""
        self._epoll.register(descriptor, events)
        self._callbacks[descriptor] = callback

    def watch(self, descriptor: int, events: int) -> None:
        """Change what a descriptor is watched for."""
        self._epoll.modify(descriptor, events)

    def unregister(self, descriptor: int) -> None:
        """Forget a descriptor, before it is closed."""
        if self._callbacks.pop(descriptor, None) is not None and not self._epoll.closed:
            self._epoll.unregister(descriptor)

    # --- slots ---------------------------------------------------------------------------

    def attend(self, source: Source, kick: int) -> None:
        """Look at a source from now on; `kick` is an eventfd whose writes end its sleep.

        It is never read: its owner could make that wait, as file status flags are shared.

        Raises:
            OSError: nobody can wait for this descriptor.
        """
        self.register(kick, lambda _events: self._kicked(source), select.EPOLLIN | select.EPOLLET)
        self._rouse(source, monotonic_ns())

    def dismiss(self, source: Source, kick: int) -> None:
        """Forget a source, before its kick is closed."""
        self._awake = tuple(known for known in self._awake if known is not source)
        self.unregister(kick)

    def _kicked(self, source: Source) -> None:
        if source not in self._awake:
            now = monotonic_ns()
            source.spin.woken(now)
            self._rouse(source, now)

    def _rouse(self, source: Source, now_ns: int) -> None:
        source.spin.since_ns = now_ns
        source.rouse()
        self._awake = (*self._awake, source)

    def _look(self) -> bool:
        """Look at all sources that are awake; whether any had something.  Who is silent for long sleeps."""
        active = set[Source]()
        turns, looks = (1, LOOKS) if len(self._awake) == 1 else (LOOKS, 1)
        for _ in range(turns):
            for source in self._awake:
                if source.poll(looks):
                    active.add(source)
        now = monotonic_ns()
        for source in self._awake:
            if source in active:
                source.spin.since_ns = now
            elif source.spin.over(now) and source.park():
                self._awake = tuple(known for known in self._awake if known is not source)
        return bool(active)

    # --- the loop ------------------------------------------------------------------------

    def soon(self, action: Callable[[], None]) -> None:
        """Run an action after the callbacks of this turn, or of the next one if parked."""
        self._due.append(action)
        if not self._turning:
            os.eventfd_write(self._wake, 1)

    def give_way(self) -> None:
        """Another task has something to do, and no look at what may come is to hold that up."""
        self._gives_way = True

    def work(self, action: Callable[[], None]) -> None:
        """Run an action of another task, under the watchdog's eyes."""
        if self.working.is_set():
            action()
            return
        self.working.set()
        try:
            action()
        finally:
            self.working.clear()

    async def run(self) -> None:
        """Serve until cancelled."""
        self.working.set()  # the first turns may find much to do before the first park
        try:
            while True:
                if self.turn():
                    await trio.lowlevel.checkpoint()
                else:
                    self.working.clear()
                    await trio.lowlevel.wait_readable(self._epoll.fileno())
                    self.working.set()
                    self._descriptors.woken(monotonic_ns())
        finally:
            self._epoll.close()
            os.close(self._wake)

    def turn(self) -> bool:
        """Work for at most one turn; whether there may be more to do."""
        end = monotonic_ns() + TURN_NS
        self._turning = True
        looking, active, shared = self._descriptors, True, self._preempted.often()
        while (now := monotonic_ns()) < end:
            ready = self._epoll.poll(0, _EVENTS_PER_POLL)
            if ready:
                looking.since_ns = now
            elif not self._due and (self._gives_way or (not self._awake and looking.over(now))):
                self._turning = self._gives_way = False
                return bool(self._awake)
            elif shared and not active:
                os.sched_yield()
            self.alone = len(ready) <= 1
            for descriptor, events in ready:
                callback = self._callbacks.get(descriptor)
                if callback is not None:  # else unregistered by a callback before it
                    callback(events)
            if self._due:
                due, self._due = self._due, []
                for action in due:
                    action()
            active = bool(self._awake) and self._look()
        return True
