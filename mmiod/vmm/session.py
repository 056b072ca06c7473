"""The session with the daemon: connections, one after the other, and what arrives on them.

A daemon that goes away is looked for again for `patience` seconds; the session's token
lets it go on where it was, and the exit that has no answer yet is sent again.  mmiod
executes it once, whichever side of the break it fell.

Shared memory, where it was asked for and granted, belongs to a connection: until the daemon
acknowledges a new one, exits go by message.
"""

from __future__ import annotations

import os
import select
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol

from attrs import define, field

from mmiod.errors import MmiodError
from mmiod.protocol.exit.client import Client
from mmiod.protocol.exit.events import (
    Ack,
    Error,
    Grant,
    Intr,
    Msi,
    Request,
    Resumed,
    Revoke,
    SetLevel,
    ToClient,
    Welcome,
)
from mmiod.protocol.exit.table import NUMBERS
from mmiod.vmm import guest
from mmiod.vmm.fixtures import Fixtures
from mmiod.vmm.published import View
from mmiod.vmm.slot import PAGES_BYTES, PUBLISHED_BYTES, SLOTS, Slot
from mmiod.vmm.wire import Alarm, Broken, Connect, Wire

RETRY: Final = 0.05
"""Seconds between two attempts to connect."""
VCPU: Final = 0
"""The only one."""
_BUSY: Final = NUMBERS["error"]["BUSY"]
_CAPABILITY: Final = NUMBERS["capability"]


class LinkLost(MmiodError):
    """The daemon is gone, or no longer knows the session; the message says which."""


class Refused(MmiodError):
    """The daemon answered with an error; the message has its field and value."""


class Controller(Protocol):
    """An interrupt controller on this side of the protocol: capabilities LEVELS and MSI."""

    def set_level(self, line: int, level: bool) -> None:
        """A device changed a line."""

    def msi(self, address: int, data: int) -> None:
        """A device signals an interrupt by a message."""

    def ended(self) -> Iterable[int]:
        """Lines whose interrupt the guest has ended since the last call."""


