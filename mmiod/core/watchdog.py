"""A thread that interrupts a hook which runs past its deadline.

It sleeps while the core is parked.  While the core works it looks at every machine's
mark a few times per deadline and raises `HookDeadlineExceeded` in the core's thread.
A hook inside C code cannot be interrupted this way: the exception waits until the call
returns.  One that goes on for `PATIENCE` deadlines more never will: the process aborts, by
`lifeline`, which also ends it where C code lets no thread of Python's run, this one included.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable
from time import perf_counter_ns
from typing import Final, Protocol

from attrs import define, field

from mmiod.machine.mark import HookDeadlineExceeded, Mark

LOOKS_PER_DEADLINE: Final = 4
PATIENCE: Final = 10
"""Deadlines after the first interruption until a hook counts as lost."""
_RAISE: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc
_RAISE.argtypes = (ctypes.c_ulong, ctypes.py_object)


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
    _stopped: threading.Event = field(factory=threading.Event)
    _struck: dict[int, tuple[int, int, int]] = field(factory=dict)
    """By mark: the serial that was interrupted last, when, and how often."""

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
            self._stopped.wait(period)
            for mark in list(self.marks):
                self.look(mark)
        self._rest()

    def _rest(self) -> None:
        if self.lifeline is not None:
            self.lifeline.rest()

    def look(self, mark: Mark) -> None:
        """Interrupt the hook that runs under this mark if it is late, again after each further deadline.

        An interruption can be lost: in a finaliser or a callback of the garbage collector.
        """
        serial, since = mark.serial, mark.since_ns
        if not since or perf_counter_ns() - since < self.deadline_ns:
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
            _RAISE(self.thread, HookDeadlineExceeded)
