"""One vCPU's slot in shared memory: an exit is taken out of it, completed in place, and its client woken.

Whatever is in it is copied before it is looked at, so that a client that changes it meanwhile meets
the checks of any message.  A wake-up is a `send` that gives up: it never waits.

Who has completed exits owes their clients a look at whether they sleep, behind a full barrier: one
for all of a batch (`SharedMemory.poll`).
"""

from __future__ import annotations

import contextlib
import mmap
import socket
from typing import Final, Protocol

from attrs import define, field

from mmiod.attach.flat import DECODED, RAW, Flat
from mmiod.barrier import barrier
from mmiod.errors import ProtocolError
from mmiod.protocol.exit import NUMBERS, Ledger, shared
from mmiod.protocol.exit.codec import BY_NAME
from mmiod.protocol.exit.ledger import Book

ERROR: Final = NUMBERS["error"]
_WAKE: Final = b"\1"
_SEND: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_DECODED: Final = DECODED.struct.size
_RAW: Final = RAW.struct.size
_VALUES: Final = BY_NAME["VALUES"].struct.size
_DONE: Final = BY_NAME["DONE"].struct.size
_READY: Final = shared.READY
_COMPLETE: Final = shared.COMPLETE
_FLAG: Final = 4
"""Bytes of a flag or a state."""
_WORD: Final = 8


class Owner(Protocol):
    """The memory that the slot is in (`mmiod.attach.shared`)."""

    mapping: mmap.mmap
    words: memoryview
    flags: memoryview
    ledger: Ledger
    flat: Flat | None
    open: bool
    unsure: list[Slot]
    """Completed: their clients did not seem to sleep, as it looked without a barrier."""

    def take(self, slot: Slot, body: bytes, /) -> None:
        """Get an EXIT_* or POSTED, copied; may raise ProtocolError."""

    def failed(self, error: ProtocolError, /) -> None:
        """What is in a slot is no message."""


@define(eq=False)
class Slot:
    """One vCPU's page."""

    owner: Owner
    vcpu: int
    wake: socket.socket
    page: int = field(init=False)
    """Where it begins, in bytes."""
    _book: Book = field(init=False)
    _flags: memoryview = field(init=False)
    _words: memoryview = field(init=False)
    _mapping: mmap.mmap = field(init=False)
    _state: int = field(init=False)
    _sleeps: int = field(init=False)
    _posted: int = field(init=False)
    _applied: int = field(init=False)
    _size: int = field(init=False)
    _decoded: slice = field(init=False)
    """Where an exit of that size is."""
    _raw: slice = field(init=False)
    _values: slice = field(init=False)
    """Where a completion of that size goes."""
    _done: slice = field(init=False)
    _completion: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Where its words are; and what each exit would have to look up."""
        owner = self.owner
        self._book, self._mapping = owner.ledger.book(self.vcpu), owner.mapping
        self._flags, self._words = owner.flags, owner.words
        self.page = shared.PAGE * (1 + self.vcpu)
        self._state = (self.page + shared.STATE) // _FLAG
        self._sleeps = (self.page + shared.CLIENT_SLEEPS) // _FLAG
        self._posted = (self.page + shared.POSTED) // _WORD
        self._size = (self.page + shared.EXIT) // _FLAG
        exit_, self._completion = self.page + shared.EXIT, self.page + shared.COMPLETION
        self._decoded, self._raw = slice(exit_, exit_ + _DECODED), slice(exit_, exit_ + _RAW)
        self._values = slice(self._completion, self._completion + _VALUES)
        self._done = slice(self._completion, self._completion + _DONE)
        self._applied = (self.page + shared.APPLIED) // _WORD
        self._words[self._applied] = self._book.posted

    def look(self) -> None:
        """Take posted writes and the exit, if there are any: what is before an exit comes before it.

        A completed exit's client that did not seem to sleep is left in the owner's `unsure`.
        """
        owner, flags, book = self.owner, self._flags, self._book
        if owner.ledger.paused or not owner.open:
            return
        state = flags[self._state]  # before `posted`: what the exit is behind is there then
        posted = self._words[self._posted]
        try:
            if posted != book.posted:
                self._drain(posted)
            if state == _READY:
                self._exit(flags[self._size])
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

    def _exit(self, size: int) -> None:
        owner, flags = self.owner, self._flags
        flat = owner.flat
        if size == _DECODED and flat is not None:
            body, room = self._mapping[self._decoded], self._values
            reply = flat.decoded(self.vcpu, body, self)
        elif size == _RAW and flat is not None:
            body, room = self._mapping[self._raw], self._done
            reply = flat.raw(self.vcpu, body, self)
        else:
            owner.take(self, self._whole(size))
            return
        if reply is None:
            owner.take(self, body)
        elif reply and owner.open:  # else a device owes it; or the exit comes again, as a message
            self._mapping[room] = reply
            flags[self._state] = _COMPLETE
            if flags[self._sleeps]:
                self.wake_up()
            else:
                owner.unsure.append(self)
            if flat.settled:
                flat.flush()

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
        self._mapping[self._completion : self._completion + size] = reply
        self._end(shared.COMPLETE)

    def _end(self, state: int) -> None:
        """Hand the slot back, and wake a client that sleeps."""
        self._flags[self._state] = state
        barrier()
        self.wake_up()

    def wake_up(self) -> None:
        """Wake the client, if it sleeps."""
        if self._flags[self._sleeps]:
            # A full queue means that it has been woken; a broken one that nobody is there.
            with contextlib.suppress(OSError):
                self.wake.send(_WAKE, _SEND)

    def give_up(self) -> None:
        """The slots end: what waits in this one goes by message."""
        if self.owner.flags[self._state] == shared.READY:
            self._end(shared.BY_MESSAGE)
