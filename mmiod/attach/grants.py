"""What stands in the hypervisor of a connection: pages that the guest reads, doorbells that it rings.

The client gets each by a GRANT, and answers the REVOKE that ends it when it is out of the guest's
reach; who withdraws a device for somebody to look at its traffic waits for that.

A doorbell is an eventfd of ours that the client hands to its kernel.  It is never read: the client
has it, too, and could make that wait.  All of them are in an epoll of their own, edge-triggered, which
is asked before one of them ends: what the guest rang before its client gave the doorbell back is heard,
whether or not the pump came to it before the REVOKED, and nobody is told of a write that no guest made.

Whatever is sent may end the connection, and all of this with it.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable
from contextlib import suppress
from itertools import count
from typing import TYPE_CHECKING, Final

import trio
from attrs import define, field

from mmiod.attach.connection import Connection
from mmiod.core.ports import Signal
from mmiod.core.pump import Pump
from mmiod.machine.grantable import MAX_BELLS, Grantable, GrantKind
from mmiod.protocol.exit import Grant, replies

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S: Final = 1.0
"""How long a client may take to answer a REVOKE."""
MAX_ENDING: Final = 4 * MAX_BELLS
"""REVOKEs that a client may leave unanswered: a guest that moves regions may cause any number."""
_EVENTS: Final = select.EPOLLIN | select.EPOLLET


@define(eq=False)
class Grants:
    """Those of one connection, whose table is at `offset` of the shared memory."""

    connection: Connection
    offset: int
    pump: Pump
    ring: Callable[[Grantable], None]
    """Does the write of a doorbell."""
    given: dict[Grantable, int] = field(factory=dict)
    """By number."""
    ending: set[int] = field(factory=set)
    """Numbers that were revoked, and may stand yet."""
    _bells: dict[int, int] = field(factory=dict)
    """Eventfds, by number."""
    _rings: dict[int, Grantable] = field(factory=dict)
    """What they are of, by eventfd."""
    _ears: select.epoll | None = None
    """All of them."""
    _ended: Signal = field(factory=Signal)
    _numbers: Iterator[int] = field(factory=lambda: count(1))

    def update(self, wanted: Iterable[Grantable]) -> None:
        """Grant what may stand, and revoke the rest."""
        may = dict.fromkeys(wanted)
        for grantable in [known for known in self.given if known not in may]:
            if not self.connection.open:
                return
            self._revoke(grantable)
        for grantable in may:
            if grantable not in self.given and self.connection.open:
                self._give(grantable)

    def _revoke(self, grantable: Grantable) -> None:
        number = self.given.pop(grantable)
        self.ending.add(number)
        self.connection.send(replies.revoke(number))
        if len(self.ending) > MAX_ENDING:
            self.connection.close(f"more than {MAX_ENDING} REVOKEs were not answered")

    def _give(self, grantable: Grantable) -> None:
        number, descriptor, value = next(self._numbers), None, grantable.value
        if grantable.kind is GrantKind.DOORBELL:
            try:
                descriptor = self._hang(number, grantable)
            except OSError:
                return  # there are no descriptors left: its writes stay exits
        else:
            value += self.offset
        self.given[grantable] = number
        where = grantable.kind, grantable.space, grantable.size, grantable.address, value
        self.connection.send(replies.grant(Grant(number, *where)), descriptor)

    def _hang(self, number: int, grantable: Grantable) -> int:
        """Listen to a doorbell; the descriptor that the client gets.

        Raises:
            OSError: there is no descriptor, and nothing is left of it.
        """
        bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._bells[number], self._rings[bell] = bell, grantable
        try:
            self._listening().register(bell, _EVENTS)
            return os.dup(bell)
        except OSError:
            self._forget(number)
            raise

    def _listening(self) -> select.epoll:
        if self._ears is None:
            ears = select.epoll()
            self.pump.register(ears.fileno(), lambda _events: self._hear(), select.EPOLLIN)
            self._ears = ears
        return self._ears

    def _hear(self) -> None:
        """Do the writes of all doorbells that were rung since."""
        for bell, _ in self._ears.poll(0) if self._ears is not None else ():
            grantable = self._rings.get(bell)
            if grantable is not None:  # else a write before it has ended the connection
                self.ring(grantable)

    def revoked(self, number: int) -> None:
        """The client has it no more; what it rang before may be heard only now."""
        if number in self.ending:
            self._hear()
            self.ending.discard(number)
            self._forget(number)
            self._ended.set()

    def _forget(self, number: int) -> None:
        bell = self._bells.pop(number, None)
        if bell is not None:
            del self._rings[bell]
            if self._ears is not None:
                with suppress(FileNotFoundError):  # there was no room for it
                    self._ears.unregister(bell)
            os.close(bell)

    async def settled(self) -> None:
        """Wait until nothing stands that was revoked; a client that does not answer is disconnected."""
        with trio.move_on_after(PATIENCE_S):
            while self.ending:
                await self._ended.wait()
        if self.ending:
            self.connection.close(f"REVOKE was not answered within {PATIENCE_S:g} s")

    def close(self) -> None:
        """The connection ends, and all of them with it."""
        for number in list(self._bells):
            self._forget(number)
        if self._ears is not None:
            self.pump.unregister(self._ears.fileno())
            self._ears.close()
            self._ears = None
        self.given.clear()
        self.ending.clear()
        self._ended.set()
