"""A device in service: its hooks run under the watchdog's eyes, and its inputs are kept.

What fails takes the device out of service, and nothing else with it: `guarded` and `feed`
are the only ways to a plugin's code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Final, ParamSpec, TypeVar

from attrs import define, field, frozen

from mmiod.device import Context, Device, Register
from mmiod.device.saved import Saved
from mmiod.machine.inputs import INPUTS, QUESTIONS, skip
from mmiod.machine.journal import DONE, LIMIT, PATIENT_LIMIT, Entry, Journal
from mmiod.machine.mark import HookDeadlineExceeded, reason_of
from mmiod.machine.replay import Replay
from mmiod.machine.snapshot import fit, give, take
from mmiod.machine.statistics import Statistics
from mmiod.machine.storage import Backings
from mmiod.machine.waist import Origin, Owed, Status

P = ParamSpec("P")
T = TypeVar("T")

PERFORM: Final = {**INPUTS, **QUESTIONS}


@frozen
class Relived:
    """A device that lived through its journal."""

    device: Device
    owing: bool
    """Whether it owes an answer now."""
    inputs: int
    """How many it was given."""


@define(eq=False)
class Serving:
    """One device, its journal, and whether it serves."""

    name: str
    plugin: str
    device: Device
    origin: Origin
    generation: int = 1
    statistics: Statistics = field(factory=Statistics)
    failure: str | None = None
    """Why the device is in quarantine; None while it serves."""
    late: bool = False
    """Whether it failed last by the time that its hook took, which the host may have spent elsewhere."""
    owes: Owed | None = None
    """The access that waits for `complete`."""
    broken: bool = False
    """Accesses may have to stop here: see `mmiod.machine.breaks`."""
    number: int = 0
    """Of the machine's devices, from 1."""
    journal: Journal = field(factory=Journal)
    storages: Backings = field(factory=dict)
    """The machine's, by region."""
    inputs: Mapping[str, Callable[..., Any]] = field(init=False, default=PERFORM)
    """How each kind of input reaches the device."""

    isolated: ClassVar[bool] = False
    """Whether it runs in a process of its own."""

    def feed(self, failed: T, kind: str, *arguments: object) -> T:
        """Give the device an input: noted before its hook runs, marked after; `failed` on any failure."""
        journal = self.journal
        entries = journal.entries
        if not journal.depth:
            load = len(entries) + journal.weight
            if load > LIMIT and (load > PATIENT_LIMIT or not self.device.working) and not self.cut():
                journal.decline(kind, arguments)
                return failed
            journal.last = len(entries)
        running = self.origin.mark.running
        outer = running[0]
        running[0] = self.number
        journal.depth += 1
        entries.append((kind, arguments))
        answer: T = self.guarded(self.inputs[kind], failed, self.device, *arguments)
        journal.depth -= 1
        running[0] = outer
        entries.append(DONE)
        if not journal.depth:
            if self.failure is not None:
                journal.refuse()
            elif self.origin.page is not None:
                self.origin.page.look(self.name)
        return answer

    def guarded(self, hook: Callable[P, T], failed: T, *arguments: P.args, **named: P.kwargs) -> T:
        """Run a hook of the device; on any failure quarantine it and return `failed`."""
        mark = self.origin.mark
        outer = mark.enter(self.name)
        try:
            try:
                return hook(*arguments, **named)
            finally:
                mark.leave(outer)  # until its end the watchdog may interrupt, in here too
        except (Exception, HookDeadlineExceeded) as error:  # noqa: BLE001  # a plugin may raise anything
            mark.leave(outer)
            self._fail(error)
            return failed

    def quarantine(self, reason: BaseException) -> None:
        """Take the device out of service, for what it made of its last input: see `_fail`."""
        if self.failure is None and not self.journal.depth:
            self.journal.refuse()
        self._fail(reason)

    def _fail(self, reason: BaseException) -> None:
        """From now on the device reads all ones and takes no input."""
        if self.failure is None:
            self.failure = reason_of(reason)
            self.late = isinstance(reason, HookDeadlineExceeded)
            self.statistics.faults += 1
            self.origin.quarantined(self, reason)

    @property
    def serves(self) -> bool:
        """Whether it is in service."""
        return self.failure is None

    def _status(self) -> Status:
        return "ok" if self.failure is None else "quarantined"

    # --- snapshot and journal ------------------------------------------------------------

    def cut(self) -> bool:
        """Begin the journal anew with a snapshot, and so unfinished runs; whether there is one."""
        if self.device.working:
            self.guarded(self.inputs["rewind"], None, self.device)
        snapshot = self.guarded(self.snapshot, None)
        if snapshot is not None:
            self.journal.cut(snapshot, owing=self.owes is not None)
        return snapshot is not None

    def relive(self, entries: Sequence[Entry]) -> Relived:
        """A new device that lived through `entries`, from the last snapshot.

        Raises:
            Exception: what a hook raises; each of them has the deadline.
        """
        watched = self.origin.mark.watched
        replay = Replay(entries, self.device.context, self.journal.owing)
        device = watched(self.name, partial(self._made, replay))
        while not replay.ended:
            watched(self.name, replay.step)
        if self.journal.refused is not None:
            skip(device, *self.journal.refused)
        return Relived(device, replay.owing, replay.inputs)

    def _made(self, replay: Replay) -> Device:
        device = type(self.device)(replay, self.device.config)
        replay.begin(device)
        if self.journal.snapshot is not None:
            give(device, self.journal.snapshot)
            device.on_reload()
        return device

    # --- the next generation -------------------------------------------------------------

    def last_good(self) -> tuple[Saved, bool]:
        """What the device is, and whether it owes an answer; of one that failed, what it was before that.

        That is where its journal ends, or its last snapshot if it does not come so far again.
        """
        if self.serves:
            return self.snapshot(), self.owes is not None
        try:
            lived = self.relive(self.journal.entries)
        except (Exception, HookDeadlineExceeded):  # noqa: BLE001  # it depends on more than its inputs
            lived = self.relive(())
        return take(lived.device), lived.owing

    def succeed(
        self, plugin: type[Device], config: object, context: Context, saved: Saved, *, drop: bool
    ) -> tuple[Device, list[str]]:
        """A device of another class with a state of this one's, and what of that was dropped.

        Raises:
            RestoreError: the state does not fit.
            Exception: what a hook raises.
        """
        device = plugin(context, config)
        fitting, dropped = fit(saved, type(self.device), plugin, drop=drop)
        give(device, fitting)
        device.on_reload()
        return device, dropped

    def install(self, device: Device, generation: int, *, owing: bool) -> None:
        """Put a successor in service; what a device that failed owed was answered then."""
        if not self.serves:
            self.owes = Owed.answered_by_ones() if owing else None
        self.device, self.generation, self.failure = device, generation, None

    # --- what a process of its own would be asked ------------------------------------------

    def snapshot(self) -> Saved:
        """What the device is now."""
        return take(self.device)

    def refresh(self) -> None:
        """`device` is what it shows."""

    @property
    def ready(self) -> bool:
        """Whether it can be restarted now."""
        return True

    def restored(self) -> None:
        """The device has a restored state."""
        self.guarded(self.device.on_restore, None)

    def value_of(self, declared: Register) -> int:
        """A register, without side effects; whatever the plugin's getter raises goes on."""
        return declared.__get__(self.device, type(self.device))

    def close(self) -> None:
        """The daemon ends."""
