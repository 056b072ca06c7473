"""vfio-user joined to one PCI function.

An access goes to the function's host by region and offset: where the guest placed a BAR is
the client's business.  Messages are done strictly in order (`commands`), and one that has to
wait holds up those behind it (`waits`).
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from functools import partial
from typing import Final

import trio
from attrs import define, field

from mmiod.attach import descriptors
from mmiod.attach.accesses import Accesses
from mmiod.attach.commands import Commands
from mmiod.attach.dma import DmaMaps
from mmiod.attach.dma_messages import DmaMessages
from mmiod.attach.flat_function import FlatFunction
from mmiod.attach.interrupts import Interrupts
from mmiod.attach.stream import Stream
from mmiod.attach.waits import Visit, Waits
from mmiod.core.lane import Lane
from mmiod.core.pump import Pump
from mmiod.errors import ProtocolError
from mmiod.machine import migration
from mmiod.machine.host import InlineHost
from mmiod.machine.machine import Machine
from mmiod.protocol.vfio_user import (
    MAX_DESCRIPTORS,
    MSI,
    MSIX,
    Request,
    Session,
)

BURST: Final = 64
"""Messages of one client, after which others get their turn."""
MAX_CONNECTIONS: Final = 8
"""To one function at once: one is its client, the others are being refused."""


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
    waits: Waits = field(init=False)
    commands: Commands = field(init=False)
    client: Visit | None = None
    flat: FlatFunction | None = None
    """The client's."""
    path: str = ""
    """Of the socket."""
    visits: set[Visit] = field(factory=set)
    held: bool = False
    """No message is begun."""

    def __attrs_post_init__(self) -> None:
        """Take the function's interrupt line over."""
        self.accesses = Accesses(self.machine, self.host)
        self.maps = DmaMaps(self.machine.memory_of(self.host.name))
        self.interrupts = Interrupts(self.pump)
        self.waits = Waits(self.pump, self.accesses, self.deadline_s, self._go_on, self._late, self._complain)
        self.commands = Commands(self.accesses, self.maps, self.interrupts, self.waits, self._complain)
        line = f"{self.host.name}.intx"
        self.machine.wires.connect(line, f"vfio-user:{line}", self.interrupts.set_level)

    # --- connections -------------------------------------------------------------------------

    def accept(self, accepted: socket.socket) -> None:
        """Take an accepted connection over."""
        self.visit(accepted)

    def visit(self, accepted: socket.socket, unsent: bytes = b"") -> Visit:
        """Take a connection over, with what it was not sent of a reply."""
        migrates = migration.migrates(self.machine, self.host.name)
        takes_messages = self.maps.memory.prefers_messages
        visit = Visit(Session(self.accesses.shape, migrates=migrates, takes_messages=takes_messages))
        receive, closed = partial(self._serve, visit), partial(self._closed, visit)
        visit.stream = Stream(accepted, self.pump, MAX_DESCRIPTORS, receive, closed, bytearray(unsent))
        self.visits.add(visit)
        if len(self.visits) > MAX_CONNECTIONS:
            visit.stream.close(f"at most {MAX_CONNECTIONS} connections to a function")
        return visit

    def _serve(self, visit: Visit, chunk: bytes, found: list[int]) -> None:
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
            self._answered()
            self._choose(visit)

    def _choose(self, visit: Visit) -> None:
        """Whether the flat lane gets what comes next: it is its client's, and begins with a message."""
        flat, runs = self.flat, self.commands.migration.runs
        plain = flat is not None and flat.visit is visit and visit.session.idle and runs
        visit.stream.plain = flat.take if flat is not None and plain else None

    def _answered(self) -> None:
        """Messages were answered: go on with what else has come of them."""
        self._flush()
        self.settle()

    def _work(self, visit: Visit) -> None:
        """Do messages in their order, until one has to wait, its answer is not taken, or there were many."""
        session, stream = visit.session, visit.stream
        for _ in range(BURST):
            if self.held or visit.flight is not None or not stream.ready:
                break
            event = session.take()
            if session.negotiated and self.client is None:
                self._attached(visit)
            if event is not None:
                self.commands.do(visit, event)
            stream.send(session.outgoing)
            session.outgoing.clear()
            if event is None:
                break
        else:
            visit.rests = True
            self.pump.soon(partial(self._rested, visit))
        stream.hold(self.held or visit.flight is not None or visit.rests)

    def _rested(self, visit: Visit) -> None:
        visit.rests = False
        self._go_on(visit)

    def belong_to(self, visit: Visit) -> None:
        """This is the client; it may take messages about memory that it does not share."""
        self.client = visit
        self.flat = FlatFunction(Lane(self.machine), self.accesses, visit, self.waits.start, self._answered)
        session = visit.session
        if session.reach:
            send = partial(self._send, visit)
            self.commands.messages = DmaMessages(
                self.host, session.asked, session.reach, send, self.pump.soon, self._flush
            )
        self.maps.memory.messenger = self.commands.messages

    def _send(self, visit: Visit, message: bytes) -> bool:
        visit.stream.send(message)
        return visit.stream.ready

    def _flush(self) -> None:
        """Send messages about memory, unless the client waits for something."""
        visit, messages = self.client, self.commands.messages
        if messages is None or visit is None or self.held:
            return
        if visit.flight is None and visit.stream.ready:
            messages.go_on()

    def _attached(self, visit: Visit) -> None:
        self.belong_to(visit)
        self.came()
        pid, uid, _ = visit.stream.peer
        self.machine.notify("function_attached", device=self.host.name, pid=pid, uid=uid)

    def _closed(self, visit: Visit, reason: str) -> None:
        self.visits.discard(visit)
        visit.session.close()
        self._close_unwanted(visit.session)
        if visit is not self.client:
            return
        self.waits.drop(visit)
        self.client = self.flat = self.commands.messages = self.maps.memory.messenger = None
        self.maps.memory.clear()
        self.maps.memory.log = None
        self.interrupts.clear()
        self.commands.migration.drop()
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

    def _go_on(self, visit: Visit) -> None:
        """Behind a message that waited: send its answer, do those that came after it."""
        try:
            visit.stream.send(visit.session.outgoing)
            visit.session.outgoing.clear()
            self._serve(visit, b"", [])
        except ProtocolError as error:
            visit.stream.close(str(error))

    def settled(self, value: int | None) -> None:
        """The device has given the answer that it owed; None if there was one before it was restarted."""
        self.waits.settled(self.client, value)

    @property
    def migrating(self) -> bool:
        """Whether the client migrates the function, or has its writes logged."""
        return not self.commands.migration.idle

    def look_again(self) -> None:
        """Behind an input of a device: a function that waits to stop may be free to do so."""
        if self.commands.migration.waits:
            self.pump.soon(partial(self.waits.look_again, self.client))

    def _late(self, request: Request) -> None:
        self.machine.notify(
            "access_expired", device=self.host.name, message=request.name, deadline_s=self.deadline_s
        )

    # --- rest --------------------------------------------------------------------------------

    async def rest(self) -> None:
        """Begin no more messages, and end those that were begun: at the deadline by all ones."""
        self.held = True
        for visit in self.visits:
            visit.stream.hold(True)
        with trio.move_on_after(self.deadline_s):
            while any(visit.flight is not None for visit in self.visits):
                await self.waits.landed.wait()
        for visit in list(self.visits):
            self.waits.give_up(visit)

    def go_on(self) -> None:
        """End the rest: do what came meanwhile."""
        self.held = False
        for visit in list(self.visits):
            self._go_on(visit)

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
        self.waits.nursery = None
        if self.client is not None:
            self.waits.give_up(self.client)
        for one in list(self.visits):
            one.stream.close("the daemon stops")
