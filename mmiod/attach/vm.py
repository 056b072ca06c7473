"""A VM's attachment: its exit sockets, who is connected, and the machine behind.

A *session* begins with a HELLO without token and powers the machine on at its first
exit.  It outlives its connections: a client that lost its connection comes back with
the token within the grace period and goes on; without a token a new session begins,
but only when nobody is connected.  One connection is the primary one (memory, resets,
signals); further channels join by the token.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import structlog
import trio
from attrs import define, evolve, field, frozen

from mmiod.attach.connection import Connection
from mmiod.attach.documents import begin_restore, begin_save, check_length, restored, saved
from mmiod.attach.flat import Flat
from mmiod.attach.flights import Flights, ReplyTo
from mmiod.attach.shared import OFFERED, SharedMemory, Slot, share
from mmiod.attach.slots import map_slot, remap_slot, unmap_slot
from mmiod.attach.sourced import understood
from mmiod.core.lane import Lane
from mmiod.core.ports import Signal
from mmiod.core.pump import Pump
from mmiod.core.run import Platform
from mmiod.core.timekeeper import keep_time
from mmiod.device import Request
from mmiod.errors import ProtocolError
from mmiod.machine.address_map import LENGTHS
from mmiod.machine.machine import Machine
from mmiod.protocol.exit import (
    NEW,
    NEW_SESSION,
    NUMBERS,
    Admission,
    Arrived,
    Claim,
    Eoi,
    Hello,
    Ledger,
    Map,
    Offer,
    Pause,
    PostedWrite,
    QueryClaims,
    Remap,
    Reset,
    Restore,
    Resume,
    Save,
    Share,
    SourceExit,
    ToDaemon,
    Unmap,
    check_continues,
    replies,
)
from mmiod.protocol.sources import SOURCES
from mmiod.values import ones

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from mmiod.machine.state import Restoration

ERROR: Final = NUMBERS["error"]
MAX_CONNECTIONS: Final = 64
"""Connections to one VM at once."""
TOKEN_LENGTH: Final = len(NEW_SESSION)


@frozen
class Transfer:
    """A SAVE or RESTORE that waits for backends."""

    finish: Callable[[], None]
    connection: Connection
    paused: bool
    """Whether the session was, before."""


@define(eq=False)
class SessionState:
    """What outlives a connection."""

    hello: Hello
    token: bytes
    ledger: Ledger
    flights: Flights
    powered_on: bool = False
    flat: Flat | None = None
    """Once the machine is on, if time is the host's."""
    wants_claims: bool = False
    pause_serial: int | None = None
    """Of a PAUSE that waits for exits to run out."""
    transfer: Transfer | None = None


