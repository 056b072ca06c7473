"""A thread that interrupts a hook which runs past its deadline.

It sleeps while the core is parked.  While the core works it looks at every machine's
mark a few times per deadline and raises `HookDeadlineExceeded` in the core's thread.
The deadline is one of the core's CPU time, as a loaded host gives it less than passes by the
clock; a hook that needs none, as it sleeps, is late after `CLOCK` deadlines by the clock.
A hook inside C code cannot be interrupted this way: the exception waits until the call
returns.  One that goes on for `PATIENCE` deadlines more never will: the process aborts, by
`lifeline`, which also ends it where C code lets no thread of Python's run, this one included.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from time import clock_gettime_ns, perf_counter_ns, pthread_getcpuclockid
from typing import Final, Protocol

from attrs import define, field

from mmiod.machine.mark import HookDeadlineExceeded, Mark

LOOKS_PER_DEADLINE: Final = 4
CLOCK: Final = 10
"""Deadlines by the clock that a hook has, however little CPU time it got."""
PATIENCE: Final = 10
"""Deadlines after the first interruption until a hook counts as lost."""
_RAISE: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc
_RAISE.argtypes = (ctypes.c_ulong, ctypes.py_object)


def cpu_clock(thread: int) -> Callable[[], int]:
    """CPU time, in ns, of a thread of this process that lives."""
    return partial(clock_gettime_ns, pthread_getcpuclockid(thread))


class Lifeline(Protocol):
    """What ends the process when nothing else ends a hook."""

    def wind_up(self) -> None:
        """The watchdog runs, and the core does."""

    def rest(self) -> None:
        """The core does not run."""

    def abort(self) -> object:
        """A hook does not end: the process does."""


@define(eq=False)
class Watchdog:
    """Watches the marks of all machines; `working` is set while the core is not parked."""

    marks: Iterable[Mark]
    deadline_ns: int
    thread: int = field(factory=threading.get_ident)
    """The core's thread."""
    working: threading.Event = field(factory=threading.Event)
    lifeline: Lifeline | None = None
    cpu: Callable[[], int] = field()
    """CPU time of the core's thread, in ns."""
    _seen: deque[tuple[int, int]] = field(factory=partial(deque, maxlen=LOOKS_PER_DEADLINE * CLOCK))
    """By the clock and of CPU time: when it looked."""
    _stopped: threading.Event = field(factory=threading.Event)
    _struck: dict[int, tuple[int, int, int]] = field(factory=dict)
    """By mark: the serial that was interrupted last, when, and how often."""

    @cpu.default
    def _cpu(self) -> Callable[[], int]:
        return cpu_clock(self.thread)

    def start(self) -> None:
        """Begin to watch."""
        threading.Thread(target=self._watch, name="mmiod-watchdog", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()
        self.working.set()

    def _watch(self) -> None:
        period = self.deadline_ns / LOOKS_PER_DEADLINE / 1e9
        while not self._stopped.is_set():
            if not self.working.is_set():
                self._rest()
            self.working.wait()
            if self.lifeline is not None:
                self.lifeline.wind_up()
            self.note()
            self._stopped.wait(period)
            for mark in list(self.marks):
                self.look(mark)
        self._rest()

    def _rest(self) -> None:
        if self.lifeline is not None:
            self.lifeline.rest()

    def note(self) -> None:
        """Remember how much CPU time the core has had by now."""
        self._seen.append((perf_counter_ns(), self.cpu()))

    def _is_late(self, since_ns: int) -> bool:
        """Whether a hook that began then has used up its time.

        Of its CPU time that before the next look is not counted: who runs is asked a few times only.
        """
        passed = perf_counter_ns() - since_ns
        if passed < self.deadline_ns or passed >= CLOCK * self.deadline_ns:
            return passed >= self.deadline_ns
        before = next((used for seen, used in self._seen if seen >= since_ns), None)
        return before is not None and self.cpu() - before >= self.deadline_ns

    def look(self, mark: Mark) -> None:
        """Interrupt the hook that runs under this mark if it is late, again after each further deadline.

        An interruption can be lost: in a finaliser or a callback of the garbage collector.
        """
        serial, since = mark.serial, mark.since_ns
        if not since or not self._is_late(since):
            return
        now = perf_counter_ns()
        last, struck_ns, count = self._struck.get(id(mark), (None, 0, 0))
        if last == serial and now - struck_ns < self.deadline_ns:
            return
        count = count + 1 if last == serial else 1
        self._struck[id(mark)] = (serial, now, count)
        if count > PATIENCE and self.lifeline is not None:
            self.lifeline.abort()
        # From the comparison to the call there is no bytecode at which the GIL changes hands.
        if mark.serial == serial:
            mark.struck = True
            _RAISE(self.thread, HookDeadlineExceeded)
