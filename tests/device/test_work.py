"""Runs of a work on guest memory: when they go on, when they end, what they are given."""

from __future__ import annotations

from collections.abc import Generator
from typing import cast

import attrs
import pytest

from mmiod.device import Device, MemoryRead, MemoryWrite, Moves, Register, Work
from mmiod.device.work import ACCESSES, BYTES, RANGE, WATCH_NS
from mmiod.errors import DeclarationError
from mmiod.testing import Harness


@attrs.define
class Done:
    """What the runs of the device below have done."""

    begun: int = 0
    ended: int = 0
    closed: int = 0
    seen: list[bytes] = attrs.Factory(list)


class Copier(Device):
    """Copies `count` pieces of `size` bytes from `source` to `target`."""

    length = 0x18
    state: Done
    moving = Work()
    source = Register(0, size=4)
    target = Register(4, size=4, reset=0x1000)
    size = Register(8, size=4, reset=4)
    count = Register(0xC, size=4, reset=1)
    bell = Register(0x10, size=4)
    last = Register(0x14, size=4)
    """What a run does at its end."""

    @bell.on_write
    def _bell(self, _value: int) -> None:
        self.moving.start()

    @moving.on_run
    def _move(self) -> Moves:
        self.state.begun += 1
        try:
            for index in range(self.count):
                yield from self._piece(index * self.size)
            {0: lambda: None, 1: self.moving.start, 2: self.moving.cancel, 3: self._anew}[self.last]()
            yield MemoryRead(0, 0)
        except GeneratorExit:
            self.state.closed += 1
            raise
        self.state.ended += 1

    def _piece(self, offset: int) -> Generator[MemoryRead | MemoryWrite, bytes, None]:
        data = yield MemoryRead(self.source + offset, self.size)
        assert (yield MemoryWrite(self.target + offset, data)) == b""
        self.state.seen.append(data[:4])

    def _anew(self) -> None:
        self.last = 0
        self.moving.cancel()
        self.moving.start()


def copier(**registers: int) -> Harness[Copier]:
    """One with `abcd` at 0."""
    made = Harness(Copier)
    made.context.memory.ram[:4] = b"abcd"
    made.device.values.update(registers)
    return made


def test_where_memory_is_mapped_a_run_ends_in_the_hook_that_started_it() -> None:
    """The data is there when `start` returns, no message was sent and no timer is set."""
    made = copier()
    made.write("bell", 1)
    assert b"abcd" == made.context.memory.read(0x1000, 4)
    assert (1, 1, [b"abcd"]) == (
        made.device.state.begun,
        made.device.state.ended,
        made.device.state.seen,
    )
    assert ([], {}) == (made.context.asked, made.context.deadlines)


def test_a_run_that_moves_much_goes_on_by_a_timer_at_the_same_guest_time() -> None:
    """One hook makes so many accesses, or moves so many bytes, and no more; nothing is done twice."""
    made = copier(count=ACCESSES, size=4)
    made.write("bell", 1)
    assert (ACCESSES // 2 - 1, {"moving": 0}) == (len(made.device.state.seen), made.context.deadlines)
    made.advance(0)
    assert (1, 1, ACCESSES) == (
        made.device.state.begun,
        made.device.state.ended,
        len(made.device.state.seen),
    )
    assert {} == made.context.deadlines
    made = copier(count=4, size=BYTES // 2)
    made.write("bell", 1)
    assert 0 == len(made.device.state.seen)  # read and written; what follows is of the next hook
    made.advance(0)
    assert 4 == len(made.device.state.seen)


def test_by_message_a_run_goes_on_when_it_is_answered() -> None:
    """One message at a time, with address, length and data; the timer only watches meanwhile."""
    made = copier()
    made.context.memory.messages = True
    made.write("bell", 1)
    assert [("moving", 0, "read", RANGE.pack(0, 4))] == made.context.asked
    made.advance(3 * WATCH_NS)
    assert 1 == len(made.context.asked)
    made.reply("moving", 0, b"wxyz")
    assert ("moving", 0, "write", RANGE.pack(0x1000, 4) + b"wxyz") == made.context.asked[-1]
    made.reply("moving", 0, b"")
    assert (1, 2, {}) == (made.device.state.ended, len(made.context.asked), made.context.deadlines)


def test_a_message_that_fails_reads_ones_and_writes_nothing() -> None:
    """As RAM that nobody has."""
    made = copier()
    made.context.memory.messages = True
    made.write("bell", 1)
    made.fail("moving", 0, "the client went")
    made.fail("moving", 0, "the client went")
    assert (1, [b"\xff" * 4]) == (made.device.state.ended, made.device.state.seen)


def test_a_start_during_a_run_means_one_more_run() -> None:
    """However often it is asked for; also by the run itself."""
    made = copier()
    made.context.memory.messages = True
    for _ in range(3):
        made.write("bell", 1)
    made.reply("moving", 0, b"1234")
    made.reply("moving", 0, b"")
    assert (1, 1) == (made.device.state.begun, made.device.state.ended)
    made.advance(0)
    assert (2, 3) == (made.device.state.begun, len(made.context.asked))
    itself = copier(last=1)
    itself.write("bell", 1)
    assert (1, 1) == (itself.device.state.begun, itself.device.state.ended)
    itself.device.values["last"] = 0
    itself.advance(0)
    assert (2, 2, {}) == (itself.device.state.begun, itself.device.state.ended, itself.context.deadlines)


def test_a_reset_drops_a_run() -> None:
    """It is closed where it stands, and what is answered later goes nowhere; the next start begins anew."""
    made = copier()
    made.context.memory.messages = True
    made.write("bell", 1)
    state = made.device.state
    made.device.reset()
    assert (1, {}) == (state.closed, made.context.deadlines)
    made.reply("moving", 0, b"late")
    assert Done() == made.device.state
    made.write("bell", 1)
    assert 1 == made.device.state.begun


@pytest.mark.parametrize(("last", "begun", "ended"), [(2, 1, 0), (3, 2, 1)])
def test_a_run_may_drop_itself(last: int, begun: int, ended: int) -> None:
    """It ends at its next access; what it started behind that is another run."""
    made = copier(last=last)
    made.write("bell", 1)
    found = made.device.state
    assert (begun, ended, 1, {}) == (found.begun, found.ended, found.closed, made.context.deadlines)


def test_rewinding_begins_an_unfinished_run_anew() -> None:
    """Soon, by the timer; where nothing is unfinished nothing happens."""
    made = copier()
    made.device.moving.rewind()
    assert {} == made.context.deadlines
    made.context.memory.messages = True
    made.write("bell", 1)
    made.device.moving.rewind()
    assert (1, {"moving": 0}) == (made.device.state.closed, made.context.deadlines)
    made.advance(0)
    assert (2, "read") == (made.device.state.begun, made.context.asked[-1][2])


def test_a_work_without_a_generator_is_refused() -> None:
    """At the latest when the device is made, or its hook is called."""

    class Nothing(Device):
        length = 4
        moving = Work()

    with pytest.raises(DeclarationError, match="moving has no on_run"):
        Harness(Nothing)

    class Plain(Device):
        length = 4
        moving = Work()

        @moving.on_run
        def _move(self) -> Moves:
            return cast("Moves", None)

    made = Harness(Plain)
    with pytest.raises(TypeError, match="moving: its on_run is no generator function, it gives None"):
        made.device.moving.start()
