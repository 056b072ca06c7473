"""The connection to the daemon: one blocking SOCK_SEQPACKET socket, one exit at a time.

A daemon that goes away is looked for again for `patience` seconds; the session's token
lets it go on where it was, and the exit that has no answer yet is sent again.  mmiod
executes it once, whichever side of the break it fell.

A session can be handed over: PAUSE and SAVE here, a new session with MAP and RESTORE
there.  The guest does not notice; sequence numbers begin with 1 again.

Traps of SOCK_SEQPACKET that shape this module: a connect to a full backlog fails with
EAGAIN when the socket does not block; an empty message is the end; a peer that died
with unread data makes the first receive fail with ECONNRESET while its last messages
can still be read behind it.
"""

from __future__ import annotations

import array
import os
import select
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Final, Protocol

from attrs import define, evolve, field, frozen

from mmiod.errors import MmiodError
from mmiod.protocol.exit.client import NEW_SESSION, Client
from mmiod.protocol.exit.completions import Completed
from mmiod.protocol.exit.events import (
    Ack,
    Error,
    Intr,
    Msi,
    Request,
    Resumed,
    SetLevel,
    ToClient,
    Welcome,
)
from mmiod.protocol.exit.table import MAX_MESSAGE, NUMBERS
from mmiod.values import Exit, HaltExit
from mmiod.vmm.guest import Slot

RETRY: Final = 0.05
"""Seconds between two attempts to connect."""
_BUSY: Final = NUMBERS["error"]["BUSY"]
_VCPU: Final = 0


class LinkLost(MmiodError):
    """The daemon is gone, or no longer knows the session; the message says which."""


class Refused(MmiodError):
    """The daemon answered with an error; the message has its field and value."""


class _Broken(Exception):
    """This connection has ended."""


Connect = Callable[[], socket.socket]


def connect_to(path: str) -> Connect:
    """Connections to the daemon's socket at `path`."""

    def connect() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            connection.connect(path)
        except OSError:
            connection.close()
            raise
        return connection

    return connect


class Alarm(Protocol):
    """Ends a CPU's run when a message arrives."""

    def watch(self, connection: socket.socket) -> None:
        """Ring for messages on this connection."""

    def silence(self) -> None:
        """Stop ringing for what has arrived so far, which is read now."""


class Controller(Protocol):
    """An interrupt controller on this side of the protocol: capabilities LEVELS and MSI."""

    def set_level(self, line: int, level: bool) -> None:
        """A device changed a line."""

    def msi(self, address: int, data: int) -> None:
        """A device signals an interrupt by a message."""

    def ended(self) -> Iterable[int]:
        """Lines whose interrupt the guest has ended since the last call."""


@frozen
class HandOver:
    """After `exits` exits go on at the daemon that `connect` reaches, as its VM `vm` (None: same name)."""

    exits: int
    connect: Connect
    vm: str | None = None


