"""Exits in memory that the client shares: taken out of slots, completed in place.

A slot belongs to one vCPU.  Whatever is in it is copied before it is looked at, so that a client
that changes it meanwhile meets the checks of any message.  Descriptors that are the client's too
are never used in a way that could wait: the kick is only polled, a wake-up is a `send` that gives up.

The two sides sleep by Dekker's pattern: each sets its flag (or its news), and looks at the other's
news (or its flag) behind a full barrier.  Python has none; `_barrier` says what serves.  The
order of other stores is that of x86 (TSO), without which SHARED_MEMORY is not offered.
"""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import platform
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from typing import Final

from attrs import define, field

from mmiod.attach.flat import DECODED, RAW, Flat
from mmiod.core.pump import Pump
from mmiod.core.spin import Spin
from mmiod.errors import ProtocolError
from mmiod.protocol.exit import NUMBERS, Ledger, Share, shared
from mmiod.protocol.exit.ledger import Book

ERROR: Final = NUMBERS["error"]
OFFERED: Final = platform.machine() == "x86_64" and sys.byteorder == "little"
_WAKE: Final = b"\1"
_SEND: Final = socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL
_DECODED: Final = DECODED.struct.size
_RAW: Final = RAW.struct.size
_FLAG: Final = 4
"""Bytes of a flag or a state."""
_WORD: Final = 8
_BELLS: Final = shared.DOORBELLS // _WORD
_FIRST: Final = 1 << 8

_barrier: Final = threading.Lock()
"""Taken and released it is a full barrier: no load behind it is done before all stores before it
are seen.  It is nobody else's lock, so that it is free: CPython's is then a semaphore, whose
`sem_trywait` and `sem_post` are LOCK-prefixed (SDM vol. 3, 8.2.2; a `trywait` that fails is not).
The litmus test in tests/attach loses wake-ups without it, and none with it."""
_acquire: Final = _barrier.acquire
_release: Final = _barrier.release

Take = Callable[["Slot", bytes], None]
"""Gets an EXIT_* or POSTED, copied; may raise ProtocolError."""
Failed = Callable[[ProtocolError], None]