@define(eq=False)
class VmAttachment:
    """The exit protocol joined to one machine."""

    machine: Machine
    pump: Pump
    offer: Offer
    grace_s: float
    """How long a session without connection waits for its client."""
    session: SessionState | None = None
    primary: Connection | None = None
    shared: SharedMemory | None = None
    """The primary connection's."""
    connections: set[Connection] = field(factory=set)
    lane: Lane = field(init=False)
    log: FilteringBoundLogger = field(init=False)
    _changed: Signal = field(factory=Signal)
    """Whether inputs are taken."""
    _nursery: trio.Nursery | None = None
    _expiry: trio.CancelScope | None = None
    _listeners: list[socket.socket] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        """Become the machine's outlet."""
        self.log = structlog.get_logger().bind(vm=self.machine.name)
        self.machine.outlet = self
        self.lane = Lane(self.machine)
        names = ["GUEST_TIME", "REQUESTS", "MEMORY_MESSAGES", "LEVELS", "MSI", "INTR", "SAVE", "VECTORS"]
        names += ["SHARED_MEMORY", "PUBLISHED"] * OFFERED
        self.offer = evolve(self.offer, capabilities=sum(NUMBERS["capability"][name] for name in names))

    def listen(self, listener: socket.socket) -> None:
        """Take connections from a bound, listening socket."""
        listener.setblocking(False)
        self._listeners.append(listener)
        self.pump.register(listener.fileno(), partial(self._accept, listener))

    async def run(self) -> None:
        """Keep the machine's time, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await keep_time(self.machine.clock, partial(self.pump.work, self._fire))

    @property
    def attached(self) -> bool:
        """Whether a hypervisor is there."""
        return self.primary is not None

    @property
    def flights(self) -> Flights | None:
        """The session's exits; None without a session."""
        return None if self.session is None else self.session.flights

    # --- connections -------------------------------------------------------------------------

    def _accept(self, listener: socket.socket, _events: int) -> None:
        try:
            accepted, _ = listener.accept()
        except OSError as error:
            self.log.warning("connection_not_accepted", error=str(error))
            return
        connection = Connection.accept(accepted, self.pump, self.offer, self._receive, self._closed)
        self.connections.add(connection)
        pid, uid, gid = connection.peer
        self.log.debug("connection_opened", pid=pid, uid=uid, gid=gid)
        if len(self.connections) > MAX_CONNECTIONS:
            reason = f"at most {MAX_CONNECTIONS} connections to a VM"
            connection.refuse(ProtocolError(ERROR["LIMIT"], "connections", len(self.connections), reason))

    def _closed(self, connection: Connection, reason: str) -> None:
        self.connections.discard(connection)
        if connection is not self.primary:
            self.log.debug("connection_closed", reason=reason)
            return
        self._close_shared()
        self.primary = None
        self.log.info("hypervisor_disconnected", reason=reason, grace_s=self.grace_s)
        if self._nursery is not None:
            self._nursery.start_soon(self._expire, self.session)

    async def _expire(self, session: SessionState | None) -> None:
        with trio.CancelScope() as self._expiry:
            await trio.sleep(self.grace_s)
            if self.session is session:
                self._end_session("the client did not come back")

    def _end_session(self, reason: str, successor: Connection | None = None) -> None:
        if self.session is None:
            return
        self.log.info("session_ended", reason=reason)
        self._close_shared()
        self.session.flights.drop(None)
        self.session = None
        for connection in list(self.connections):
            if connection.session.hello is not None and connection is not successor:
                connection.close(reason)
        self.machine.reset()
        self.machine.memory.clear()

    # --- messages ------------------------------------------------------------------------------

    def _receive(self, connection: Connection, data: bytes, descriptors: list[int]) -> None:
        """One datagram: what it brought is closed unless a handler takes it over."""
        flat = connection.flat
        if flat is not None and self.shared is None and not descriptors and flat.message(data, connection):
            return
        try:
            event = connection.session.receive(data, len(descriptors))
            handler = _HANDLERS[type(event)]
            handler(self, connection, event, descriptors)
        except ProtocolError as error:
            self._tell_refused(error)
            raise
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self._flush()

    def _tell_refused(self, error: ProtocolError) -> None:
        self.log.warning(
            "message_refused",
            field=error.name,
            value=hex(error.value),
            reason=error.reason,
            fatal=error.fatal,
        )

    def _state(self) -> SessionState:
        assert self.session is not None, "a connection past HELLO has a session"
        return self.session

    def _on_hello(self, connection: Connection, hello: Hello, _descriptors: list[int]) -> None:
        if hello.vm != self.machine.name:
            reason = f"this is the socket of {self.machine.name}, not of {hello.vm!r}"
            raise ProtocolError(ERROR["IDENTITY"], "hello.vm", 0, reason)
        if hello.token == NEW_SESSION:
            self._begin_session(connection, hello)
            return
        if self.session is None or not secrets.compare_digest(hello.token, self.session.token):
            raise ProtocolError(ERROR["IDENTITY"], "hello.token", 0, "no session has this token")
        check_continues(hello, self.session.hello)
        if hello.join:
            connection.send(connection.session.welcome(hello.token))
            return
        old, self.primary = self.primary, connection
        self._close_shared()
        if old is not None:
            old.close("its client came back on another connection")
        if self._expiry is not None:
            self._expiry.cancel()
        connection.send(connection.session.welcome(hello.token, continued=True))
        self._tell_levels()
        self.log.info("hypervisor_returned", vendor=hello.vendor)

    def _tell_levels(self) -> None:
        """To a client that came back: what it may have missed."""
        for vcpu, level in self.machine.interrupts.items():
            self.intr(vcpu, level)
        for line, level in self.machine.levels.items():
            self.set_level(line, level)

    def _begin_session(self, connection: Connection, hello: Hello) -> None:
        if self.primary is not None:
            reason = f"{self.machine.name} has a client, pid {self.primary.peer[0]}"
            raise ProtocolError(ERROR["BUSY"], "hello.token", 0, reason)
        self._end_session("another client came without its token", connection)
        virtual = connection.session.grants("GUEST_TIME")
        ledger = Ledger(hello.vcpus)
        vectors = connection.session.grants("VECTORS")
        platform = Platform(hello.physical_bits, hello.shared_mask, vectors)
        source = SOURCES.get(hello.source)
        flights = Flights(self.machine, self.pump, ledger, platform, self.offer.rep_bound, virtual, source)
        token = secrets.token_bytes(TOKEN_LENGTH)
        self.session = SessionState(hello, token, ledger, flights)
        self.primary = connection
        connection.send(connection.session.welcome(token))
        pid, uid, _ = connection.peer
        self.log.info(
            "hypervisor_attached", vendor=hello.vendor, vcpus=hello.vcpus, pid=pid, uid=uid, virtual=virtual
        )

    def _on_exit(self, connection: Connection, arrived: Arrived, _descriptors: list[int]) -> None:
        self._catch_up(arrived.exit.vcpu)
        self._exit(connection, arrived)
        connection.flat = self._state().flat

    def _exit(self, reply_to: ReplyTo, arrived: Arrived) -> None:
        state, exit_ = self._powered(), arrived.exit
        sourced = exit_ if isinstance(exit_, SourceExit) else None
        found = understood(exit_, state.flights.source, self.machine.memory)
        admitted = state.ledger.admit(exit_.vcpu, exit_.sequence, arrived.body)
        if admitted is NEW:
            state.flights.exit(found, arrived.guest_ns, reply_to, sourced)
        elif isinstance(admitted, Admission):
            state.flights.redirect(exit_.vcpu, reply_to)
        else:
            reply_to.send(admitted)

    def _on_posted(self, _connection: Connection, write: PostedWrite, _descriptors: list[int]) -> None:
        self._catch_up(write.vcpu)
        self._posted(write)

    def _posted(self, write: PostedWrite) -> None:
        state = self._powered()
        if state.ledger.admit_posted(write.vcpu, write.sequence):
            state.flights.posted(write)

    def _powered(self) -> SessionState:
        """The session; its first exit powers the machine on, when memory is mapped."""
        state = self._state()
        if not state.powered_on:
            state.powered_on = True
            self.machine.power_on(virtual=state.flights.virtual)
            if not state.flights.virtual:
                state.flat = Flat(self.lane, state.flights, state.ledger, self._flush)
            self._show()
            self._changed.set()
        return state

    def _on_map(self, connection: Connection, map_: Map, descriptors: list[int]) -> None:
        map_slot(self.machine.memory, map_, descriptors, self.offer.max_slots)
        connection.send(replies.ack(map_.serial))

    def _on_unmap(self, connection: Connection, unmap: Unmap, _descriptors: list[int]) -> None:
        unmap_slot(self.machine.memory, unmap)
        connection.send(replies.ack(unmap.serial))

    def _on_remap(self, connection: Connection, remap: Remap, _descriptors: list[int]) -> None:
        remap_slot(self.machine.memory, remap)
        connection.send(replies.ack(remap.serial))

    def _on_reset(self, connection: Connection, reset: Reset, _descriptors: list[int]) -> None:
        state = self._settled(reset.serial)
        self._look_again()  # what came before is dropped, too
        state.flights.drop(reset.vcpu)
        if reset.vcpu is None:
            self.machine.reset()
        connection.send(replies.ack(reset.serial))

    def _on_pause(self, _connection: Connection, pause: Pause, _descriptors: list[int]) -> None:
        state = self._settled(pause.serial)
        state.ledger.paused = True
        state.pause_serial = pause.serial
        self._hide()

    def _on_resume(self, connection: Connection, resume: Resume, _descriptors: list[int]) -> None:
        state = self._settled(resume.serial)
        state.ledger.paused, state.pause_serial = False, None
        self.machine.clock.go()
        self._show()
        self._changed.set()
        connection.send(replies.ack(resume.serial))
        self._look_again()

    def _on_query_claims(self, _connection: Connection, query: QueryClaims, _descriptors: list[int]) -> None:
        self._state().wants_claims = True
        self._send_claims(query.serial)

    def _on_eoi(self, _connection: Connection, eoi: Eoi, _descriptors: list[int]) -> None:
        """The hypervisor's controller acknowledged: a line that is still high is raised again."""
        if self.machine.levels.get(eoi.line, False):
            self.set_level(eoi.line, level=True)

    def _on_save(self, connection: Connection, save_: Save, _descriptors: list[int]) -> None:
        state = self._settled(save_.serial)
        if not state.ledger.paused or state.pause_serial is not None:
            raise _not_now("SAVE comes after the ACK of a PAUSE", save_.serial)
        begin_save(self.machine)
        self._transfer(state, connection, partial(self._saved, connection, save_))

    def _saved(self, connection: Connection, save_: Save) -> None:
        descriptor, length = saved(self.machine)
        connection.send(replies.ack(save_.serial, length), descriptor)

    def _on_restore(self, connection: Connection, restore_: Restore, descriptors: list[int]) -> None:
        state = self._state()
        if state.powered_on and not state.ledger.paused:
            raise _not_now("RESTORE comes before the first exit, or while paused", restore_.serial)
        check_length(restore_)
        self._settled(restore_.serial)
        restoration = begin_restore(self.machine, restore_, descriptors[0])
        self._transfer(state, connection, partial(self._restored, connection, restore_, restoration))

    def _restored(self, connection: Connection, restore_: Restore, restoration: Restoration) -> None:
        restored(self.machine, restore_, restoration)
        connection.send(replies.ack(restore_.serial))

    def _transfer(self, state: SessionState, connection: Connection, finish: Callable[[], None]) -> None:
        """Finish when backends have done their part; no exit comes in between."""
        state.transfer = Transfer(finish, connection, state.ledger.paused)
        state.ledger.paused = True
        self._hide()
        self._changed.set()

    def _settled(self, serial: int) -> SessionState:
        """The session, powered on, unless a SAVE or RESTORE is under way."""
        state = self._powered()
        if state.transfer is not None:
            raise _not_now("a SAVE or RESTORE is under way", serial)
        return state

    # --- exits in shared memory ------------------------------------------------------------------

    def _on_share(self, connection: Connection, request: Share, descriptors: list[int]) -> None:
        self._close_shared()
        ledger = self._state().ledger
        take, failed = partial(self._take, connection), partial(self._slots_failed, connection)
        slots = self.shared = share(request, descriptors, ledger, self.pump, take, failed)
        if connection.session.grants("PUBLISHED") and (words := slots.published()):
            self.machine.publish(words)
            self._show()
        connection.send(replies.ack(request.serial))  # a client that has gone closes them
        slots.look()

    def _take(self, connection: Connection, slot: Slot, data: bytes) -> None:
        """A message out of a slot."""
        event = connection.session.receive(data)
        if not isinstance(event, Arrived | PostedWrite):
            raise ProtocolError(ERROR["UNKNOWN_TYPE"], "header.type", data[4], "a slot is for exits")
        vcpu = event.exit.vcpu if isinstance(event, Arrived) else event.vcpu
        if vcpu != slot.vcpu:
            raise ProtocolError(ERROR["RANGE"], "exit.vcpu", vcpu, f"this is the slot of vCPU {slot.vcpu}")
        if isinstance(event, Arrived):
            self._exit(slot, event)
        else:
            self._posted(event)
        self._flush()
        slot.owner.flat = self._state().flat

    def _slots_failed(self, connection: Connection, error: ProtocolError) -> None:
        """What is in a slot is no message: that ends the connection, as a datagram would."""
        self._tell_refused(error)
        connection.refuse(error)

    def _catch_up(self, vcpu: int) -> None:
        if self.shared is not None:
            self.shared.catch_up(vcpu)

    def _look_again(self) -> None:
        """A pause is over."""
        if self.shared is not None:
            self.shared.look()

    def _show(self) -> None:
        """The machine is on, and may be seen."""
        state = self._state()
        if self.machine.page is not None and state.powered_on and not state.ledger.paused:
            self.machine.page.go()

    def _hide(self) -> None:
        if self.machine.page is not None:
            self.machine.page.stop()

    def _close_shared(self) -> None:
        self.machine.unpublish()
        if self.shared is not None:
            self.shared.close()
            self.shared = None

    # --- towards the hypervisor (the machine's outlet) -------------------------------------------

    def intr(self, vcpu: int, level: bool) -> None:
        """The interrupt request of a vCPU changed; in virtual time completions tell it."""
        if self.session is None:
            return
        virtual = self.session.flights.virtual
        if not virtual and not self._signal("INTR", replies.intr(vcpu, level)) and level:
            self._line_dropped(f"vcpu{vcpu}.intr", "INTR")
        if level:
            self.session.flights.interrupted(vcpu)

    def set_level(self, line: int, level: bool) -> None:
        """A line of the hypervisor's interrupt controller changed."""
        if not self._signal("LEVELS", replies.set_level(line, level)) and level:
            self._line_dropped(f"hypervisor.{line}", "LEVELS")

    def msi(self, device: str, address: int, data: int) -> None:
        """A device signals an interrupt by a message."""
        if not self._signal("MSI", replies.msi(address, data)):
            self._dropped(device, "MSI")

    def _line_dropped(self, sink: str, capability: str) -> None:
        """Nobody heard of a level; a client that comes back is told it."""
        if self.primary is not None:
            for source in sorted(self.machine.wires.sinks[sink].high):
                self._dropped(source.partition(".")[0], capability)

    def _dropped(self, device: str, capability: str) -> None:
        reason = "nobody is connected" if self.primary is None else "the client does not take these"
        self.machine.notify("interrupt_dropped", device=device, capability=capability, reason=reason)

    def request(self, kind: Request, value: int) -> None:
        """A device asks for a reset, a shutdown, ..."""
        self._signal("REQUESTS", replies.request(int(kind), value=value))

    def map_changed(self) -> None:
        """Regions have moved: a client that asked once is told, after the exit."""
        self.lane.forget()
        if self.session is not None and self.session.wants_claims:
            self.pump.soon(partial(self._send_claims, 0))

    def _signal(self, capability: str, data: bytes) -> bool:
        """Tell the client, if there is one that has the capability."""
        if self.primary is None or not self.primary.session.grants(capability):
            return False
        self.primary.send(data)
        return True

    def _send_claims(self, serial: int) -> None:
        if self.primary is None:
            return
        ranges = [found for space in LENGTHS for found in self.machine.table(space).ranges]
        claims = [
            Claim(
                int(found.space),
                found.start,
                found.end - found.start,
                0 if found.claim else int(found.policy),
                found.claim.host.name if found.claim else "",
            )
            for found in ranges
        ]
        for message in replies.claims(serial, claims):
            self.primary.send(message)

    # --- inputs, time and the end ---------------------------------------------------------------

    def _flush(self) -> None:
        """After anything happened: go on with what devices answered, acknowledge a PAUSE."""
        state = self.session
        if state is None:
            return
        state.flights.drain()
        if state.pause_serial is not None and not self._under_way(state):
            self.machine.clock.stop()
            serial, state.pause_serial = state.pause_serial, None
            if self.primary is not None:
                self.primary.send(replies.ack(serial))
        if state.transfer is not None and not self._under_way(state):
            transfer, state.transfer = state.transfer, None
            state.ledger.paused = transfer.paused
            try:
                transfer.finish()
            except ProtocolError as error:
                transfer.connection.refuse(error)
            self._show()
            self._look_again()

    def _under_way(self, state: SessionState) -> bool:
        """Whether a device owes an answer, or is owed one by its backend."""
        return any(state.flights.held_up()) or any(port.busy for port in self.machine.services.values())

    async def inject(self, action: Callable[[], None]) -> None:
        """Run an input of a device, and what follows from it; waits while the VM is off or paused."""
        while not self._takes_inputs():
            await self._changed.wait()
        self.pump.work(partial(self._apply, action))

    def _takes_inputs(self) -> bool:
        state = self.session
        if state is None or not state.powered_on:
            return False
        return not state.ledger.paused or state.pause_serial is not None or state.transfer is not None

    def settle(self) -> None:
        """After devices did something that no input of ours caused: go on with what follows."""
        self._flush()

    def _apply(self, action: Callable[[], object]) -> None:
        action()
        self._flush()

    def _fire(self) -> None:
        self._apply(self.machine.clock.fire_due)

    def stop(self) -> None:
        """Take nothing new; answer what waits for a device with all ones."""
        self._nursery = None
        for listener in self._listeners:
            self.pump.unregister(listener.fileno())
            listener.close()
        self._listeners.clear()
        if self.session is not None:
            # Again, as long as what waited behind an access gets PENDING too.
            while owing := [host for host in self.machine.hosts.values() if host.owes is not None]:
                for host in owing:
                    assert host.owes is not None
                    self.machine.settle(host, ones(host.owes.size))
                self.session.flights.drain()
        self._close_shared()
        for connection in list(self.connections):
            connection.close("the daemon stops")
        self.machine.memory.clear()


