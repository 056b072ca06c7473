"""DEVICE_FEATURE and MIG_DATA_*, done to one function.

A function that is to stop waits until what its backends do for it is done: at the deadline the client
has EBUSY, and the function runs on.  Stopped it gets no input, so that no DMA begins or goes on, and its
BARs take no writes; reads and the configuration space are as ever, for clients look at both.

An early copy (PRE_COPY) is a whole one, of that time.  It is of use at the other end: whether the
state fits is known there before the function stops here.
"""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, evolve, field

from mmiod.attach.accesses import Accesses, Running
from mmiod.errors import ProtocolError, RestoreError
from mmiod.machine import migration
from mmiod.machine.dirty_log import DirtyLog
from mmiod.machine.memory import GuestMemory
from mmiod.machine.state import Restoration
from mmiod.protocol.vfio_user import (
    CONFIG_REGION,
    GIVES,
    LOGGING_REPORT,
    LOGGING_START,
    RUNS,
    GetState,
    Incoming,
    Outgoing,
    ReadState,
    ReportLog,
    SetState,
    StartLog,
    State,
    StopLog,
    Write,
    WriteState,
    path,
)
from mmiod.protocol.vfio_user.requests import refused


@define(eq=False)
class Migration:
    """That of one function."""

    accesses: Accesses
    memory: GuestMemory
    stopped: Callable[[], None]
    """Called when the function stops: it sends nothing more."""
    released: Callable[[], None]
    """Called when the function runs again: what the client is told of its interrupts is set anew."""
    state: State = State.RUNNING
    waits: bool = False
    """For backends, to stop."""
    _outgoing: Outgoing | None = None
    _incoming: Incoming = field(factory=Incoming)
    _fitting: Restoration | None = None
    """What the last whole state that came brings the function to."""
    _copies: int = 0

    @property
    def runs(self) -> bool:
        """Whether the function works."""
        return self.state in RUNS

    @property
    def idle(self) -> bool:
        """Whether nobody migrates anything."""
        return self.state == State.RUNNING and self.memory.log is None

    def get(self, asked: GetState) -> bytes:
        """The reply's payload."""
        return asked.reply(self.state)

    def change(self, asked: SetState) -> Running:
        """Go to another state, step by step.

        Raises:
            ProtocolError: there is no way, or what came does not fit; the state is that of the last step.
        """
        try:
            for step in path(self.state, asked.state):
                while step not in RUNS and self.runs and self._busy:
                    self.waits = True
                    yield True
                self._enter(step)
        finally:
            self.waits = False
        return asked.echo

    @property
    def _busy(self) -> bool:
        return migration.busy(self.accesses.machine, self.accesses.host.name)

    def _enter(self, step: State) -> None:
        machine, host = self.accesses.machine, self.accesses.host
        before, self.state = self.state, State.ERROR
        if before == State.RESUMING:
            self._settle_in()
        self._outgoing, self._incoming, self._fitting = None, Incoming(), None
        if step not in RUNS:
            migration.hold(host)
            self.stopped()
        elif before not in RUNS:
            migration.release(machine, host)
            self.released()
        if step in GIVES:
            self._copies += 1
            self._outgoing = Outgoing(self._copies, migration.pack(machine, host.name))
        self.state = step
        machine.notify("function_migrates", device=host.name, state=step.name.lower())

    def _settle_in(self) -> None:
        self._incoming.finish()
        assert self._fitting is not None, "a whole state was seen to fit"
        migration.settle_in(self.accesses.machine, self.accesses.host.name, self._fitting)

    # --- its state ---------------------------------------------------------------------------

    def read(self, asked: ReadState) -> bytes:
        """The reply's payload: some of the state, nothing behind its end.

        Raises:
            ProtocolError: there is nothing to read in this state of it.
        """
        if self._outgoing is None:
            raise self._not_now("read")
        return asked.reply(self._outgoing.take(asked.size))

    def write(self, asked: WriteState) -> bytes:
        """Take some of another function's state; it is checked once it is whole.

        Raises:
            ProtocolError: nothing is taken now, or it does not fit.
        """
        if self.state != State.RESUMING:
            raise self._not_now("written")
        if self._incoming.put(asked.data) and self._incoming.state is not None:
            machine, host = self.accesses.machine, self.accesses.host
            try:
                self._fitting = migration.unpack(machine, host.name, self._incoming.state)
            except RestoreError as error:
                self._incoming.state = None
                raise refused("mig_data", len(asked.data), str(error)) from error
        return b""

    def _not_now(self, what: str) -> ProtocolError:
        return refused("device_state.state", self.state, f"in {self.state.name} nothing is {what}")

    def allowed(self, asked: Write) -> Write:
        """What of a write reaches the function: of one that is stopped its configuration space."""
        if self.runs:
            return asked
        return evolve(asked, writes=tuple(one for one in asked.writes if one.region == CONFIG_REGION))

    def drop(self) -> None:
        """A reset, or the client has gone: the function runs, and nothing is read or written."""
        self.state, self.waits, self._outgoing, self._fitting = State.RUNNING, False, None, None
        self._incoming = Incoming()

    # --- pages that it writes ------------------------------------------------------------------

    def start_log(self, asked: StartLog) -> bytes:
        """The reply's payload.

        Raises:
            ProtocolError: there is a log.
        """
        if self.memory.log is not None:
            raise refused("feature.flags", LOGGING_START, "writes are logged already")
        self.memory.log = DirtyLog()
        return asked.echo

    def stop_log(self, asked: StopLog) -> bytes:
        """The reply's payload."""
        self.memory.log = None
        return asked.echo

    def report_log(self, asked: ReportLog) -> bytes:
        """The reply's payload.

        Raises:
            ProtocolError: there is no log.
        """
        if self.memory.log is None:
            raise refused("feature.flags", LOGGING_REPORT, "no writes are logged")
        return asked.reply(self.memory.log.take(asked.iova, asked.length, asked.page_size))
