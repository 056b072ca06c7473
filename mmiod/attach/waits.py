"""Messages that are not answered at once: the device owes something, or others have their turn.

While one waits nothing is read from its client.  At the deadline it is given up: all ones go
back, and what the device answers later is nobody's.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import trio
from attrs import define, field

from mmiod.attach.accesses import Accesses, Running
from mmiod.attach.stream import Stream
from mmiod.core.ports import Signal
from mmiod.core.pump import Pump
from mmiod.errors import ProtocolError
from mmiod.protocol.vfio_user import Request, Session


@define(eq=False)
class Flight:
    """A message that is not answered yet: the device owes something, or others have their turn."""

    request: Request
    running: Running
    given_up: bytes | ProtocolError
    """The reply if the device does not answer in time, or why there is none."""
    waits: bool = False
    """For the device."""
    scope: trio.CancelScope | None = None
    """The deadline, once it has waited."""


@define(eq=False)
class Visit:
    """One connection."""

    session: Session
    stream: Stream = field(init=False)
    flight: Flight | None = None
    rests: bool = False
    """Others have their turn before its next message."""


@define(eq=False)
class Waits:
    """Those of one function."""

    pump: Pump
    accesses: Accesses
    deadline_s: float
    go_on: Callable[[Visit], None]
    """Called behind a message that waited: sends its answer, does those that came after it."""
    late: Callable[[Request], None]
    """Called when a deadline has passed."""
    complain: Callable[[str, ProtocolError], None]
    """Tells people of a message that was refused."""
    nursery: trio.Nursery | None = None
    """Where deadlines are waited for."""
    landed: Signal = field(factory=Signal)
    """A message has ended."""

    def start(self, visit: Visit, flight: Flight) -> None:
        """Begin a message."""
        visit.flight = flight
        self._advance(visit, flight, None)

    def _advance(self, visit: Visit, flight: Flight, value: int | None) -> bool:
        """Go on with a message until it has to wait; whether it is answered instead."""
        try:
            flight.waits = flight.running.send(value)
        except StopIteration as done:
            self._forget(visit)
            visit.session.answer(flight.request, done.value)
            return True
        except ProtocolError as error:
            self._forget(visit)
            self._refuse(visit, flight, error)
            return True
        if not flight.waits:
            self.pump.soon(partial(self._resume, visit, flight, None))
        elif flight.scope is None and self.nursery is not None:
            flight.scope = trio.CancelScope()
            self.nursery.start_soon(self._expire, visit, flight, flight.scope)
        return False

    def _resume(self, visit: Visit, flight: Flight, value: int | None) -> None:
        """Go on with a message, and if it ends with those behind it."""
        if visit.flight is flight and self._advance(visit, flight, value):
            self.go_on(visit)

    def look_again(self, visit: Visit | None) -> None:
        """What a message waits for, other than an answer of the device, may have come."""
        if visit is not None and visit.flight is not None and visit.flight.waits:
            self._resume(visit, visit.flight, None)

    def settled(self, visit: Visit | None, value: int | None) -> None:
        """The device has given the answer that it owed; None if there was one before it was restarted."""
        if self.accesses.late() or visit is None or visit.flight is None or not visit.flight.waits:
            return
        self._resume(visit, visit.flight, value)

    def _forget(self, visit: Visit) -> None:
        flight, visit.flight = visit.flight, None
        self.landed.set()
        if flight is not None and flight.scope is not None:
            flight.scope.cancel()

    async def _expire(self, visit: Visit, flight: Flight, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(self.deadline_s)
            self.pump.work(partial(self._expired, visit, flight))

    def _expired(self, visit: Visit, flight: Flight) -> None:
        if visit.flight is flight:  # else it was answered in the same turn of trio's
            self.late(flight.request)
            self.give_up(visit)

    def give_up(self, visit: Visit) -> None:
        """Answer what the device has not answered, if anything is under way."""
        flight = visit.flight
        if flight is not None:
            self.drop(visit)
            if isinstance(flight.given_up, ProtocolError):
                self._refuse(visit, flight, flight.given_up)
            else:
                visit.session.answer(flight.request, flight.given_up)
            self.go_on(visit)

    def _refuse(self, visit: Visit, flight: Flight, error: ProtocolError) -> None:
        self.complain(flight.request.name, error)
        visit.session.fail(flight.request, error.code)

    def drop(self, visit: Visit) -> None:
        """End a message that is under way; what the device still answers is nobody's."""
        if visit.flight is not None:
            visit.flight.running.close()
            self.accesses.give_up()
        self._forget(visit)
