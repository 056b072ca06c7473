"""The exits of a VM's session, in messages and in shared memory, on their way to `Flights`.

What a vCPU has put into its slot comes before what it sends behind that by message.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from attrs import define, field

from mmiod.attach.connection import Connection
from mmiod.attach.flights import ReplyTo
from mmiod.attach.life import Life
from mmiod.attach.shared import share
from mmiod.attach.sourced import understood
from mmiod.attach.vcpu_slot import Slot
from mmiod.errors import ProtocolError
from mmiod.protocol.exit import NEW, NUMBERS, Admission, Arrived, PostedWrite, Share, SourceExit, replies

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger


ERROR: Final = NUMBERS["error"]


@define(eq=False)
class Exits(Life):
    """One machine's exits."""

    log: FilteringBoundLogger = field(init=False)

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
        if self.shared is not None:
            self.shared.close()
            self.shared = None