@define(eq=False)
class Slot:
    """One vCPU's page."""

    owner: SharedMemory
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

    def __attrs_post_init__(self) -> None:
        """Where its words are; and what each exit would have to look up."""
        owner = self.owner
        self._book, self._flags, self._mapping = owner.ledger.book(self.vcpu), owner.flags, owner.mapping
        self.page = shared.PAGE * (1 + self.vcpu)
        self._state = (self.page + shared.STATE) // _FLAG
        self._sleeps = (self.page + shared.CLIENT_SLEEPS) // _FLAG
        self._posted = (self.page + shared.POSTED) // _WORD
        self._size = (self.page + shared.EXIT) // _FLAG
        owner.words[(self.page + shared.APPLIED) // _WORD] = self._book.posted

    def look(self) -> None:
        """Take posted writes and the exit, if there are any: what is before an exit comes before it."""
        owner = self.owner
        if owner.ledger.paused or not owner.open:
            return
        state = self._flags[self._state]  # before `posted`: what the exit is behind is there then
        posted = owner.words[self._posted]
        try:
            if posted != self._book.posted:
                self._drain(posted)
            if state == shared.READY:
                self._exit()
        except ProtocolError as error:
            if error.fatal:
                owner.failed(error)
            else:
                self._end(shared.BY_MESSAGE)  # and the message is refused

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

    def _exit(self) -> None:
        owner, at = self.owner, self.page + shared.EXIT
        size = self._flags[self._size]
        if size > shared.MAX_EXIT:
            reason = f"a slot has room for {shared.MAX_EXIT}"
            raise ProtocolError(ERROR["RANGE"], "shared_slot.exit.size", size, reason)
        body = self._mapping[at : at + size]
        flat = owner.flat
        if flat is not None:
            if size == _DECODED:
                if flat.decoded(self.vcpu, body, self):
                    return
            elif size == _RAW and flat.raw(self.vcpu, body, self):
                return
        owner.take(self, body)

    def send(self, reply: bytes) -> None:
        """Complete the exit; a completion that does not fit is fetched by a message."""
        if not self.owner.open:
            return  # the exit comes again, as a message
        size = len(reply)
        if size > shared.MAX_COMPLETION:
            self._end(shared.BY_MESSAGE)
            return
        at = self.page + shared.COMPLETION
        self._mapping[at : at + size] = reply
        self._end(shared.COMPLETE)

    def _end(self, state: int) -> None:
        """Hand the slot back, and wake a client that sleeps."""
        flags = self._flags
        flags[self._state] = state
        _acquire()
        _release()
        if flags[self._sleeps]:
            # A full queue means that it has been woken; a broken one that nobody is there.
            with contextlib.suppress(OSError):
                self.wake.send(_WAKE, _SEND)

    def give_up(self) -> None:
        """The slots end: what waits in this one goes by message."""
        if self.owner.flags[self._state] == shared.READY:
            self._end(shared.BY_MESSAGE)


@define(eq=False)
class SharedMemory:
    """The slots of a session, as a source of the pump."""

    mapping: mmap.mmap
    kick: int
    ledger: Ledger
    pump: Pump
    spin: Spin
    take: Take
    failed: Failed
    slots: Sequence[Slot] = ()
    flat: Flat | None = None
    """Once the machine is on, and time is the host's."""
    open: bool = True
    ordered: bool = False
    """vCPUs see what was published of each other's posted writes."""
    words: memoryview = field(init=False)
    flags: memoryview = field(init=False)
    _bells: range = field(init=False)
    """The words that hold a vCPU's bell, eight each."""
    _heard: dict[int, int] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        """Look at the memory as numbers of the machine's order and size, which are stored at once."""
        view = memoryview(self.mapping)
        self.words, self.flags = view.cast("Q"), view.cast("I")

    def start(self, wakes: Sequence[socket.socket]) -> None:
        """Take what comes; what is there already is for `look`.

        Raises:
            OSError: the kick is no eventfd.
        """
        self.slots = [Slot(self, vcpu, wake) for vcpu, wake in enumerate(wakes)]
        self._bells = range(_BELLS, _BELLS + -(-len(wakes) // _WORD))
        self._heard = {index: self.words[index] for index in self._bells}
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
        for slot in self.slots:
            slot.look()

    def catch_up(self, vcpu: int) -> None:
        """Take what is in a vCPU's slot: it came before the message at hand."""
        if self.ordered:
            for slot in self.slots:
                slot.take_posted()
        self.slots[vcpu].look()

    def poll(self) -> bool:
        """Look at the slots whose bells rang since the last time; whether one did."""
        words, heard, rang = self.words, self._heard, False
        if self.ordered:
            return self._poll_in_order()
        for index in self._bells:
            bells = words[index]
            changed = bells ^ heard[index]
            if changed:
                heard[index], rang = bells, True
                if changed < _FIRST:  # of eight; the usual, where a VM has one vCPU
                    self.slots[_WORD * (index - _BELLS)].look()
                else:
                    for slot in self._rung(index, changed):
                        slot.look()
        return rang

    def _poll_in_order(self) -> bool:
        """The same; what any vCPU posted before another one's exit is taken before that."""
        heard = self._heard
        now = {index: self.words[index] for index in self._bells}
        if now == heard:
            return False
        for index in self._bells:  # what was posted before one of those bells rang has rung by now
            for slot in self._rung(index, self.words[index] ^ heard[index]):
                slot.take_posted()
        self._heard = now
        for index, bells in now.items():
            for slot in self._rung(index, bells ^ heard[index]):
                slot.look()
        return True

    def _rung(self, index: int, changed: int) -> list[Slot]:
        """Whose bytes of this word of bells differ."""
        first = _WORD * (index - _BELLS)
        slots = enumerate(self.slots[first : first + _WORD])
        return [slot for number, slot in slots if changed >> 8 * number & 0xFF]

    def park(self) -> bool:
        """Ask for the kick; False if a bell rang meanwhile."""
        self.flags[shared.DAEMON_SLEEPS // _FLAG] = 1
        _acquire()
        _release()
        if all(self.words[index] == self._heard[index] for index in self._bells):
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
        for slot in self.slots:
            slot.give_up()
        self.open = False
        self.pump.dismiss(self, self.kick)
        os.close(self.kick)
        for slot in self.slots:
            slot.wake.close()


def share(
    request: Share, descriptors: Sequence[int], ledger: Ledger, pump: Pump, take: Take, failed: Failed
) -> SharedMemory:
    """Use what a client shares; the descriptors stay the caller's.

    Raises:
        ProtocolError: naming the field.
    """
    shared.check_share(request, ledger.vcpus)
    memfd, kick, *ends = descriptors
    with contextlib.ExitStack() as taken:
        try:
            mapping = _mapped(memfd, request.length)
            wakes = [taken.enter_context(socket.socket(fileno=os.dup(end))) for end in ends]
            owned = os.dup(kick)
            taken.callback(os.close, owned)
            found = SharedMemory(mapping, owned, ledger, pump, Spin(pump.spin_ns), take, failed)
            found.start(wakes)
        except (OSError, ValueError) as error:
            reason = f"a sealed memfd, an eventfd and sockets are needed: {error}"
            raise ProtocolError(
                ERROR["DESCRIPTOR"], "share.length", request.length, reason, subject=request.serial
            ) from error
        taken.pop_all()
    return found


def _mapped(memfd: int, length: int) -> mmap.mmap:
    if not fcntl.fcntl(memfd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK:
        raise OSError("F_SEAL_SHRINK is missing")
    return mmap.mmap(memfd, length)
