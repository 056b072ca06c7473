"""One vCPU's slot in shared memory: an exit is taken out of it, completed in place, and its client woken.

Whatever is in it is copied before it is looked at, so that a client that changes it meanwhile meets
the checks of any message; of a decoded read that comes again each word is loaded once.  A wake-up is
a write to an eventfd that nobody else has, so that it never waits.

Who has completed exits owes their clients a look at whether they sleep, behind a full barrier: one
for all of a batch (`SharedMemory.poll`).

Budget of a read that comes again, in ns, compiled (in brackets as Python): 900 (2100)
by `make bench ARGS="--only in-process"`, of which about

     30  (125)  the bells: whether one rang
     30  (110)  state, posted writes
     70   (90)  which read it is: the key is copied, and found
    340  (590)  the read, with its record (`mmiod.core.lane`)
     70  (130)  what the book keeps of it
     20  (220)  the completion, in words
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Final

from mmiod.attach.flat import (
    ASKED,
    DECODED,
    DECODED_HEAD,
    RAW,
    VALUES_HEAD,
    Flat,
    asked_and_told,
    asked_message,
)
from mmiod.attach.loads import CODE, DONE_GPR, DONE_HEAD, DONE_RIP, KEEP, RIP, Load, loaded_and_told
from mmiod.attach.moved import ENVIRONMENT
from mmiod.barrier import barrier
from mmiod.device import Pending
from mmiod.errors import ProtocolError
from mmiod.protocol.exit import NO_DEADLINE, NUMBERS, Ledger, shared

ERROR: Final = NUMBERS["error"]
_signal: Final = os.eventfd_write
_DECODED: Final = DECODED.struct.size
_RAW: Final = RAW.struct.size
_READY: Final = shared.READY
_COMPLETE: Final = shared.COMPLETE
Take = Callable[["Slot", bytes], None]
Failed = Callable[[ProtocolError], None]

_FLAG: Final = 4
"""Bytes of a flag or a state."""
_WORD: Final = 8
_NO_REGISTERS: Final = bytes((DONE_RIP - DONE_GPR) * _WORD)
_SIZE: Final = 0xFFFF_FFFF
"""Of a message's first word."""


class Shared:
    """What the slots of a session share.  A plain class: `mmiod.compiled` makes a C structure of it.

    Args:
        mapping: the memory.
        ledger: the session's.
        take: gets a slot and an EXIT_* or POSTED, copied; may raise ProtocolError.
        failed: what is in a slot is no message.
    """

    def __init__(self, mapping: mmap.mmap, ledger: Ledger, take: Take, failed: Failed) -> None:
        self.mapping, self.ledger, self.take, self.failed = mapping, ledger, take, failed
        self.flat: Flat | None = None
        """Once the machine is on, and time is the host's."""
        self.open = True
        self.unsure: list[Slot] = []
        """Completed: their clients did not seem to sleep, as it looked without a barrier."""
        view = memoryview(mapping)
        self.words, self.flags = view.cast("Q"), view.cast("I")  # of the machine's order: stored at once


