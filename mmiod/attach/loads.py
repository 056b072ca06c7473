"""Loads that come again: the same instruction at the same guest-physical address.

A driver polls a register by one load in a loop.  What `mmiod.attach.moved` found out about the first
one holds for the next if the few things that went into it are as before: the code, the environment,
the base register, and in which part of its segment RIP is.  Everything else is left to `moved`,
before anything was done.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

from attrs import frozen

from mmiod.attach.moved import ENVIRONMENT
from mmiod.core.lane import SLOW, Way
from mmiod.core.moves import HIGH_HALF, LOW_HALF, PAGE, SLOW_FLAGS, Move
from mmiod.core.places import Place
from mmiod.device import Pending
from mmiod.protocol.exit import NO_DEADLINE
from mmiod.protocol.exit.codec import BY_NAME
from mmiod.values import READ
from mmiod.x86.flags import RF

CODE: Final = slice(32, 72)
"""Of EXIT_RAW: GPA, GVA, intent, code and its length, CPL."""
_REGISTERS: Final = 16
_GPR: Final = 72
"""Where the registers begin; behind them are RIP, RFLAGS and CR0."""
_HEAD: Final = struct.Struct("<QQ")
_DONE_HEAD: Final = BY_NAME["DONE"].struct.size | BY_NAME["DONE"].type << 32
_DONE_GPR: Final = 48
_DONE_TAIL: Final = BY_NAME["DONE"].struct.size - 24
_LATER: Final = _HEAD.pack(0, NO_DEADLINE)
_KEEP: Final = ~RF


@frozen(eq=False)
class Load:
    """One of a whole register, by way of a base register."""

    header: int
    """The first word of the message: its flags are in it."""
    environment: bytes
    words: Callable[[bytes], tuple[int, ...]]
    """Header, vCPU, sequence; the base register; RIP, RFLAGS, CR0."""
    base: int
    """What the base register held."""
    low: int
    """RIP is at least that, ..."""
    high: int
    """... and below that."""
    way: Way
    place: Place
    move: Move
    reply: Callable[..., bytes]
    """DONE: head and vCPU, sequence, posted writes; the register; RIP, RFLAGS, which changed."""

    def read(self, body: bytes, vcpu: int, sequence: int) -> int | Pending:
        """Do it, if it is this one again; what `Lane.access` gives."""
        words, way = self.words, self.way
        header, who, number, base, rip, rflags, cr0 = words(body)
        if (
            header != self.header
            or who != vcpu
            or number != sequence
            or base != self.base
            or not self.low <= rip < self.high
            or rflags & SLOW_FLAGS
            or cr0 != self.move.cr0
            or body[ENVIRONMENT] != self.environment
        ):
            return SLOW
        return way(self.place, 0, vcpu, sequence, rip)

    def done(self, body: bytes, who: int, posted: int, value: int) -> bytes:
        """DONE of this exit; `who` is the vCPU, and the interrupt above."""
        words, reply, move = self.words, self.reply, self.move
        _, _, sequence, _, rip, rflags, _ = words(body)
        return reply(
            _DONE_HEAD, who, sequence, posted, _LATER, value,
            rip + move.length & move.rip_mask, rflags & _KEEP, 1 << move.number,
        )  # fmt: skip


def load_of(move: Move, body: bytes, way: Way, place: Place) -> Load | None:
    """What an exit that is plain will be when it comes again, if that can be told so easily."""
    whole = not (move.part or move.extended) and move.number >= 0
    if move.direction != READ or not whole or move.base < 0 or move.index >= 0 or move.relative:
        return None
    behind = _REGISTERS - move.base
    words = struct.Struct(f"<3Q{_GPR - 24 + 8 * move.base}xQ{8 * (behind - 1)}x3Q")
    header, _, _, base, rip, _, _ = words.unpack_from(body)
    low, high = _around(move, rip)
    after = _DONE_TAIL - _DONE_GPR - 8 * (move.number + 1)
    reply = struct.Struct(f"<4Q16s{8 * move.number}xQ{after}x3Q")
    return Load(header, body[ENVIRONMENT], words.unpack_from, base, low, high, way, place, move, reply.pack)


def _around(move: Move, rip: int) -> tuple[int, int]:
    """The part of the address space in which RIP is."""
    if not move.wide:
        return 0, move.code_end
    return (HIGH_HALF, 1 << 64) if rip >= HIGH_HALF else (0, LOW_HALF - PAGE)
