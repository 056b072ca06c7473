"""Exits in memory that the client shares: taken out of slots, completed in place.

A slot belongs to one vCPU (`vcpu_slot.py`).  Descriptors that are the client's too are never used in
a way that could wait: the kick is only polled, and what wakes a client is an eventfd of ours in an epoll of
its (its ear): the client hears it, and has no descriptor of it.

The two sides sleep by Dekker's pattern: each sets its flag (or its news), and looks at the other's
news (or its flag) behind a full barrier.  Python has none; `mmiod.barrier` says what serves.  The
order of other stores is that of x86 (TSO), without which SHARED_MEMORY is not offered.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import platform
import select
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from mmiod.attach.vcpu_slot import Failed, Shared, Slot, Take
from mmiod.barrier import barrier
from mmiod.core.pump import Pump
from mmiod.core.spin import Spin
from mmiod.errors import ProtocolError
from mmiod.protocol.exit import NUMBERS, Ledger, Share, shared

ERROR: Final = NUMBERS["error"]
OFFERED: Final = platform.machine() == "x86_64" and sys.byteorder == "little"
_FLAG: Final = 4
"""Bytes of a flag."""
_WORD: Final = 8
UNSURE: Final = 16
"""Exits in a row after which their clients' sleep is looked at again."""


class SharedMemory(Shared):
    """The slots of a session, as a source of the pump."""

    def __init__(
        self,
        mapping: mmap.mmap,
        kick: int,
        ledger: Ledger,
        pump: Pump,
        spin: Spin,
        take: Take,
        failed: Failed,
    ) -> None:
        super().__init__(mapping, ledger, take, failed)
        self.kick, self.pump, self.spin = kick, pump, spin
        self.slots: Sequence[Slot] = ()
        self.ordered = False
        """vCPUs see what was published of each other's posted writes."""
        self._bells = slice(0, 0)
        """The bytes that are the vCPUs' bells."""
        self._heard = b""

    def start(self, wakes: Sequence[int]) -> None:
        """Take what comes; what is there already is for `look`.

        Raises:
            OSError: the kick is no eventfd.
        """
        self.slots = [Slot(self, vcpu, wake) for vcpu, wake in enumerate(wakes)]
        self._bells = slice(shared.DOORBELLS, shared.DOORBELLS + len(wakes))
        self._heard = self.mapping[self._bells]
        self.pump.attend(self, self.kick)

    def published(self) -> memoryview | None:
        """What is behind the slots, as words for the published registers; None if it is too little.

        The client learns where they are.
        """
        offset = shared.PAGE * (1 + len(self.slots))
        length = len(self.mapping) - offset & -shared.PAGE
        self.words[shared.PUBLISHED_OFFSET // _WORD] = offset if length else 0
        self.words[shared.PUBLISHED_OFFSET // _WORD + 1] = length
        self.ordered = len(self.slots) > 1
        return self.words[offset // _WORD : (offset + length) // _WORD] if length else None

    def look(self) -> None:
        """Look at every slot, whether or not its bell rang: at first, and after a pause."""
        self._look_at(self.slots)

    def catch_up(self, vcpu: int) -> None:
        """Take what is in a vCPU's slot: it came before the message at hand."""
        if self.ordered:
            for slot in self.slots:
                slot.take_posted()
        self._look_at((self.slots[vcpu],))

    def poll(self, looks: int) -> bool:
        """Look so many times at the slots whose bells rang since the last one; whether one did.

        What any vCPU posted before another one's exit is taken before that.
        """
        rang = False
        while looks > 0 and self.open:
            looks -= 1
            if self._poll():
                rang = True
        return rang

    def _poll(self) -> bool:
        bells = self.mapping[self._bells]
        heard = self._heard
        if bells == heard:
            if self.unsure:
                self._make_sure()
            return False
        if self.ordered:  # what was posted before one of those bells rang has rung by now
            for slot in self._rung(heard, self.mapping[self._bells]):
                slot.take_posted()
        self._heard = bells
        for slot in self.slots if len(bells) == 1 else self._rung(heard, bells):
            slot.look()
        if len(self.unsure) >= UNSURE:
            self._make_sure()
        return True

    def _rung(self, heard: bytes, bells: bytes) -> Sequence[Slot]:
        return [slot for slot, was, now in zip(self.slots, heard, bells, strict=True) if was != now]

    def _look_at(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            slot.look()
        self._make_sure()

    def _make_sure(self) -> None:
        """Wake clients that fell asleep while their exits were completed: behind a barrier it shows.

        One serves for several exits, and has time until there is nothing else to do.
        """
        unsure, self.unsure = self.unsure, []
        barrier()
        for slot in unsure:
            slot.wake_up()

    def park(self) -> bool:
        """Ask for the kick; False if a bell rang meanwhile."""
        self.flags[shared.DAEMON_SLEEPS // _FLAG] = 1
        self._make_sure()
        if self.mapping[self._bells] == self._heard:
            return True
        self.rouse()
        return False

    def rouse(self) -> None:
        """The kick is not needed."""
        self.flags[shared.DAEMON_SLEEPS // _FLAG] = 0

    def close(self) -> None:
        """Stop using the memory; exits that wait in it go by message."""
        if not self.open:
            return
        self._make_sure()
        for slot in self.slots:
            slot.give_up()
        self.open = False
        self.pump.dismiss(self, self.kick)
        os.close(self.kick)

    def silence(self) -> None:
        """Nobody waits any more for what the slots' end woke: closing that takes a wake-up back."""
        for slot in self.slots:
            wake, slot.wake = slot.wake, -1
            os.close(wake)


def share(
    request: Share, descriptors: Sequence[int], ledger: Ledger, pump: Pump, take: Take, failed: Failed
) -> SharedMemory:
    """Use what a client shares; the descriptors stay the caller's.

    Raises:
        ProtocolError: naming the field.
    """
    shared.check_share(request, ledger.vcpus)
    memfd, kick, *ears = descriptors
    with contextlib.ExitStack() as taken:
        try:
            mapping = _mapped(memfd, request.length)
            _check_kind(kick, "eventfd")
            wakes = [_waking(ear, taken) for ear in ears]
            owned = os.dup(kick)
            taken.callback(os.close, owned)
            found = SharedMemory(mapping, owned, ledger, pump, Spin(pump.spin_ns), take, failed)
            found.start(wakes)
        except (OSError, ValueError) as error:
            reason = f"a sealed memfd, an eventfd and epolls are needed: {error}"
            raise ProtocolError(
                ERROR["DESCRIPTOR"], "share.length", request.length, reason, subject=request.serial
            ) from error
        taken.pop_all()
    return found


def _mapped(memfd: int, length: int) -> mmap.mmap:
    if not fcntl.fcntl(memfd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise OSError("F_SEAL_SHRINK is missing")
    return mmap.mmap(memfd, length)


def _check_kind(descriptor: int, kind: str) -> None:
    """An epoll for the kick would have the pump's wait for a lock that a client can hold."""
    found = str(Path(f"/proc/self/fd/{descriptor}").readlink())
    if found != f"anon_inode:[{kind}]":
        raise OSError(f"{found} is no {kind}")


def _waking(ear: int, taken: contextlib.ExitStack) -> int:
    """An eventfd that a client's ear hears, edge-triggered: each write is one wake-up, and is never read.

    It wakes who listens already: that may have missed the end of the slots before these.
    """
    _check_kind(ear, "eventpoll")
    wake = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    taken.callback(os.close, wake)
    with select.epoll.fromfd(os.dup(ear)) as epoll:
        epoll.register(wake, select.EPOLLIN | select.EPOLLET)
    return wake