def _not_now(reason: str, serial: int) -> ProtocolError:
    return ProtocolError(ERROR["STATE"], "header.type", 0, reason, subject=serial, fatal=False)


Handler = Callable[[VmAttachment, Connection, Any, list[int]], None]
_HANDLERS: Final = cast(
    "dict[type[ToDaemon], Handler]",
    {
        Hello: VmAttachment._on_hello,  # noqa: SLF001
        Arrived: VmAttachment._on_exit,  # noqa: SLF001
        PostedWrite: VmAttachment._on_posted,  # noqa: SLF001
        Map: VmAttachment._on_map,  # noqa: SLF001
        Unmap: VmAttachment._on_unmap,  # noqa: SLF001
        Remap: VmAttachment._on_remap,  # noqa: SLF001
        Reset: VmAttachment._on_reset,  # noqa: SLF001
        Pause: VmAttachment._on_pause,  # noqa: SLF001
        Resume: VmAttachment._on_resume,  # noqa: SLF001
        QueryClaims: VmAttachment._on_query_claims,  # noqa: SLF001
        Eoi: VmAttachment._on_eoi,  # noqa: SLF001
        Save: VmAttachment._on_save,  # noqa: SLF001
        Restore: VmAttachment._on_restore,  # noqa: SLF001
        Share: VmAttachment._on_share,  # noqa: SLF001
    },
)
