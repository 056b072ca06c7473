"""Descriptors that go along: each arrives once, and none is leaked."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from mmiod.core.descriptor_table import DescriptorTable


@pytest.fixture(autouse=True, scope="module")
def _collected() -> None:
    """Descriptors are counted: those of machines of earlier tests are not closed meanwhile."""
    gc.collect()


def open_now() -> set[str]:
    """The numbers that are in use."""
    return {descriptor.name for descriptor in Path("/proc/self/fd").iterdir()}


@given(st.lists(st.booleans(), max_size=20))
def test_what_is_taken_is_open_and_the_rest_is_closed(taken: list[bool]) -> None:
    """By place, whatever the numbers are; no child inherits any."""
    before = open_now()
    table = DescriptorTable()
    places = [table.keep(os.eventfd(number + 1)) for number in range(len(taken))]
    heirs = DescriptorTable.inherited(table.numbers)
    found = [heirs.take(place) for place, wanted in zip(places, taken, strict=True) if wanted]
    heirs.close()
    assert not any(os.get_inheritable(descriptor) for descriptor in found)
    assert [place + 1 for place in places if taken[place]] == [os.eventfd_read(one) for one in found]
    for descriptor in found:
        os.close(descriptor)
    assert before == open_now()


def test_nothing_is_taken_twice() -> None:
    """Two owners of one descriptor would close each other's."""
    table = DescriptorTable.inherited([os.eventfd(0)])
    os.close(table.take(0))
    with pytest.raises(ValueError, match="descriptor 0: there are 1, and each is taken once"):
        table.take(0)
