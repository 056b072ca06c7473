"""What a vCPU asks of its session: exits by message or by slot, and accesses that need neither.

A session can be handed over: PAUSE and SAVE here, a new session with MAP and RESTORE
there.  The guest does not notice; sequence numbers begin with 1 again.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Final

from attrs import define, evolve, field, frozen

from mmiod.protocol.exit import shared
from mmiod.protocol.exit.client import NEW_SESSION
from mmiod.protocol.exit.completions import Completed
from mmiod.protocol.exit.events import Ack, ToClient
from mmiod.values import WRITE, Access, Exit, HaltExit, Space, TickExit
from mmiod.vmm.published import Way
from mmiod.vmm.session import VCPU, LinkLost, Session
from mmiod.vmm.tally import Tally
from mmiod.vmm.wire import Broken, Connect

SIZES: Final = frozenset({1, 2, 4, 8})
"""Of accesses that may need no message."""


@frozen
class HandOver:
    """After `exits` exits go on at the daemon that `connect` reaches, as its VM `vm` (None: same name)."""

    exits: int
    connect: Connect
    vm: str | None = None


@define
class Link(Session):
    """A session and its exits; `exits` counts the completed ones, those of sessions that were handed
    over included.
    """

    exits: int = 0
    tally: Tally = field(factory=Tally)

    def exchange(self, exit_: Exit, guest_ns: int) -> Completed | None:
        """Send an exit and wait for its completion; None if a request ends an EXIT_HALT instead."""
        by_message = self._begin(self.client.exit(exit_, guest_ns))
        while True:
            event = self._awaited()
            if isinstance(event, Completed):
                self.interrupt = event.interrupt
                self.exits += 1
                if by_message and self.alarm is not None:
                    self.poll()  # it rang for this message
                return event
            if self.requests and isinstance(exit_, HaltExit):
                return None

    def load(self, space: Space, address: int, size: int) -> bytes | None:
        """A read that needs no message; None if it has to be sent."""
        if self.view is None or size not in SIZES:
            return None
        value = self.view.read(space, address, size)
        if value is None:
            return None
        self.tally.loads += 1
        return value.to_bytes(size, "little")

    def store(self, space: Space, address: int, data: bytes) -> bool:
        """Post a write, if nobody has to wait for it; whether that was done."""
        size = len(data)
        if self.slot is not None and self.slot.full:
            self.exchange(TickExit(VCPU, 0), 0)  # has them all taken
        if self.view is None or size not in SIZES:
            return False
        value = int.from_bytes(data, "little")
        way, access = self.view.way(Access(space, WRITE, address, size, value))
        if way is Way.POST:
            self._post(access)
        elif way is Way.DROP:
            self.tally.dropped += 1
        return way is not Way.SEND

    def reset(self) -> None:
        """Reset the machine's devices; an exit that is outstanding is dropped."""
        serial, message = self.client.reset()
        event: ToClient | None = None
        while not (isinstance(event, Ack) and event.serial == serial):
            if event is None:
                self.send(message)
            event = self.next()
        if self.slot is not None and self.slot.busy:
            self.client.receive(self.slot.take())  # RETRY
        self.interrupt = False

    def hand_over(self, to: HandOver) -> None:
        """Take the devices' state to another daemon and go on there; no exit may be outstanding.

        Raises:
            LinkLost: one of the two daemons went away.
            Refused: this daemon does not save, or that one does not restore what was saved.
        """
        try:
            descriptor, length = self._save()
        except Broken as broken:
            raise LinkLost("the daemon went away while it saved its devices") from broken
        try:
            self.connect = to.connect
            self.persist(partial(self._take_up, to.vm or self.client.vm, descriptor, length))
        finally:
            os.close(descriptor)

    def poll(self) -> None:
        """Take what has arrived, without waiting."""
        if self.alarm is not None:
            self.alarm.silence()
        for line in self.controller.ended() if self.controller else ():
            self.send(self.client.eoi(line))
        while self.wire is not None and self.wire.ready():
            self.next()

    def wait(self) -> None:
        """Wait until something arrives."""
        self.next()

    # --- on their way --------------------------------------------------------------------

    def _begin(self, message: bytes) -> bool:
        """Send an exit; whether that was a message."""
        if self.slot is not None and self.slot.takes(message):
            self.tally.slots += 1
            self.slot.put(message)
            return False
        self.tally.messages += 1
        self.send(message)
        return True

    def _awaited(self) -> ToClient | None:
        """The next event, from the slot if the exit is there; None if there is none yet."""
        slot, wire = self.slot, self.wire
        if slot is None or wire is None or not slot.busy:
            return self.next()
        state = slot.spin()
        if state == shared.READY:
            state = slot.sleep(wire.socket)
        if state == shared.COMPLETE:
            return self.client.receive(slot.take())
        if state == shared.BY_MESSAGE:
            slot.free()
            self.send(self.client.unanswered(VCPU)[-1])
        elif wire.ready():
            return self.next()
        return None

    def _post(self, access: Access) -> None:
        assert self.slot is not None, "what is published is behind the slots"
        self.tally.posts += 1
        self.client.applied(VCPU, self.slot.applied)
        self.client.post(VCPU, access)
        self.slot.post(self.client.posted(VCPU), access)

    # --- handing over --------------------------------------------------------------------

    def _save(self) -> tuple[int, int]:
        """The devices' state: a descriptor and its length."""
        self.ask(self.client.pause())
        length, (descriptor,) = self.ask(self.client.save())
        return descriptor, length

    def _take_up(self, vm: str, descriptor: int, length: int) -> None:
        self.client = evolve(self.client, vm=vm, token=NEW_SESSION)
        self.enter()
        self.ask(self.client.restore(length), [descriptor])
