"""A VM's attachment: its exit sockets, who is connected, and the machine behind.

A *session* begins with a HELLO without token and powers the machine on at its first
exit.  It outlives its connections: a client that lost its connection comes back with
the token within the grace period and goes on; without a token a new session begins,
but only when nobody is connected.  One connection is the primary one (memory, resets,
signals); further channels join by the token.

    signals  what it tells the hypervisor
    life     power, memory, reset, pause, save and restore, inputs
    exits    messages and slots
    vm       connections and sessions: what is here
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from functools import partial
from typing import Any, Final, cast

import structlog
import trio
from attrs import define, evolve, field

from mmiod.attach.connection import Connection
from mmiod.attach.exits import Exits
from mmiod.attach.flights import Flights
from mmiod.attach.session_state import SessionState
from mmiod.attach.shared import OFFERED
from mmiod.core.lane import Lane
from mmiod.core.run import Platform
from mmiod.core.timekeeper import keep_time
from mmiod.errors import ProtocolError
from mmiod.protocol.exit import (
    NEW_SESSION,
    NUMBERS,
    Arrived,
    Eoi,
    Hello,
    Ledger,
    Map,
    Pause,
    PostedWrite,
    QueryClaims,
    Remap,
    Reset,
    Restore,
    Resume,
    Revoked,
    Save,
    Share,
    ToDaemon,
    Unmap,
    check_continues,
)
from mmiod.protocol.sources import SOURCES
from mmiod.values import ones

ERROR: Final = NUMBERS["error"]
MAX_CONNECTIONS: Final = 64
"""Connections to one VM at once."""
TOKEN_LENGTH: Final = len(NEW_SESSION)


@define(eq=False)
class VmAttachment(Exits):
    """The exit protocol joined to one machine."""

    connections: set[Connection] = field(factory=set)
    _nursery: trio.Nursery | None = None
    _expiry: trio.CancelScope | None = None
    _listeners: list[socket.socket] = field(factory=list)

    def __attrs_post_init__(self) -> None:
        """Become the machine's outlet."""
        self.log = structlog.get_logger().bind(vm=self.machine.name)
        self.machine.outlet = self
        self.lane = Lane(self.machine)
        names = ["GUEST_TIME", "REQUESTS", "MEMORY_MESSAGES", "LEVELS", "MSI", "INTR", "SAVE", "VECTORS"]
        names += ["SHARED_MEMORY", "PUBLISHED", "GRANTS"] * OFFERED
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
        self._silence()
        self.machine.reset()
        self.machine.memory.clear()

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
        self.machine.breaks.bound(hello.deadline_ns)
        flights = Flights(self.machine, self.pump, ledger, platform, self.offer.rep_bound, virtual, source)
        token = secrets.token_bytes(TOKEN_LENGTH)
        self.session = SessionState(hello, token, ledger, flights)
        self.primary = connection
        connection.send(connection.session.welcome(token))
        pid, uid, _ = connection.peer
        self.log.info(
            "hypervisor_attached", vendor=hello.vendor, vcpus=hello.vcpus, pid=pid, uid=uid, virtual=virtual
        )

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
        self._silence()
        self.machine.memory.clear()


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
        Revoked: VmAttachment._on_revoked,  # noqa: SLF001
    },
)
