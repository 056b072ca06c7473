"""Loads that come again: the same instruction at the same guest-physical address.

A driver polls a register by one load in a loop.  What `mmiod.attach.moved` found out about the first
one holds for the next if the few things that went into it are as before: the code, the environment,
the base register, and in which part of its segment RIP is.  Everything else is left to `moved`,
before anything was done.
"""

from __future__ import annotations

import struct
from typing import Final

from mmiod.attach.moved import ENVIRONMENT, head_of
from mmiod.core.moves import HIGH_HALF, LOW_HALF, PAGE, SLOW_FLAGS, Move
from mmiod.core.places import Place
from mmiod.protocol.exit import NO_DEADLINE
from mmiod.protocol.exit.codec import BY_NAME
from mmiod.values import READ
from mmiod.x86.flags import RF

CODE: Final = slice(32, 72)
"""Of EXIT_RAW: GPA, GVA, intent, code and its length, CPL."""
SEQUENCE: Final = 2
"""Of EXIT_RAW, in words."""
GPR: Final = 9
"""Of EXIT_RAW, in words: where the registers begin; behind them are RIP, RFLAGS and CR0."""
RIP: Final = GPR + 16
CR0: Final = RIP + 2
DONE_HEAD: Final = head_of(BY_NAME["DONE"])
DONE_GPR: Final = 6
"""Of DONE, in words."""
DONE_RIP: Final = BY_NAME["DONE"].struct.size // 8 - 3
"""RIP, RFLAGS, which registers changed."""
KEEP: Final = ~RF


class Load:
    """One of a whole register, by way of a base register.  A plain class: `mmiod.compiled` makes a C
    structure of it.

    Attributes:
        header: the first word of the message: its flags are in it.
        base: where the base register is in EXIT_RAW, in words, and `held` what it held.
        low, high: RIP is at least the one, and at most the other.
        target: where the register that is loaded is in DONE, in words, and `changed` its bit.
    """

    def __init__(self, move: Move, body: bytes, place: Place) -> None:
        self.move, self.place = move, place
        self.environment = body[ENVIRONMENT]
        words = memoryview(body).cast("Q")
        self.base = GPR + move.base
        self.header, self.held = words[0], words[self.base]
        self.low, self.high = _around(move, words[RIP])
        self.cr0, self.length, self.rip_mask = move.cr0, move.length, move.rip_mask
        self.target, self.changed = DONE_GPR + move.number, 1 << move.number
        after = DONE_RIP - self.target - 1
        self._reply = struct.Struct(f"<6Q{8 * move.number}xQ{8 * after}x3Q").pack

    def holds(
        self,
        words: memoryview,
        at: int,
        vcpu: int,
        sequence: int,
        rip: int,
        rflags: int,
        environment: bytes,
    ) -> bool:
        """Whether the EXIT_RAW at `at` is the next one of a vCPU, and this load again.

        `rip` and `rflags` are its own, and looked at by whoever does it.
        """
        return (
            words[at] == self.header
            and words[at + 1] == vcpu
            and words[at + 2] == sequence
            and words[at + self.base] == self.held
            and self.low <= rip <= self.high
            and not rflags & SLOW_FLAGS
            and words[at + CR0] == self.cr0
            and environment == self.environment
        )

    def behind(self, rip: int) -> int:
        """RIP when it is done."""
        return rip + self.length & self.rip_mask

    def told(
        self, body: bytes, who: int, sequence: int, posted: int, value: int, rip: int, rflags: int
    ) -> tuple[bytes, bytes]:
        """Exit and reply: DONE; `who` is the vCPU, and the interrupt above."""
        reply = self._reply(
            DONE_HEAD, who, sequence, posted, 0, NO_DEADLINE, value, rip, rflags, self.changed
        )
        return body, reply


def loaded_and_told(load: Load, body: bytes, who: int, posted: int, value: int) -> tuple[bytes, bytes]:
    """Exit and reply of one that came again: what else is in the reply is in the exit."""
    words = memoryview(body).cast("Q")
    rip, rflags = words[RIP], words[RIP + 1]
    return load.told(body, who, words[SEQUENCE], posted, value, load.behind(rip), rflags & KEEP)


def load_of(move: Move, body: bytes, place: Place) -> Load | None:
    """What an exit that is plain will be when it comes again, if that can be told so easily."""
    whole = not (move.part or move.extended) and move.number >= 0
    if move.direction != READ or not whole or move.base < 0 or move.index >= 0 or move.relative:
        return None
    return Load(move, body, place)


def _around(move: Move, rip: int) -> tuple[int, int]:
    """The part of the address space in which RIP is: first and last."""
    if not move.wide:
        return 0, move.code_end - 1
    return (HIGH_HALF, (1 << 64) - 1) if rip >= HIGH_HALF else (0, LOW_HALF - PAGE - 1)
