"""Exits and posted writes in memory that the daemon shares: the vCPU's slot, its client's half.

Specification: docs/protocol.md, "Shared memory"; `include/mmiod_exit.h` does the same in C.

Each connection gets a memory of its own, so that nothing of an earlier daemon's is ever met in
it.  The daemon looks for a while before it sleeps, and so does this side; each tells the other
that it sleeps, and looks once more behind a full barrier.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import platform
import select
import socket
import struct
import sys
from time import monotonic_ns
from typing import Final, Self

from attrs import define, field

from mmiod.barrier import barrier
from mmiod.protocol.exit import shared
from mmiod.protocol.exit.table import NUMBERS
from mmiod.values import WRITE, Access, Space

OFFERED: Final = platform.machine() == "x86_64" and sys.byteorder == "little"
"""Elsewhere the order of stores is another one."""
SLOTS: Final = 1
"""There is one vCPU."""
PUBLISHED_BYTES: Final = 256 << 10
"""Room for all rows that a machine may have."""
PAGES_BYTES: Final = 32 << 12
"""Room for pages that the guest reads itself."""
SPIN_NS: Final = 50_000 if (os.cpu_count() or 1) > 1 else 0
"""How long to look for a completion before this side sleeps."""
FREE: Final = NUMBERS["shared_state"]["FREE"]
_SLOT: Final = shared.PAGE
_FLAG, _WORD = 4, 8
_SEALS: Final = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
_ENTRY: Final = struct.Struct("<QQBxHxxxx8x")
"""Of the ring: address, value, space, size; guest time is the daemon's."""


@define(eq=False)
class Slot:
    """The memory of one connection."""

    memfd: int
    mapping: mmap.mmap
    kick: int
    ear: select.epoll
    """The daemon puts an eventfd into it, by which it wakes this side."""
    serial: int = 0
    """Of the SHARE that tells of it."""
    usable: bool = False
    """The daemon has acknowledged it."""
    busy: bool = False
    """An exit is in it."""
    posted: int = 0
    """The last posted write, in the ring or not."""
    words: memoryview = field(init=False)
    _flags: memoryview = field(init=False)
    _heard: bool = False
    """The connection is in the ear, too."""

    def __attrs_post_init__(self) -> None:
        """Look at it as numbers, which are loaded and stored at once."""
        view = memoryview(self.mapping)
        self.words, self._flags = view.cast("Q"), view.cast("I")
        self._store(shared.POSTED, self.posted)

    @classmethod
    def create(cls, posted: int, published: int = 0) -> Self:
        """A new one, behind `posted` posted writes, with so many bytes for what is published."""
        length = shared.PAGE * (1 + SLOTS) + published
        memfd = os.memfd_create("mmiod-slots", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(memfd, length)
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
        kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        return cls(memfd, mmap.mmap(memfd, length), kick, select.epoll(), posted=posted)

    @property
    def length(self) -> int:
        """Bytes of the memory."""
        return len(self.mapping)

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What goes along with SHARE."""
        return self.memfd, self.kick, self.ear.fileno()

    def close(self) -> None:
        """Give it up; what looks at it keeps the memory."""
        for descriptor in (self.memfd, self.kick):
            os.close(descriptor)
        self.ear.close()

    # --- an exit -------------------------------------------------------------------------

    def takes(self, message: bytes) -> bool:
        """Whether an exit may go in."""
        return self.usable and len(message) <= shared.MAX_EXIT

    def put(self, message: bytes) -> None:
        """Hand an exit to the daemon."""
        at = _SLOT + shared.EXIT
        self.mapping[at : at + len(message)] = message
        self.busy = True
        self._set(shared.STATE, shared.READY)
        self._ring()

    @property
    def state(self) -> int:
        """A `shared_state`."""
        return self._flags[(_SLOT + shared.STATE) // _FLAG]

    def spin(self) -> int:
        """Look for a while whether the exit is answered: the state."""
        end = monotonic_ns() + SPIN_NS
        while (state := self.state) == shared.READY and monotonic_ns() < end:
            pass
        return state

    def sleep(self, other: socket.socket) -> int:
        """Wait until the exit is answered, or `other` can be read: the state."""
        if not self._heard:
            self.ear.register(other, select.EPOLLIN)
            self._heard = True
        self._set(shared.CLIENT_SLEEPS, 1)
        barrier()
        if self.state == shared.READY:
            self.ear.poll()
        self._set(shared.CLIENT_SLEEPS, 0)
        return self.state

    def take(self) -> bytes:
        """The completion; the slot is free then."""
        at = _SLOT + shared.COMPLETION
        size = min(self._flags[at // _FLAG], shared.MAX_COMPLETION)
        message = self.mapping[at : at + size]
        self.free()
        return message

    def free(self) -> None:
        """Take the exit back."""
        self._set(shared.STATE, FREE)
        self.busy = False

    # --- posted writes -------------------------------------------------------------------

    @property
    def applied(self) -> int:
        """The last posted write that the daemon has taken."""
        return self.words[(_SLOT + shared.APPLIED) // _WORD]

    @property
    def full(self) -> bool:
        """Whether the ring has no room."""
        return self.posted - self.applied >= shared.ENTRIES

    def post(self, sequence: int, access: Access) -> None:
        """Put a posted write into the ring."""
        at = self._entry(sequence)
        _ENTRY.pack_into(self.mapping, at, access.address, access.value, access.space, access.size)
        self.posted = sequence
        self._store(shared.POSTED, sequence)
        self._ring()

    def under_way(self) -> list[Access]:
        """Posted writes that the daemon has not taken yet, the last one first."""
        found = []
        for sequence in range(self.posted, self.applied, -1):
            address, value, space, size = _ENTRY.unpack_from(self.mapping, self._entry(sequence))
            found.append(Access(Space(space), WRITE, address, size, value))
        return found

    def _entry(self, sequence: int) -> int:
        return _SLOT + shared.RING + sequence % shared.ENTRIES * shared.ENTRY

    # --- words ---------------------------------------------------------------------------

    def _set(self, offset: int, value: int) -> None:
        self._flags[(_SLOT + offset) // _FLAG] = value

    def _store(self, offset: int, value: int) -> None:
        self.words[(_SLOT + offset) // _WORD] = value

    def _ring(self) -> None:
        self.mapping[shared.DOORBELLS] = self.mapping[shared.DOORBELLS] + 1 & 0xFF
        barrier()
        if self._flags[shared.DAEMON_SLEEPS // _FLAG]:
            os.eventfd_write(self.kick, 1)
