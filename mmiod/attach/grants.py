"""What stands in the hypervisor of a connection: pages that the guest reads, doorbells that it rings.

The client gets each by a GRANT, and answers the REVOKE that ends it when it is out of the guest's
reach; who withdraws a device for somebody to look at its traffic waits for that.

A doorbell is an eventfd of ours that the client hands to its kernel.  It is never read: the client
has it, too, and could make that wait.  The pump reports each signal of it.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterable
from itertools import count
from typing import TYPE_CHECKING, Final

import trio
from attrs import define, field

from mmiod.attach.connection import Connection
from mmiod.core.ports import Signal
from mmiod.core.pump import Pump
from mmiod.machine.grantable import Grantable, GrantKind
from mmiod.protocol.exit import Grant, replies

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE_S: Final = 1.0
"""How long a client may take to answer a REVOKE."""
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
    _ended: Signal = field(factory=Signal)
    _numbers: Iterator[int] = field(factory=lambda: count(1))

    def update(self, wanted: Iterable[Grantable]) -> None:
        """Grant what may stand, and revoke the rest."""
        may = dict.fromkeys(wanted)
        for grantable in [known for known in self.given if known not in may]:
            number = self.given.pop(grantable)
            self.ending.add(number)
            self.connection.send(replies.revoke(number))
        for grantable in may:
            if grantable not in self.given:
                self._give(grantable)

    def _give(self, grantable: Grantable) -> None:
        number = self.given[grantable] = next(self._numbers)
        descriptor, value = None, grantable.value
        if grantable.kind is GrantKind.DOORBELL:
            bell = self._bells[number] = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
            self.pump.register(bell, lambda _events: self.ring(grantable), _EVENTS)
            descriptor = os.dup(bell)
        else:
            value += self.offset
        where = grantable.kind, grantable.space, grantable.size, grantable.address, value
        self.connection.send(replies.grant(Grant(number, *where)), descriptor)

    def revoked(self, number: int) -> None:
        """The client has it no more; what it rang before has been heard."""
        if number in self.ending:
            self.ending.discard(number)
            self._forget(number)
            self._ended.set()

    def _forget(self, number: int) -> None:
        bell = self._bells.pop(number, None)
        if bell is not None:
            self.pump.unregister(bell)
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
        self.given.clear()
        self.ending.clear()
        self._ended.set()
