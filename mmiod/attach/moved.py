"""A raw exit of the flat lane: the words of EXIT_RAW that a move needs, and its DONE.

What a load or a store is, is found by the instruction's bytes and by the environment in which it was
decoded (`mmiod.core.moves`); its address is the exit's own to tell, or linear where there is no paging.
"""

from __future__ import annotations

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
_HEAD_MASK: Final = (1 << _HEAD_BITS) - 1


def head_of(form: Form) -> int:
    """The first word of a message without flags and tail."""
    return form.struct.size | form.type << 32


_RAW_HEAD: Final = head_of(RAW)
_DONE_HEAD: Final = head_of(BY_NAME["DONE"])

# Words of EXIT_RAW, and slices of its bytes.
_VCPU, _SEQUENCE, _GPA_AT, _GVA_AT, _INTENT_AT, _GPR, _RIP, _RFLAGS, _CR0 = 1, 2, 4, 5, 6, 9, 25, 26, 27
_CODE: Final = slice(48, 72)
"""Intent, code length, CPL, reserved, code."""
_ENVIRONMENT: Final = slice(240, 376)
"""CR4, EFER, XCR0, DR6, DR7, six segment registers."""


@define(eq=False)
class Moved:
    """The exit at hand, in buffers that are used again."""

    platform: Platform
    move: Move = field(init=False)
    rip: int = 0
    registers: memoryview = field(init=False)
    _exit: bytearray = field(factory=lambda: bytearray(RAW.struct.size))
    _words: memoryview = field(init=False)
    _done: bytearray = field(factory=lambda: bytearray(BY_NAME["DONE"].struct.size))
    _reply: memoryview = field(init=False)
    _mask: int = field(init=False)
    """Of a page's address."""
    _moves: dict[bytes, dict[bytes, Move]] = field(factory=dict)
    _count: int = 0

    def __attrs_post_init__(self) -> None:
        """Look at the buffers as words."""
        self._mask = -PAGE & ~self.platform.shared_mask
        self._words = memoryview(self._exit).cast("Q")
        self.registers = self._words[_GPR:_RIP]
        self._reply = memoryview(self._done).cast("Q")
        self._reply[0], self._reply[5] = _DONE_HEAD, NO_DEADLINE

    def read(self, body: bytes, vcpu: int, sequence: int) -> int:
        """The guest-physical address that the move in this exit accesses; SLOW if it is none."""
        self._exit[:] = body
        words = self._words
        flags = words[0] >> _HEAD_BITS
        if (
            words[0] & _HEAD_MASK != _RAW_HEAD
            or words[_VCPU] != vcpu
            or words[_SEQUENCE] != sequence
            or flags & ~_KNOWN
            or not flags & _GPA
        ):
            return SLOW
        known = self._moves.get(body[_CODE])
        move = known.get(body[_ENVIRONMENT]) if known is not None else None
        if move is None or move.cr0 != words[_CR0]:
            move = self._learn(body)
            if move is None:
                return SLOW
        self.move, self.rip = move, words[_RIP]
        address = move.linear(self.registers, self.rip, words[_RFLAGS])
        if address < 0:
            return SLOW
        page, gpa, gva, intent = address & -PAGE, words[_GPA_AT], words[_GVA_AT], words[_INTENT_AT] & 0xFF
        if not flags & _INTENT and intent:
            return SLOW
        if flags & _GVA:
            fits = not flags & _INTENT or intent in {move.intent, _WRITES}
            if gva & -PAGE != page or not fits:
                return SLOW
        elif move.paged or gva or (gpa ^ page) & self._mask:
            return SLOW
        return gpa & self._mask | address & PAGE - 1

    def _learn(self, body: bytes) -> Move | None:
        """A move for the next time, too; None also where the exit has to be refused."""
        try:
            exit_, _ = decode_exit(body)
        except ProtocolError:
            return None
        assert isinstance(exit_, RawExit)
        move = move_of(exit_.state, exit_.code, vectors=self.platform.vectors)
        if move is not None:
            if self._count >= MAX_MOVES:
                self._moves.clear()
                self._count = 0
            self._moves.setdefault(body[_CODE], {})[body[_ENVIRONMENT]] = move
            self._count += 1
        return move

    def done(self, who: int, sequence: int, posted: int, answer: int) -> bytes:
        """DONE, given what was read; `who` is the vCPU, and the interrupt above."""
        move, done = self.move, self._reply
        done[1], done[2], done[3] = who, sequence, posted
        done[22], done[23] = move.behind(self.rip, self._words[_RFLAGS])
        if move.direction != READ:
            done[24] = 0
            return bytes(self._done)
        number = move.number
        done[6 + number] = move.loaded(self.registers, answer)
        done[24] = 1 << number
        reply = bytes(self._done)
        done[6 + number] = 0
        return reply