class Slot:
    """One vCPU's page.  A plain class: `mmiod.compiled` makes a C structure of it.

    Places in it are numbers of words; a message's slices are of bytes.
    """

    def __init__(self, owner: Shared, vcpu: int, wake: int) -> None:
        self.owner, self.vcpu = owner, vcpu
        self.wake = wake
        """An eventfd in the client's ear; -1 once nobody can wait for it."""
        self.page = page = shared.PAGE * (1 + vcpu)
        """Where it begins, in bytes."""
        self._book, self._mapping = owner.ledger.book(vcpu), owner.mapping
        self._flags, self._words = owner.flags, owner.words
        self._state = (page + shared.STATE) // _FLAG
        self._sleeps = (page + shared.CLIENT_SLEEPS) // _FLAG
        self._posted, self._applied = (page + shared.POSTED) // _WORD, (page + shared.APPLIED) // _WORD
        exit_, completion = page + shared.EXIT, page + shared.COMPLETION
        self._exit, self._completion = exit_ // _WORD, completion // _WORD
        self._decoded, self._raw = slice(exit_, exit_ + _DECODED), slice(exit_, exit_ + _RAW)
        self._asked = slice(exit_ + ASKED.start, exit_ + ASKED.stop)
        self._copy = bytearray(_RAW)
        """Of an EXIT_RAW, to be looked at as words."""
        self._copied = memoryview(self._copy).cast("Q")
        self._rip = RIP  # a number of C, where it is compiled
        self._registers = slice(completion + DONE_GPR * _WORD, completion + DONE_RIP * _WORD)
        self._last: Load | None = None
        """Whose completion is there."""
        self._words[self._applied] = self._book.posted

    def look(self) -> None:
        """Take posted writes and the exit, if there are any: what is before an exit comes before it.

        A completed exit's client that did not seem to sleep is left in the owner's `unsure`.
        """
        owner, flags, book = self.owner, self._flags, self._book
        state = flags[self._state]  # before `posted`: what the exit is behind is there then
        if owner.ledger.paused or not owner.open:  # nor does a C compiler swap the two across a call
            return
        posted = self._words[self._posted]
        try:
            if posted != book.posted:
                self._drain(posted)
            if state == _READY:
                self._do()
        except ProtocolError as error:
            if error.fatal:
                owner.failed(error)
            else:
                self._end(shared.BY_MESSAGE)  # and the message is refused

    def take_posted(self) -> None:
        """Take posted writes only."""
        owner = self.owner
        posted = self._words[self._posted]
        if posted != self._book.posted and not owner.ledger.paused and owner.open:
            try:
                self._drain(posted)
            except ProtocolError as error:
                owner.failed(error)

    def _drain(self, posted: int) -> None:
        owner, vcpu, book = self.owner, self.vcpu, self._book
        shared.check_ring(vcpu, book.posted, posted)
        for sequence in range(book.posted + 1, posted + 1):
            at = self.page + shared.RING + sequence % shared.ENTRIES * shared.ENTRY
            entry = self._mapping[at : at + shared.ENTRY]
            if owner.flat is None or not owner.flat.posted(vcpu, sequence, entry):
                owner.take(self, shared.posted_message(vcpu, sequence, entry))
            self._words[self._applied] = sequence

    def _do(self) -> None:
        """Take the exit."""
        owner = self.owner
        flat = owner.flat
        size = self._words[self._exit] & _SIZE
        if size == _DECODED and flat is not None:
            if not self._ask_again(flat):
                body = self._mapping[self._decoded]
                self._done(flat, body, flat.decoded(self.vcpu, body, self))
        elif size == _RAW and flat is not None:
            if not self._load_again(flat):
                body = self._mapping[self._raw]
                self._done(flat, body, flat.raw(self.vcpu, body, self))
        else:
            owner.take(self, self._whole(size))

    def _done(self, flat: Flat, body: bytes, reply: bytes | None) -> None:
        if reply is None:
            self.owner.take(self, body)
        elif reply and self.owner.open:  # else a device owes it; or the exit comes again, as a message
            at = self._completion * _WORD
            self._mapping[at : at + len(reply)] = reply
            self._last = None
            self._complete(flat)

    def _complete(self, flat: Flat) -> None:
        self._flags[self._state] = _COMPLETE
        if self._flags[self._sleeps]:
            self.wake_up()
        else:
            self.owner.unsure.append(self)
        if flat.settled:
            flat.flush()

    # --- reads that come again: their client may change them, so a word is loaded once, or it is a copy's ---

    def _ask_again(self, flat: Flat) -> bool:
        """EXIT_DECODED of a read that is known; False if nothing was done."""
        words, at, book, vcpu = self._words, self._exit, self._book, self.vcpu
        asked = self._mapping[self._asked]
        place, sequence = flat.asked.get(asked), book.sequence + 1
        if (
            place is None
            or words[at] != DECODED_HEAD
            or words[at + 1] != vcpu
            or words[at + 2] != sequence
            or book.in_flight
            or vcpu in flat.current
        ):
            return False
        value = flat.lane.read(place, vcpu, sequence, -1)
        if isinstance(value, Pending):
            flat.owe_decoded(book, asked_message(vcpu, sequence, asked), place, self)
            return True
        if value < 0:
            return False
        who, posted, to = flat.who(vcpu), book.posted, self._completion
        words[to], words[to + 1], words[to + 2], words[to + 3] = VALUES_HEAD, who, sequence, posted
        words[to + 4], words[to + 5], words[to + 6], words[to + 7] = 0, NO_DEADLINE, value, place.size
        self._last = None
        book.tell(sequence, (asked_and_told, vcpu, asked, who, sequence, posted, value, place.size))
        flat.taken.decoded += 1
        if self.owner.open:
            self._complete(flat)
        return True

    def _load_again(self, flat: Flat) -> bool:
        """EXIT_RAW of a load that is known (`mmiod.attach.loads`); False if nothing was done."""
        book, vcpu, exit_ = self._book, self.vcpu, self._copied
        body = self._mapping[self._raw]  # first: all of it comes from the client's CPU at once
        load, sequence = flat.loads.get(body[CODE]), book.sequence + 1
        if load is None or book.in_flight or vcpu in flat.current:
            return False
        self._copy[:] = body
        rip, rflags = exit_[self._rip], exit_[self._rip + 1]
        if not load.holds(exit_, 0, vcpu, sequence, rip, rflags, body[ENVIRONMENT]):
            return False
        value = flat.lane.read(load.place, vcpu, sequence, rip)
        if isinstance(value, Pending):
            flat.owe_raw(book, body, load.move, load.place, self)
            return True
        if value < 0:
            return False
        words, who, posted, to = self._words, flat.who(vcpu), book.posted, self._completion
        rip, rflags = load.behind(rip), rflags & KEEP
        if self._last is not load:  # another message was there: what did not change is 0
            self._mapping[self._registers] = _NO_REGISTERS
            self._last = load
        words[to], words[to + 1], words[to + 2], words[to + 3] = DONE_HEAD, who, sequence, posted
        words[to + 4], words[to + 5], words[to + load.target] = 0, NO_DEADLINE, value
        to += DONE_RIP
        words[to], words[to + 1], words[to + 2] = rip, rflags, load.changed
        book.tell(sequence, (loaded_and_told, load, body, who, posted, value))
        flat.taken.raw += 1
        if self.owner.open:
            self._complete(flat)
        return True

    def _whole(self, size: int) -> bytes:
        if size > shared.MAX_EXIT:
            reason = f"a slot has room for {shared.MAX_EXIT}"
            raise ProtocolError(ERROR["RANGE"], "shared_slot.exit.size", size, reason)
        return self._mapping[self._decoded.start : self._decoded.start + size]

    def send(self, reply: bytes) -> None:
        """Complete the exit; a completion that does not fit is fetched by a message."""
        if not self.owner.open:
            return  # the exit comes again, as a message
        size = len(reply)
        if size > shared.MAX_COMPLETION:
            self._end(shared.BY_MESSAGE)
            return
        at = self._completion * _WORD
        self._mapping[at : at + size] = reply
        self._last = None
        self._end(shared.COMPLETE)

    def _end(self, state: int) -> None:
        """Hand the slot back, and wake a client that sleeps."""
        self._flags[self._state] = state
        barrier()
        self.wake_up()

    def wake_up(self) -> None:
        """Wake the client, if it sleeps."""
        if self._flags[self._sleeps] and self.wake >= 0:
            _signal(self.wake, 1)

    def give_up(self) -> None:
        """The slots end: what waits in this one goes by message."""
        if self.owner.flags[self._state] == shared.READY:
            self._end(shared.BY_MESSAGE)
