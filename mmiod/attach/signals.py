"""What a VM tells its hypervisor unasked: interrupts, requests, claims.  It is the machine's outlet.

Signals go to the session's primary connection; what nobody hears is counted, and told to a client that
comes back where that can be.
"""

from __future__ import annotations

from functools import partial

from attrs import define, field

from mmiod.attach.connection import Connection
from mmiod.attach.session_state import SessionState
from mmiod.core.lane import Lane
from mmiod.core.pump import Pump
from mmiod.device import Request
from mmiod.machine.address_map import LENGTHS, Stretch
from mmiod.machine.machine import Machine
from mmiod.protocol.exit import Claim, Eoi, Offer, QueryClaims, replies


@define(eq=False)
class Signals:
    """The way out of one machine."""

    machine: Machine
    pump: Pump
    offer: Offer
    grace_s: float
    """How long a session without connection waits for its client."""
    session: SessionState | None = None
    primary: Connection | None = None
    lane: Lane = field(init=False)

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

    def map_changed(self, *moved: Stretch) -> None:
        """Regions have moved: a client that asked once is told, after the exit."""
        if moved:
            self.lane.forget_at(moved)
        else:
            self.unlearn()
        if self.session is not None and self.session.wants_claims:
            self.pump.soon(partial(self._send_claims, 0))

    def unlearn(self) -> None:
        """Accesses go another way now."""
        self.lane.forget()

    def _signal(self, capability: str, data: bytes) -> bool:
        """Tell the client, if there is one that has the capability."""
        if self.primary is None or not self.primary.session.grants(capability):
            return False
        self.primary.send(data)
        return True

    def _tell_levels(self) -> None:
        """To a client that came back: what it may have missed."""
        for vcpu, level in self.machine.interrupts.items():
            self.intr(vcpu, level)
        for line, level in self.machine.levels.items():
            self.set_level(line, level)

    def _on_eoi(self, _connection: Connection, eoi: Eoi, _descriptors: list[int]) -> None:
        """The hypervisor's controller acknowledged: a line that is still high is raised again."""
        if self.machine.levels.get(eoi.line, False):
            self.set_level(eoi.line, level=True)

    def _on_query_claims(self, _connection: Connection, query: QueryClaims, _descriptors: list[int]) -> None:
        self._state().wants_claims = True
        self._send_claims(query.serial)

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

    def _state(self) -> SessionState:
        assert self.session is not None, "a connection past HELLO has a session"
        return self.session