@define
class Link:
    """One session.  `interrupt` is the level of the interrupt request, `requests` what the daemon asks.

    `exits` counts the completed ones, those of sessions that were handed over included.

    With `follow_intr` unset only completions change the level, so that it changes at the
    same instruction in every run.
    """

    connect: Connect
    client: Client
    slots: tuple[Slot, ...]
    patience: float = 10.0
    follow_intr: bool = True
    alarm: Alarm | None = None
    controller: Controller | None = None
    interrupt: bool = False
    exits: int = 0
    requests: deque[Request] = field(factory=deque)
    _socket: socket.socket | None = None
    _buffer: bytearray = field(factory=lambda: bytearray(MAX_MESSAGE))

    # --- what the vCPU needs -------------------------------------------------------------

    def open(self) -> None:
        """Connect, say HELLO and map guest memory.

        Raises:
            LinkLost: nobody listens there for `patience` seconds.
            Refused: the daemon does not want this client.
        """
        self._persist(self._enter)

    def exchange(self, exit_: Exit, guest_ns: int) -> Completed | None:
        """Send an exit and wait for its completion; None if a request ends an EXIT_HALT instead."""
        self._send_on(self.client.exit(exit_, guest_ns))
        while True:
            event = self._next()
            if isinstance(event, Completed):
                self.interrupt = event.interrupt
                self.exits += 1
                if self.alarm is not None:
                    self.poll()  # it rang for this message
                return event
            if self.requests and isinstance(exit_, HaltExit):
                return None

    def reset(self) -> None:
        """Reset the machine's devices; an exit that is outstanding is dropped."""
        serial, message = self.client.reset()
        event: ToClient | None = None
        while not (isinstance(event, Ack) and event.serial == serial):
            if event is None:
                self._send_on(message)
            event = self._next()
        self.interrupt = False

    def hand_over(self, to: HandOver) -> None:
        """Take the devices' state to another daemon and go on there; no exit may be outstanding.

        Raises:
            LinkLost: one of the two daemons went away.
            Refused: this daemon does not save, or that one does not restore what was saved.
        """
        try:
            descriptor, length = self._save()
        except _Broken as broken:
            raise LinkLost("the daemon went away while it saved its devices") from broken
        try:
            self.connect = to.connect
            self._persist(partial(self._take_up, to.vm or self.client.vm, descriptor, length))
        finally:
            os.close(descriptor)

    def poll(self) -> None:
        """Take what has arrived, without waiting."""
        if self.alarm is not None:
            self.alarm.silence()
        for line in self.controller.ended() if self.controller else ():
            self._send_on(self.client.eoi(line))
        while self._socket is not None and select.select([self._socket], [], [], 0)[0]:
            self._next()

    def wait(self) -> None:
        """Wait until something arrives."""
        self._next()

    def close(self) -> None:
        """Leave; the daemon keeps the session for the token."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # --- messages ------------------------------------------------------------------------

    def _send_on(self, message: bytes) -> None:
        """Send on this connection; on a new one the client's unanswered exit goes out, and levels
        come in, anyway.
        """
        try:
            self._send(message)
        except _Broken:
            self._persist(self._continue)

    def _next(self) -> ToClient | None:
        """The next event; None if the connection broke and another one is open now."""
        try:
            return self._handle(self._receive())
        except _Broken:
            self._persist(self._continue)
            return None

    def _handle(self, event: ToClient) -> ToClient:
        if isinstance(event, Error):
            if event.code == _BUSY:  # the daemon has not noticed yet that the last connection is gone
                raise _Broken(event.reason)
            raise Refused(f"the daemon refuses {event.name} = {event.value:#x}: {event.reason}")
        if isinstance(event, Request):
            self.requests.append(event)
        elif isinstance(event, Intr) and self.follow_intr:
            self.interrupt = event.level
        elif isinstance(event, SetLevel | Msi):
            self._signal(event)
        elif isinstance(event, Resumed):
            self._resend()
        return event

    def _signal(self, event: SetLevel | Msi) -> None:
        assert self.controller is not None, "only who asks for these capabilities is told"
        if isinstance(event, Msi):
            self.controller.msi(event.address, event.data)
        else:
            self.controller.set_level(event.line, event.level)

    def _send(self, message: bytes, descriptor: int | None = None) -> None:
        assert self._socket is not None
        rights = (
            []
            if descriptor is None
            else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))]
        )
        try:
            self._socket.sendmsg([message], rights)
        except (BrokenPipeError, ConnectionResetError, ConnectionAbortedError) as error:
            raise _Broken from error

    def _receive(self) -> ToClient:
        assert self._socket is not None
        try:
            size = self._socket.recv_into(self._buffer)
        except ConnectionResetError:
            size = self._last_words()
        if not size:
            raise _Broken
        return self.client.receive(bytes(memoryview(self._buffer)[:size]))

    def _last_words(self) -> int:
        assert self._socket is not None
        try:
            return self._socket.recv_into(self._buffer)
        except ConnectionResetError:
            return 0

    def _resend(self) -> None:
        for message in self.client.unanswered(_VCPU):
            self._send(message)

    def _ask(self, request: tuple[int, bytes], descriptor: int | None = None) -> tuple[int, list[int]]:
        """Send a request on this connection and wait for its ACK: the value and descriptors of that."""
        assert self._socket is not None
        serial, message = request
        self._send(message, descriptor)
        while True:
            data, descriptors, _, _ = socket.recv_fds(self._socket, MAX_MESSAGE, 1, socket.MSG_CMSG_CLOEXEC)
            if not data:
                raise _Broken
            event = self._handle(self.client.receive(data))
            if isinstance(event, Ack) and event.serial == serial:
                return event.value, descriptors

    # --- connecting ----------------------------------------------------------------------

    def _persist(self, attempt: Callable[[], None]) -> None:
        """Open a connection by `attempt`, again and again for `patience` seconds."""
        until = time.monotonic() + self.patience
        while True:
            self.close()
            try:
                self._open(attempt)
            except MmiodError:
                self.close()
                raise
            except (_Broken, OSError) as error:
                reason = error
            else:
                return
            if time.monotonic() >= until:
                self.close()
                raise LinkLost(f"no daemon for {self.patience:g} s: {reason.__cause__ or reason}")
            select.select([], [], [], RETRY)

    def _open(self, attempt: Callable[[], None]) -> None:
        self._socket = self.connect()
        if self.alarm is not None:
            self.alarm.watch(self._socket)
        waiting = self._socket.gettimeout()
        self._socket.settimeout(self.patience)  # one that listens may still say nothing
        attempt()
        self._socket.settimeout(waiting)

    def _enter(self) -> None:
        self._greet()
        for slot in self.slots:
            request = self.client.map(
                slot.number, slot.gpa, slot.length, offset=slot.offset, read_only=slot.read_only
            )
            self._ask(request, slot.descriptor)

    def _save(self) -> tuple[int, int]:
        """The devices' state: a descriptor and its length."""
        self._ask(self.client.pause())
        length, (descriptor,) = self._ask(self.client.save())
        return descriptor, length

    def _take_up(self, vm: str, descriptor: int, length: int) -> None:
        self.client = evolve(self.client, vm=vm, token=NEW_SESSION)
        self._enter()
        self._ask(self.client.restore(length), descriptor)

    def _continue(self) -> None:
        known = self.client.token
        if not self._greet().continued:
            raise LinkLost(f"the daemon does not know session {known.hex()} any more")
        self._resend()

    def _greet(self) -> Welcome:
        self._send(self.client.hello())
        while not isinstance(event := self._handle(self._receive()), Welcome):
            pass
        return event
