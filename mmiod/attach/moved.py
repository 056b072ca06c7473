"""A raw exit of the flat lane: the words of EXIT_RAW that a move needs, and its DONE.

What a load or a store is, is found by the instruction's bytes and by the environment in which it was
decoded (`mmiod.core.moves`); its address is the exit's own to tell, or linear where there is no paging.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from attrs import define, field

from mmiod.core.lane import SLOW
from mmiod.core.moves import PAGE, Move, move_of
from mmiod.core.translation import Platform
from mmiod.errors import ProtocolError
from mmiod.protocol.exit import NO_DEADLINE, NUMBERS, decode_exit
from mmiod.protocol.exit.codec import BY_NAME, Form
from mmiod.values import READ, RawExit

RAW: Final = BY_NAME["EXIT_RAW"]
MAX_MOVES: Final = 4096
_FLAGS: Final = NUMBERS["exit_raw_flag"]
_GPA: Final = _FLAGS["GPA"]
_GVA: Final = _FLAGS["GVA"]
_INTENT: Final = _FLAGS["INTENT"]
_KNOWN: Final = _GPA | _GVA | _INTENT
_WRITES: Final = 1
_HEAD_BITS: Final = 48
"""Of size and type; the flags of a message are above."""


def head_of(form: Form) -> int:
    """The first word of a message without flags and tail."""
    return form.struct.size | form.type << 32


NUMBERED: Final = struct.Struct("<3Q")
"""Of any exit: header, vCPU, sequence."""

_RAW_HEAD: Final = head_of(RAW)
_HEADS: Final = {
    _RAW_HEAD | flags << _HEAD_BITS: flags
    for flags in range(_KNOWN + 1)
    if flags & _GPA and not flags & ~_KNOWN
}
"""First words that are known, and their flags; numbers of 64 bits are slow to take apart."""
_DONE_HEAD: Final = head_of(BY_NAME["DONE"])

_WORDS: Final = struct.Struct("<3Q8x3Q16x19Q")
"""Of EXIT_RAW: header, vCPU, sequence; GPA, GVA, intent; 16 registers, RIP, RFLAGS, CR0."""
_HEAD: Final = struct.Struct("<4Q")
"""Of DONE: header, vCPU and interrupt, sequence, posted writes."""
_TAIL: Final = struct.Struct("<3Q")
"""Of DONE: RIP, RFLAGS, which registers changed."""
_TAIL_AT: Final = BY_NAME["DONE"].struct.size - _TAIL.size
_GPR: Final = 6
"""Where the registers are in DONE, in words; what is before has another word, and the deadline."""
_DEADLINE: Final = 5
_CODE: Final = slice(48, 72)
"""Intent, code length, CPL, reserved, code."""
ENVIRONMENT: Final = slice(240, 376)
"""CR4, EFER, XCR0, DR6, DR7, six segment registers."""


@define(eq=False)
class Moved:
    """The exit at hand."""

    platform: Platform
    move: Move = field(init=False)
    registers: Sequence[int] = ()
    rip: int = 0
    _rflags: int = 0
    _done: bytearray = field(factory=lambda: bytearray(BY_NAME["DONE"].struct.size))
    """A buffer that is used again."""
    _reply: memoryview = field(init=False)
    _mask: int = field(init=False)
    """Of a page's address."""
    _plain: bool = field(init=False)
    """No bit of an address is an attribute."""
    _recent: dict[bytes, tuple[bytes, Move]] = field(factory=dict)
    """By code: the environment in which it ran last, and what it is there.  To compare costs less
    than to hash."""
    _moves: dict[tuple[bytes, bytes], Move] = field(factory=dict)
    """By code and environment."""

    def __attrs_post_init__(self) -> None:
        """Look at the buffer as words."""
        self._plain, self._mask = not self.platform.shared_mask, -PAGE & ~self.platform.shared_mask
        self._reply = memoryview(self._done).cast("Q")
        self._reply[_DEADLINE] = NO_DEADLINE

    def read(self, body: bytes, vcpu: int, sequence: int) -> int:
        """The guest-physical address that the move in this exit accesses; SLOW if it is none."""
        words: tuple[int, ...] = _WORDS.unpack_from(body)
        head, who, number, gpa, gva, intent, *registers, rip, rflags, cr0 = words
        flags = _HEADS.get(head)
        if flags is None or who != vcpu or number != sequence:
            return SLOW
        recent = self._recent.get(body[_CODE])
        if recent is not None and recent[0] == body[ENVIRONMENT] and recent[1].cr0 == cr0:
            move = recent[1]
        else:
            found = self._find(body, cr0)
            if found is None:
                return SLOW
            move = found
        address = move.linear(registers, rip, rflags)
        if address < 0:
            return SLOW
        self.move, self.registers, self.rip, self._rflags = move, registers, rip, rflags
        intent &= 0xFF
        if not flags & _INTENT and intent:
            return SLOW
        if gpa == address and self._plain and not (flags & _GVA or move.paged or gva):
            return gpa  # the usual without paging; what follows would find the same
        page = address & -PAGE
        if flags & _GVA:
            fits = not flags & _INTENT or intent in {move.intent, _WRITES}
            if gva & -PAGE != page or not fits:
                return SLOW
        elif move.paged or gva or (gpa ^ page) & self._mask:
            return SLOW
        return gpa & self._mask | address & PAGE - 1

    def _find(self, body: bytes, cr0: int) -> Move | None:
        code, environment = body[_CODE], body[ENVIRONMENT]
        move = self._moves.get((code, environment))
        if move is None or move.cr0 != cr0:
            move = self._learn(body)
            if move is None:
                return None
            if len(self._moves) >= MAX_MOVES:
                self._moves.clear()
                self._recent.clear()
            self._moves[code, environment] = move
        self._recent[code] = environment, move
        return move

    def _learn(self, body: bytes) -> Move | None:
        """None also where the exit has to be refused."""
        try:
            exit_, _ = decode_exit(body)
        except ProtocolError:
            return None
        assert isinstance(exit_, RawExit)
        return move_of(exit_.state, exit_.code, vectors=self.platform.vectors)

    def done(self, who: int, sequence: int, posted: int, answer: int) -> bytes:
        """DONE, given what was read; `who` is the vCPU, and the interrupt above."""
        move, done = self.move, self._done
        _HEAD.pack_into(done, 0, _DONE_HEAD, who, sequence, posted)
        rip, rflags = move.behind(self.rip, self._rflags)
        if move.direction != READ:
            _TAIL.pack_into(done, _TAIL_AT, rip, rflags, 0)
            return bytes(done)
        number = move.number
        _TAIL.pack_into(done, _TAIL_AT, rip, rflags, 1 << number)
        self._reply[_GPR + number] = move.loaded(self.registers, answer)
        reply = bytes(done)
        self._reply[_GPR + number] = 0
        return reply
