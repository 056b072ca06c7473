"""The log of written pages: a bit for each, at any page size, once."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.machine.dirty_log import CHUNK, MAX_CHUNKS, PAGE, DirtyLog
from mmiod.machine.memory import GuestMemory
from mmiod.machine.slot import Slot, storage_of
from tests.machine.test_memory import memfd

EDGE = CHUNK * PAGE
near = st.one_of(st.integers(0, 40 * PAGE), st.integers(EDGE - 20 * PAGE, EDGE + 20 * PAGE))


def pages_of(bitmap: bytes) -> set[int]:
    """The numbers of the bits that are set."""
    bits = int.from_bytes(bitmap, "little")
    return {number for number in range(8 * len(bitmap)) if bits >> number & 1}


@given(
    writes=st.lists(st.tuples(near, st.integers(1, 5 * PAGE)), max_size=8),
    reports=st.lists(st.tuples(near, st.integers(1, EDGE), st.integers(0, 4)), min_size=1, max_size=4),
)
@settings(max_examples=150, deadline=None)
def test_reports_have_what_was_written_since_the_last(
    writes: list[tuple[int, int]], reports: list[tuple[int, int, int]]
) -> None:
    """As a set of page numbers has it."""
    log, model = DirtyLog(), set[int]()
    for gpa, length in writes:
        log.mark(gpa, length)
        model |= set(range(gpa // PAGE, (gpa + length - 1) // PAGE + 1))
    for gpa, length, order in reports:
        size = PAGE << order
        start = gpa // size * size
        covered = range(start // PAGE, (start + length - 1) // PAGE + 1)
        expected = {(page * PAGE - start) // size for page in model & set(covered)}
        bitmap = log.take(start, length, size)
        assert 0 == len(bitmap) % 8
        assert -(-length // size) <= 8 * len(bitmap) < -(-length // size) + 64
        assert expected == pages_of(bitmap)
        model -= set(covered)


def test_a_log_that_has_no_room_reports_everything() -> None:
    """Rather than lose a page; and it takes no more memory."""
    log = DirtyLog()
    for number in range(MAX_CHUNKS + 3):
        log.mark(number * EDGE, 1)
    assert set(range(100)) == pages_of(log.take(5 * PAGE, 100 * PAGE, PAGE))
    assert set(range(100)) == pages_of(log.take(5 * PAGE, 100 * PAGE, PAGE))


def test_large_pages() -> None:
    """One of 1 GiB has the one byte that was written."""
    log = DirtyLog()
    log.mark((5 << 30) + 12345, 1)
    assert {2} == pages_of(log.take(3 << 30, 4 << 30, 1 << 30))
    assert set() == pages_of(log.take(3 << 30, 4 << 30, PAGE << 3))


def add(memory: GuestMemory, number: int, gpa: int, length: int, *, read_only: bool) -> None:
    """Map zeros."""
    storage = storage_of(memfd(bytes(length)), 0, length, read_only=read_only)
    memory.add(Slot(number, gpa, length, read_only, storage))


@pytest.mark.parametrize("on", [False, True])
def test_what_reaches_memory_is_logged_while_somebody_asks(on: bool) -> None:
    """Writes over the edge of a slot, too; what vanishes is no write."""
    memory = GuestMemory()
    add(memory, 0, 0, 2 * PAGE, read_only=False)
    add(memory, 1, 2 * PAGE, PAGE, read_only=True)
    add(memory, 2, 3 * PAGE, 2 * PAGE, read_only=False)
    memory.log = log = DirtyLog() if on else None
    memory.write(PAGE + 8, b"once")
    memory.write(PAGE - 4 + PAGE, bytes(2 * PAGE))
    memory.write(9 * PAGE, b"nowhere")
    memory.clear()
    if log is not None:
        assert {1, 3} == pages_of(log.take(0, 16 * PAGE, PAGE))
