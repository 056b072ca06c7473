"""What a session of the exit protocol is between its connections: see `mmiod.attach.vm`."""

from __future__ import annotations

from collections.abc import Callable

from attrs import define, frozen

from mmiod.attach.connection import Connection
from mmiod.attach.flat import Flat
from mmiod.attach.flights import Flights
from mmiod.protocol.exit import Hello, Ledger


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