@define
class Session:
    """One session.  `interrupt` is the level of the interrupt request, `requests` what the daemon asks.

    With `follow_intr` unset only completions change the level, so that it changes at the
    same instruction in every run.
    """

    connect: Connect
    client: Client
    slots: tuple[guest.Slot, ...]
    patience: float = 10.0
    follow_intr: bool = True
    alarm: Alarm | None = None
    controller: Controller | None = None
    interrupt: bool = False
    requests: deque[Request] = field(factory=deque)
    slot: Slot | None = None
    """Of this connection."""
    view: View | None = None
    """What is published there."""
    wire: Wire | None = None
    """The connection."""
    fixtures: Fixtures | None = None
    """Where pages and doorbells stand; None: nowhere."""

    def open(self) -> None:
        """Connect, say HELLO and map guest memory.

        Raises:
            LinkLost: nobody listens there for `patience` seconds.
            Refused: the daemon does not want this client.
        """
        self.persist(self.enter)

    def close(self) -> None:
        """Leave; the daemon keeps the session for the token."""
        self._forget_slot()
        if self.wire is not None:
            self.wire.close()
            self.wire = None

    # --- messages ------------------------------------------------------------------------

    def send(self, message: bytes) -> None:
        """Send on this connection; on a new one the client's unanswered exit goes out, and levels
        come in, anyway.
        """
        try:
            self._wired.send(message)
        except Broken:
            self.persist(self._continue)

    def next(self) -> ToClient | None:
        """The next event; None if the connection broke and another one is open now."""
        try:
            event, descriptors = self._receive()
        except Broken:
            self.persist(self._continue)
            return None
        _close(descriptors)
        return event

    def ask(self, request: tuple[int, bytes], descriptors: Sequence[int] = ()) -> tuple[int, list[int]]:
        """Send a request on this connection and wait for its ACK: the value and descriptors of that.

        Raises:
            Broken: the connection has ended.
        """
        serial, message = request
        self._wired.send(message, descriptors)
        while True:
            event, found = self._receive()
            if isinstance(event, Ack) and event.serial == serial:
                return event.value, found
            _close(found)

    @property
    def _wired(self) -> Wire:
        assert self.wire is not None, "a session is used when it is open"
        return self.wire

    def _receive(self) -> tuple[ToClient, list[int]]:
        data, descriptors = self._wired.receive()
        event = self.client.receive(data)
        if isinstance(event, Grant):
            self._grant(event, descriptors)
            descriptors = []
        else:
            self._handle(event)
        return event, descriptors

    def _handle(self, event: ToClient) -> None:
        if isinstance(event, Error):
            if event.code == _BUSY:  # the daemon has not noticed yet that the last connection is gone
                raise Broken(event.reason)
            raise Refused(f"the daemon refuses {event.name} = {event.value:#x}: {event.reason}")
        if isinstance(event, Request):
            self.requests.append(event)
        elif isinstance(event, Intr) and self.follow_intr:
            self.interrupt = event.level
        elif isinstance(event, SetLevel | Msi):
            self._signal(event)
        elif isinstance(event, Resumed):
            self._resend()
        elif isinstance(event, Revoke):
            if self.fixtures is not None:
                self.fixtures.remove(event.number)
            self._wired.send(self.client.revoked(event.number))
        elif isinstance(event, Ack) and self.slot is not None and event.serial == self.slot.serial:
            self.slot.usable, self.view = True, View.of(self.slot)

    def _signal(self, event: SetLevel | Msi) -> None:
        assert self.controller is not None, "only who asks for these capabilities is told"
        if isinstance(event, Msi):
            self.controller.msi(event.address, event.data)
        else:
            self.controller.set_level(event.line, event.level)

    def _grant(self, grant: Grant, descriptors: list[int]) -> None:
        if self.fixtures is None or self.slot is None:
            _close(descriptors)
        else:
            self.fixtures.add(grant, memoryview(self.slot.mapping), descriptors)

    def _resend(self) -> None:
        """What has no answer, to a daemon that knows nothing of the slot that there was."""
        self._forget_slot()
        for message in self.client.unanswered(VCPU):
            self._wired.send(message)
        self._share()

    # --- shared memory -------------------------------------------------------------------

    def _share(self) -> None:
        """Offer a new slot, if that was granted; the ACK is waited for by nobody."""
        if not self.client.capabilities & _CAPABILITY["SHARED_MEMORY"]:
            return
        sizes = (("PUBLISHED", PUBLISHED_BYTES), ("GRANTS", PAGES_BYTES))
        published = sum(size for name, size in sizes if self.client.capabilities & _CAPABILITY[name])
        slot = self.slot = Slot.create(self.client.posted(VCPU), published)
        slot.serial, message = self.client.share(SLOTS, slot.length)
        self._wired.send(message, slot.descriptors)

    def _forget_slot(self) -> None:
        if self.fixtures is not None:
            self.fixtures.clear()
        if self.slot is not None:
            self.slot.close()
            self.slot = self.view = None

    # --- connecting ----------------------------------------------------------------------

    def persist(self, attempt: Callable[[], None]) -> None:
        """Open a connection by `attempt`, again and again for `patience` seconds."""
        until = time.monotonic() + self.patience
        while True:
            self.close()
            try:
                self._open(attempt)
            except MmiodError:
                self.close()
                raise
            except (Broken, OSError) as error:
                reason = error
            else:
                return
            if time.monotonic() >= until:
                self.close()
                raise LinkLost(f"no session within {self.patience:g} s: {reason.__cause__ or reason}")
            select.select([], [], [], RETRY)

    def _open(self, attempt: Callable[[], None]) -> None:
        self.wire = Wire(self.connect())
        connection = self.wire.socket
        if self.alarm is not None:
            self.alarm.watch(connection)
        waiting = connection.gettimeout()
        connection.settimeout(self.patience)  # one that listens may still say nothing
        attempt()
        connection.settimeout(waiting)

    def enter(self) -> None:
        """Begin a session."""
        self._greet()
        for slot in self.slots:
            request = self.client.map(
                slot.number, slot.gpa, slot.length, offset=slot.offset, read_only=slot.read_only
            )
            self.ask(request, [slot.descriptor])
        self._share()

    def _continue(self) -> None:
        known = self.client.token
        if not self._greet().continued:
            raise LinkLost(f"the daemon does not know session {known.hex()} any more")
        self._resend()

    def _greet(self) -> Welcome:
        self._wired.send(self.client.hello())
        while True:
            event, descriptors = self._receive()
            _close(descriptors)
            if isinstance(event, Welcome):
                return event


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
