"""A function's interrupts: an eventfd for each, which the client waits on.

INTx is a level.  One that is told masks itself; when the client unmasks it, and the line is
still high, it is told again (VFIO's AUTOMASKED).  Messages are told one by one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from functools import partial

from attrs import define, field

from mmiod.attach import descriptors
from mmiod.attach.bell import ONE, Bell
from mmiod.core.pump import Pump
from mmiod.protocol.vfio_user import ACTION_MASK, ACTION_TRIGGER, INTX, SetIrqs


@define(eq=False)
class Interrupts:
    """All of one function; eventfds by kind and number."""

    pump: Pump
    eventfds: dict[tuple[int, int], int] = field(factory=dict)
    told: int = 0
    """How many were signalled."""
    level: bool = False
    """Of the INTx line."""
    masked: bool = False
    """INTx was told, and not acknowledged; or the client masked it."""
    _unmasking: int | None = None
    """An eventfd by which the client unmasks INTx."""
    _slow: set[int | None] = field(factory=set)
    """Eventfds that make their writer wait when they are full."""
    _bell: Bell = field(factory=Bell)

    def set(self, asked: SetIrqs) -> None:
        """SET_IRQS; takes its descriptors over."""
        if asked.descriptors is None:
            self._act(asked)
        elif asked.action == ACTION_TRIGGER:
            for number, eventfd in enumerate(asked.descriptors, asked.start):
                self._assign(asked.index, number, eventfd)
        elif asked.action == ACTION_MASK or asked.index != INTX:
            descriptors.close(given for given in asked.descriptors if given is not None)
        else:
            for eventfd in asked.descriptors:
                self._unmask_by(eventfd)

    def _act(self, asked: SetIrqs) -> None:
        if asked.action == ACTION_TRIGGER and not asked.count:
            self.disable(asked.index)
        elif asked.action == ACTION_TRIGGER:
            for number, chosen in enumerate(asked.chosen, asked.start):
                if chosen:
                    self.tell(asked.index, number)
        elif asked.index == INTX and any(asked.chosen):
            self._mask(asked.action == ACTION_MASK)

    def _assign(self, index: int, number: int, eventfd: int | None) -> None:
        before = self.eventfds.pop((index, number), None)
        descriptors.close([] if before is None else [before])
        self._slow.discard(before)
        if eventfd is not None:
            self.eventfds[index, number] = eventfd
            self._note(eventfd)
        if index == INTX:
            self._mask(False)

    def _note(self, eventfd: int) -> None:
        if os.get_blocking(eventfd):
            self._slow.add(eventfd)

    @property
    def unmasking(self) -> int | None:
        """The eventfd by which the client unmasks INTx."""
        return self._unmasking

    def resume(self, eventfds: Mapping[tuple[int, int], int], *, masked: bool, unmasking: int | None) -> None:
        """Go on with the eventfds of another one of these."""
        self.eventfds.update(eventfds)
        for eventfd in eventfds.values():
            self._note(eventfd)
        self.masked = masked
        self._unmask_by(unmasking)

    def disable(self, index: int) -> None:
        """Take all eventfds of a kind away."""
        for kind, number in list(self.eventfds):
            if kind == index:
                self._assign(index, number, None)
        if index == INTX:
            self._unmask_by(None)

    def clear(self) -> None:
        """Take all eventfds away."""
        self._bell.close()
        for index in {kind for kind, _ in self.eventfds} | {INTX}:
            self.disable(index)

    def tell(self, index: int, number: int) -> bool:
        """Signal one interrupt; whether anybody waits for it."""
        eventfd = self.eventfds.get((index, number))
        if eventfd is None:
            return False
        if eventfd in self._slow:
            self._bell.ring(eventfd)
        else:
            # A full counter is a client that does not look; whatever else came as an eventfd is
            # the client's own loss.
            try:  # noqa: SIM105  # a tenth of the time of `suppress`
                os.write(eventfd, ONE)
            except OSError:
                pass
        self.told += 1
        return True

    def set_level(self, level: bool) -> None:
        """The INTx line changed."""
        self.level = level
        self._drive()

    def _mask(self, masked: bool) -> None:
        self.masked = masked
        self._drive()

    def _drive(self) -> None:
        if self.level and not self.masked:
            self.masked = self.tell(INTX, 0)

    def _unmask_by(self, eventfd: int | None) -> None:
        before, self._unmasking = self._unmasking, eventfd
        if before is not None:
            self.pump.unregister(before)
            os.close(before)
        if eventfd is not None:
            os.set_blocking(eventfd, False)
            with suppress(OSError):  # what epoll does not take never unmasks
                self.pump.register(eventfd, partial(self._unmask, eventfd))

    def _unmask(self, eventfd: int, _events: int) -> None:
        try:
            whole = len(os.read(eventfd, 8)) == 8
        except BlockingIOError:
            return
        except OSError:
            whole = False
        if not whole:  # no eventfd: it would be reported again and again
            self._unmask_by(None)
        self._mask(False)
