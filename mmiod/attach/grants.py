"""What stands in the hypervisor of a connection: pages that the guest reads, doorbells that it rings.

The client gets each by a GRANT, and answers the REVOKE that ends it when it is out of the guest's
reach; who withdraws a device for somebody to look at its traffic waits for that.

A doorbell is an eventfd of ours that the client hands to its kernel.  It is never read: the client
has it, too, and could make that wait.  The pump reports each signal of it: one from before REVOKE
ahead of the REVOKED that answers it, as epoll reports in the order of arrival; one from between the
two perhaps behind it.  So the eventfd's count is kept from REVOKE on, and one that is another at
REVOKED is a signal; one that is the same is none, and nobody is told of a write that no guest made.

Whatever is sent may end the connection, and all of this with it.
"""

from __future__ import annotations

import os
import re
import select
from collections.abc import Callable, Iterable
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
_COUNT: Final = re.compile(rb"^eventfd-count:\s+([0-9a-f]+)$", re.MULTILINE)


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
    _heard: dict[int, int | None] = field(factory=dict)
    """Of doorbells among them the eventfd's count at the last signal that was heard, or at REVOKE."""
    _bells: dict[int, tuple[int, Grantable]] = field(factory=dict)
    """Eventfds and what they are of, by number."""
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
        if number in self._bells:
            self._heard[number] = _count(self._bells[number][0])
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
        self._bells[number] = bell, grantable
        try:
            self.pump.register(bell, lambda _events: self._signalled(number), _EVENTS)
            return os.dup(bell)
        except OSError:
            self._forget(number)
            raise

    def _signalled(self, number: int) -> None:
        bell, grantable = self._bells[number]
        if number in self.ending:
            self._heard[number] = _count(bell)  # before the write, which stands for all that it has
        self.ring(grantable)

    def revoked(self, number: int) -> None:
        """The client has it no more; what it rang before may be heard only now."""
        if number in self.ending:
            self.ending.discard(number)
            bell, grantable = self._bells.get(number, (None, None))
            if bell is not None and grantable is not None:
                count = _count(bell)
                if count is None or count != self._heard.get(number):
                    self.ring(grantable)
            self._forget(number)
            self._ended.set()

    def _forget(self, number: int) -> None:
        self._heard.pop(number, None)
        bell, _ = self._bells.pop(number, (None, None))
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


def _count(eventfd: int) -> int | None:
    """What was written to an eventfd that nobody reads; None where that cannot be known (proc(5))."""
    try:
        descriptor = os.open(f"/proc/self/fdinfo/{eventfd}", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = _COUNT.search(os.read(descriptor, 4096))
    finally:
        os.close(descriptor)
    return None if found is None else int(found[1], 16)
