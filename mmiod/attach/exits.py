"""The exits of a VM's session, in messages and in shared memory, on their way to `Flights`.

What a vCPU has put into its slot comes before what it sends behind that by message.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import define, field

from mmiod.attach.connection import Connection
from mmiod.attach.flights import ReplyTo
from mmiod.attach.grants import Grants
from mmiod.attach.life import Life
from mmiod.attach.shared import SharedMemory, share
from mmiod.attach.sourced import understood
from mmiod.attach.vcpu_slot import Slot
from mmiod.errors import ProtocolError
from mmiod.machine.grantable import Grantable, GuestPage
from mmiod.protocol.exit import (
    NEW,
    NUMBERS,
    Admission,
    Arrived,
    PostedWrite,
    Revoked,
    Share,
    SourceExit,
    replies,
    shared,
)
from mmiod.values import WRITE, Access

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


ERROR: Final = NUMBERS["error"]
WORD: Final = 8


@define(eq=False)
class Exits(Life):
    """One machine's exits."""

    log: FilteringBoundLogger = field(init=False)
    grants: Grants | None = None
    """Of the primary connection."""
    _due: dict[Grantable, None] = field(factory=dict)
    """Doorbells that were rung while the machine was paused."""

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

    def _on_share(self, connection: Connection, request: Share, descriptors: list[int]) -> None:
        self._close_shared()
        ledger = self._state().ledger
        take, failed = partial(self._take, connection), partial(self._slots_failed, connection)
        slots = self.shared = share(request, descriptors, ledger, self.pump, take, failed)
        self._silence()
        if connection.session.grants("PUBLISHED") and (words := slots.published()):
            self._publish(connection, slots, words)
        connection.send(replies.ack(request.serial))  # a client that has gone closes them
        slots.look()

    def _publish(self, connection: Connection, slots: SharedMemory, words: memoryview) -> None:
        """Show the table, and grant what may stand in the hypervisor of a client that takes grants."""
        if connection.session.grants("GRANTS") and not self._state().flights.virtual:
            offset = slots.words[shared.PUBLISHED_OFFSET // WORD]
            self.grants = Grants(connection, offset, self.pump, self._rung)
            self.machine.publish(words, self._regrant)
        else:
            self.machine.publish(words)
        self._show()

    def _regrant(self) -> None:
        if self.grants is not None:
            self.grants.update(self.machine.grantable)

    def _on_revoked(self, _connection: Connection, revoked: Revoked, _descriptors: list[int]) -> None:
        if self.grants is not None:
            self.grants.revoked(revoked.number)

    def _rung(self, bell: Grantable) -> None:
        """A vCPU rang a doorbell: that is behind all that it did before."""
        page = self.machine.page
        if not isinstance(page, GuestPage) or bell not in page.bells:
            return  # its region has moved since, and another may be there
        state = self._powered()
        if state.ledger.paused:
            self._due[bell] = None
            return
        for slot in self.shared.slots if self.shared is not None else ():
            slot.take_posted()
        state.flights.rung(Access(bell.space, WRITE, bell.address, bell.size, bell.value))
        self._flush()

    def _look_again(self) -> None:
        """A pause is over: slots, and doorbells that were rung in it."""
        Life._look_again(self)  # noqa: SLF001  # it is this one's base
        due, self._due = self._due, {}
        for bell in due:
            self._rung(bell)

    async def withdrawn(self) -> None:
        """Wait until nothing of what is withheld stands in the hypervisor."""
        if self.grants is not None:
            await self.grants.settled()

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

    def _tell_refused(self, error: ProtocolError) -> None:
        self.log.warning(
            "message_refused",
            field=error.name,
            value=hex(error.value),
            reason=error.reason,
            fatal=error.fatal,
        )

    def _catch_up(self, vcpu: int) -> None:
        if self.shared is not None:
            self.shared.catch_up(vcpu)

    def _close_shared(self) -> None:
        self.machine.unpublish()
        self._due.clear()
        if self.grants is not None:
            self.grants.close()
            self.grants = None
        if self.shared is not None:
            self.shared.close()
            self._silence()
            self.ended, self.shared = self.shared, None

    def _silence(self) -> None:
        if self.ended is not None:
            self.ended.silence()
            self.ended = None
