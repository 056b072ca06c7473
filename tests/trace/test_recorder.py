"""The ring of records."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.trace import Record, Recorder


def record(number: int) -> Record:
    """A record that can be told from others."""
    return (number, "vm0", 0, number, 1, 1, 0x3F8, 1, 0x41, "uart0", 1, "thr", "ok", 900, -1, 1)


@settings(max_examples=200)
@given(
    capacity=st.integers(1, 9),
    steps=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12)), max_size=8),
)
def test_reader_gets_everything_or_its_count(capacity: int, steps: list[tuple[int, int]]) -> None:
    """What was added is either read once, in order, or counted as dropped, however slow a reader is."""
    recorder, added, serial = Recorder(capacity), 0, 0
    for count, limit in steps:
        for _ in range(count):
            recorder.add(record(added))
            added += 1
        before = serial
        records, serial, dropped = recorder.since(before, limit)

        assert [record(n) for n in range(before + dropped, serial)] == records
        assert dropped == max(0, added - capacity - before)
        assert len(records) == min(limit, added - before - dropped)


def test_oldest_is_what_the_ring_still_holds() -> None:
    """A reader that begins at `oldest` loses nothing."""
    recorder = Recorder(4)
    for number in range(10):
        recorder.add(record(number))

    records, serial, dropped = recorder.since(recorder.oldest, 100)

    assert [6, 7, 8, 9] == [found[0] for found in records]
    assert (10, 0) == (serial, dropped)


def test_serial_of_the_future_reads_nothing() -> None:
    """A reader that kept a serial of another daemon goes on with what comes."""
    recorder = Recorder(4)
    recorder.add(record(0))

    assert ([], 1, 0) == recorder.since(1000, 10)


def test_no_room_is_refused() -> None:
    """A recorder must hold something."""
    with pytest.raises(ValueError, match="a recorder of 0 records"):
        Recorder(0)
