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
import threading
from typing import Final, Protocol

from attrs import define, field

from mmiod.attach.flat import DECODED, RAW, Flat
from mmiod.errors import ProtocolError
from mmiod.protocol.exit import NUMBERS, Ledger, shared
from mmiod.protocol.exit.ledger import Book

ERROR: Final = NUMBERS["error"]
_WAKE: Final = b"\1"
_SEND: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_DECODED: Final = DECODED.struct.size
_RAW: Final = RAW.struct.size
_FLAG: Final = 4
"""Bytes of a flag or a state."""
_WORD: Final = 8

_barrier: Final = threading.Lock()
"""Taken and released it is a full barrier: no load behind it is done before all stores before it
are seen.  It is nobody else's lock, so that it is free: CPython's is then a semaphore, whose
`sem_trywait` and `sem_post` are LOCK-prefixed (SDM vol. 3, 8.2.2; a `trywait` that fails is not).
The litmus test in tests/attach loses wake-ups without it, and none with it."""
_acquire: Final = _barrier.acquire
_release: Final = _barrier.release


def barrier() -> None:
    """Let all stores be seen before the next load is done."""
    _acquire()
    _release()


class Owner(Protocol):
    """The memory that the slot is in (`mmiod.attach.shared`)."""

    mapping: mmap.mmap
    words: memoryview
    flags: memoryview
    ledger: Ledger
    flat: Flat | None
    open: bool

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
    _mapping: mmap.mmap = field(init=False)
    _state: int = field(init=False)
    _sleeps: int = field(init=False)
    _posted: int = field(init=False)
    _size: int = field(init=False)
    _decoded: slice = field(init=False)
    """Where an exit of that size is."""
    _completion: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Where its words are; and what each exit would have to look up."""
        owner = self.owner
        self._book, self._flags, self._mapping = owner.ledger.book(self.vcpu), owner.flags, owner.mapping
        self.page = shared.PAGE * (1 + self.vcpu)
        self._state = (self.page + shared.STATE) // _FLAG
        self._sleeps = (self.page + shared.CLIENT_SLEEPS) // _FLAG
        self._posted = (self.page + shared.POSTED) // _WORD
        self._size = (self.page + shared.EXIT) // _FLAG
        self._decoded = slice(self.page + shared.EXIT, self.page + shared.EXIT + _DECODED)
        self._completion = self.page + shared.COMPLETION
        owner.words[(self.page + shared.APPLIED) // _WORD] = self._book.posted

    def look(self) -> bool:
        """Take posted writes and the exit, if there are any: what is before an exit comes before it.

        Whether the exit is complete and `wake_up` is due, behind a barrier: its client did not
        seem to sleep.
        """
        owner, flags = self.owner, self._flags
        if owner.ledger.paused or not owner.open:
            return False
        state = flags[self._state]  # before `posted`: what the exit is behind is there then
        posted = owner.words[self._posted]
        try:
            if posted != self._book.posted:
                self._drain(posted)
            return state == shared.READY and self._exit()
        except ProtocolError as error:
            if error.fatal:
                owner.failed(error)
            else:
                self._end(shared.BY_MESSAGE)  # and the message is refused
        return False

    def take_posted(self) -> None:
        """Take posted writes only."""
        owner = self.owner
        posted = owner.words[self._posted]
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
            owner.words[(self.page + shared.APPLIED) // _WORD] = sequence

    def _exit(self) -> bool:
        owner, flat, flags, reply = self.owner, self.owner.flat, self._flags, None
        size = flags[self._size]
        if size == _DECODED:
            body = self._mapping[self._decoded]
            if flat is not None:
                reply = flat.decoded(self.vcpu, body, self)
        elif size <= shared.MAX_EXIT:
            at = self._decoded.start
            body = self._mapping[at : at + size]
            if flat is not None and size == _RAW:
                reply = flat.raw(self.vcpu, body, self)
        else:
            reason = f"a slot has room for {shared.MAX_EXIT}"
            raise ProtocolError(ERROR["RANGE"], "shared_slot.exit.size", size, reason)
        if reply is None:
            owner.take(self, body)
            return False
        if not reply or not owner.open:  # a device owes it; or the exit comes again, as a message
            return False
        self._mapping[self._completion : self._completion + len(reply)] = reply
        flags[self._state] = shared.COMPLETE
        asleep = flags[self._sleeps]
        if asleep:
            self.wake_up()
        if flat is not None:
            flat.settle()
        return not asleep

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
