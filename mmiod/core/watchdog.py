"""A thread that interrupts a hook which runs past its deadline.

It sleeps while the core is parked.  While the core works it looks at every machine's
mark a few times per deadline and raises `HookDeadlineExceeded` in the core's thread.
A hook inside C code cannot be interrupted this way: the exception waits until the call
returns.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Iterable
from time import perf_counter_ns
from typing import Final

from attrs import define, field

from mmiod.machine.host import HookDeadlineExceeded, Mark

LOOKS_PER_DEADLINE: Final = 4
_RAISE: Final = ctypes.pythonapi.PyThreadState_SetAsyncExc
_RAISE.argtypes = (ctypes.c_ulong, ctypes.py_object)


@define(eq=False)
class Watchdog:
    """Watches the marks of all machines; `working` is set while the core is not parked."""

    marks: Iterable[Mark]
    deadline_ns: int
    thread: int = field(factory=threading.get_ident)
    """The core's thread."""
    working: threading.Event = field(factory=threading.Event)
    _stopped: threading.Event = field(factory=threading.Event)
    _struck: dict[int, tuple[int, int]] = field(factory=dict)
    """By mark: the serial that was interrupted last, and when."""

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
            self.working.wait()
            self._stopped.wait(period)
            for mark in list(self.marks):
                self.look(mark)

    def look(self, mark: Mark) -> None:
        """Interrupt the hook that runs under this mark if it is late, again after each further deadline.

        An interruption can be lost: in a finaliser or a callback of the garbage collector.
        """
        serial, since = mark.serial, mark.since_ns
        if not since or perf_counter_ns() - since < self.deadline_ns:
            return
        now = perf_counter_ns()
        last, struck_ns = self._struck.get(id(mark), (None, 0))
        if last == serial and now - struck_ns < self.deadline_ns:
            return
        self._struck[id(mark)] = (serial, now)
        # From the comparison to the call there is no bytecode at which the GIL changes hands.
        if mark.serial == serial:
            _RAISE(self.thread, HookDeadlineExceeded)
