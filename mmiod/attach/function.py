"""vfio-user joined to one PCI function.

An access goes to the function's host by region and offset: where the guest placed a BAR is
the client's business.  Messages are done strictly in order; while the device owes an answer
nothing is read from the client.  At the deadline the access is given up: all ones go back,
and what the device answers later is nobody's.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

import trio
from attrs import define, field

from mmiod.attach import descriptors
from mmiod.attach.accesses import Accesses, Running, shape_of
from mmiod.attach.dma import DmaMaps
from mmiod.attach.interrupts import Interrupts
from mmiod.attach.stream import Stream
from mmiod.core.pump import Pump
from mmiod.errors import ProtocolError
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.protocol.vfio_user import (
    MAX_DESCRIPTORS,
    MSI,
    MSIX,
    Complaint,
    Event,
    MapMemory,
    Read,
    Request,
    Reset,
    Session,
    SetIrqs,
    UnmapMemory,
    Write,
    read_reply,
)

BURST: Final = 64
"""Messages of one client, after which others get their turn."""
MAX_CONNECTIONS: Final = 8
"""To one function at once: one is its client, the others are being refused."""


@define(eq=False)
class Flight:
    """A message that is not answered yet: the device owes something, or others have their turn."""

    request: Request
    running: Running
    given_up: bytes
    """The reply if the device does not answer in time."""
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
class FunctionAttachment:
    """One function, its client, the memory that the client shared and its interrupts."""

    machine: Machine
    host: InlineHost
    pump: Pump
    deadline_s: float
    """How long an access may wait for the device; QEMU gives a connection up after 5 s."""
    came: Callable[[], None]
    """Called when a client has attached."""
    gone: Callable[[], None]
    settle: Callable[[], None]
    """Called after messages: hands on what devices, perhaps others, have answered meanwhile."""
    accesses: Accesses = field(init=False)
    maps: DmaMaps = field(init=False)
    interrupts: Interrupts = field(init=False)
    client: Visit | None = None
    path: str = ""
    """Of the socket."""
    visits: set[Visit] = field(factory=set)
    nursery: trio.Nursery | None = None
    """Where deadlines are waited for."""

    def __attrs_post_init__(self) -> None:
        """Take the function's interrupt line over."""
        self.accesses = Accesses(self.machine, self.host)
        self.maps = DmaMaps(self.machine.memory_of(self.host.name))
        self.interrupts = Interrupts(self.pump)
        line = f"{self.host.name}.intx"
        self.machine.wires.connect(line, f"vfio-user:{line}", self.interrupts.set_level)

    # --- connections -------------------------------------------------------------------------

    def accept(self, accepted: socket.socket) -> None:
        """Take an accepted connection over."""
        visit = Visit(Session(shape_of(self.accesses.function)))
        receive, closed = partial(self._receive, visit), partial(self._closed, visit)
        visit.stream = Stream(accepted, self.pump, MAX_DESCRIPTORS, receive, closed)
        self.visits.add(visit)
        if len(self.visits) > MAX_CONNECTIONS:
            visit.stream.close(f"at most {MAX_CONNECTIONS} connections to a function")

    def _receive(self, visit: Visit, chunk: bytes, found: list[int]) -> None:
        session = visit.session
        session.busy = self.client is not None and self.client is not visit
        try:
            session.receive(chunk, found)
            self._work(visit)
        except ProtocolError as error:
            self._complain("connection", error)
            visit.stream.send(session.outgoing)
            raise
        finally:
            self._close_unwanted(session)
            self.settle()

    def _work(self, visit: Visit) -> None:
        """Do messages in their order, until one has to wait, its answer is not taken, or there were many."""
        session, stream = visit.session, visit.stream
        for _ in range(BURST):
            if visit.flight is not None or not stream.ready:
                break
            event = session.take()
            if session.negotiated and self.client is None:
                self._attached(visit)
            if event is not None:
                _HANDLERS[type(event)](self, visit, event)
            stream.send(session.outgoing)
            session.outgoing.clear()
            if event is None:
                break
        else:
            visit.rests = True
            self.pump.soon(partial(self._rested, visit))
        stream.hold(visit.flight is not None or visit.rests)

    def _rested(self, visit: Visit) -> None:
        visit.rests = False
        self._go_on(visit)

    def _attached(self, visit: Visit) -> None:
        self.client = visit
        self.came()
        pid, uid, _ = visit.stream.peer
        self.machine.notify("function_attached", device=self.host.name, pid=pid, uid=uid)

    def _closed(self, visit: Visit, reason: str) -> None:
        self.visits.discard(visit)
        visit.session.close()
        self._close_unwanted(visit.session)
        if visit is not self.client:
            return
        self._drop_flight(visit)
        self.client = None
        self.maps.memory.clear()
        self.interrupts.clear()
        self.accesses.reset()
        self.machine.notify("function_detached", device=self.host.name, reason=reason)
        self.gone()

    def _close_unwanted(self, session: Session) -> None:
        descriptors.close(session.unwanted)
        session.unwanted.clear()

    def _complain(self, what: str, error: ProtocolError) -> None:
        self.machine.notify(
            "message_refused",
            device=self.host.name,
            message=what,
            field=error.name,
            value=hex(error.value),
            reason=error.reason,
        )

    # --- messages ------------------------------------------------------------------------------

    def _on_complaint(self, _visit: Visit, complaint: Complaint) -> None:
        self._complain(complaint.request.name, complaint.error)

    def _on_map(self, visit: Visit, asked: MapMemory) -> None:
        try:
            self.maps.map(asked)
        except ProtocolError as error:
            self._complain(asked.request.name, error)
            visit.session.fail(asked.request, error.code)
        else:
            visit.session.answer(asked.request)

    def _on_unmap(self, visit: Visit, asked: UnmapMemory) -> None:
        try:
            self.maps.unmap(asked)
        except ProtocolError as error:  # no error goes back: rust-vmm would wait for the rest of a reply
            self._complain(asked.request.name, error)
        visit.session.answer(asked.request, asked.echo)

    def _on_set_irqs(self, visit: Visit, asked: SetIrqs) -> None:
        self.interrupts.set(asked)
        if asked.index == MSIX:
            self._mask_vectors()
        visit.session.answer(asked.request)

    def _on_reset(self, visit: Visit, asked: Reset) -> None:
        self.accesses.reset()
        self._mask_vectors()
        visit.session.answer(asked.request)

    def _mask_vectors(self) -> None:
        assigned = {number for index, number in self.interrupts.eventfds if index == MSIX}
        self.accesses.mask_vectors(assigned)

    def _on_read(self, visit: Visit, asked: Read) -> None:
        nothing = read_reply(asked.region, asked.offset, b"\xff" * asked.size)
        self._start(visit, Flight(asked.request, self.accesses.read(asked), nothing))

    def _on_write(self, visit: Visit, asked: Write) -> None:
        self._start(visit, Flight(asked.request, self.accesses.write(asked), asked.reply))

    # --- messages that wait --------------------------------------------------------------------

    def _start(self, visit: Visit, flight: Flight) -> None:
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
        if not flight.waits:
            self.pump.soon(partial(self._resume, visit, flight, None))
        elif flight.scope is None and self.nursery is not None:
            flight.scope = trio.CancelScope()
            self.nursery.start_soon(self._expire, visit, flight, flight.scope)
        return False

    def _resume(self, visit: Visit, flight: Flight, value: int | None) -> None:
        """Go on with a message, and if it ends with those behind it."""
        if visit.flight is flight and self._advance(visit, flight, value):
            self._go_on(visit)

    def settled(self, value: int | None) -> None:
        """The device has given the answer that it owed; None if there was one before it was restarted."""
        visit = self.client
        if self.accesses.late() or visit is None or visit.flight is None or not visit.flight.waits:
            return
        self._resume(visit, visit.flight, value)

    def _forget(self, visit: Visit) -> None:
        flight, visit.flight = visit.flight, None
        if flight is not None and flight.scope is not None:
            flight.scope.cancel()

    def _go_on(self, visit: Visit) -> None:
        """Behind a message that waited: send its answer, do those that came after it."""
        try:
            visit.stream.send(visit.session.outgoing)
            visit.session.outgoing.clear()
            self._receive(visit, b"", [])
        except ProtocolError as error:
            visit.stream.close(str(error))

    async def _expire(self, visit: Visit, flight: Flight, scope: trio.CancelScope) -> None:
        with scope:
            await trio.sleep(self.deadline_s)
            self.pump.work(partial(self._expired, visit, flight))

    def _expired(self, visit: Visit, flight: Flight) -> None:
        if visit.flight is not flight:  # it was answered in the same turn of trio's
            return
        self.machine.notify(
            "access_expired", device=self.host.name, message=flight.request.name, deadline_s=self.deadline_s
        )
        self._give_up(visit, flight)

    def _give_up(self, visit: Visit, flight: Flight) -> None:
        """Answer what the device has not answered."""
        self._drop_flight(visit)
        visit.session.answer(flight.request, flight.given_up)
        self._go_on(visit)

    def _drop_flight(self, visit: Visit) -> None:
        """End a message that is under way; what the device still answers is nobody's."""
        if visit.flight is not None:
            visit.flight.running.close()
            self.accesses.give_up()
        self._forget(visit)

    # --- the device's interrupts, and the end ---------------------------------------------------

    def message(self, address: int, data: int) -> None:
        """The device signals an interrupt by a message: its vector is told.

        Of MSI-X the data is the vector, as `mask_vectors` made it; of MSI, which has an
        address, its low bits are (PCI 3.0, 6.8.1.6).
        """
        index, vector = MSIX, data
        if address:
            assigned = sum(index == MSI for index, _ in self.interrupts.eventfds)
            index, vector = MSI, data % max(assigned, 1)
        if not self.interrupts.tell(index, vector):
            kind = "MSI-X" if index == MSIX else "MSI"
            reason = f"nobody waits for vector {vector} (address {address:#x}, data {data:#x})"
            self.machine.notify("interrupt_dropped", device=self.host.name, capability=kind, reason=reason)

    def stop(self) -> None:
        """Answer what waits with all ones, and close."""
        self.nursery = None
        visit = self.client
        if visit is not None and visit.flight is not None:
            self._give_up(visit, visit.flight)
        for one in list(self.visits):
            one.stream.close("the daemon stops")


Handler = Callable[[FunctionAttachment, Visit, Any], None]
_HANDLERS: Final = cast(
    "dict[type[Event], Handler]",
    {
        Complaint: FunctionAttachment._on_complaint,  # noqa: SLF001
        MapMemory: FunctionAttachment._on_map,  # noqa: SLF001
        UnmapMemory: FunctionAttachment._on_unmap,  # noqa: SLF001
        SetIrqs: FunctionAttachment._on_set_irqs,  # noqa: SLF001
        Reset: FunctionAttachment._on_reset,  # noqa: SLF001
        Read: FunctionAttachment._on_read,  # noqa: SLF001
        Write: FunctionAttachment._on_write,  # noqa: SLF001
    },
)
