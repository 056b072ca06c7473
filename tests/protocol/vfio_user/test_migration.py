"""A function's states and the ways between them, and saved states that clients carry."""

from __future__ import annotations

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.errors import ProtocolError
from mmiod.protocol.vfio_user import Incoming, Outgoing, State, path
from mmiod.protocol.vfio_user.migration import ARCS, PARCEL

ERROR, STOP, RUNNING, STOP_COPY, RESUMING, PRE_COPY = State

WAYS = {
    (STOP, PRE_COPY): (RUNNING, PRE_COPY),
    (RUNNING, STOP_COPY): (STOP, STOP_COPY),
    (RUNNING, RESUMING): (STOP, RESUMING),
    (STOP_COPY, RUNNING): (STOP, RUNNING),
    (STOP_COPY, RESUMING): (STOP, RESUMING),
    (RESUMING, RUNNING): (STOP, RUNNING),
    (RESUMING, STOP_COPY): (STOP, STOP_COPY),
    (RESUMING, PRE_COPY): (STOP, RUNNING, PRE_COPY),
    (PRE_COPY, STOP): (RUNNING, STOP),
    (PRE_COPY, RESUMING): (RUNNING, STOP, RESUMING),
}
"""All that are no single step, as libvfio-user and Linux go them."""


@pytest.mark.parametrize(("before", "after"), [(one, two) for one in State for two in State])
def test_ways_between_states(before: State, after: State) -> None:
    """Single steps, the ways above, none to stay; nothing leads to or from ERROR, or back to PRE_COPY."""
    if ERROR in {before, after} or (before, after) == (STOP_COPY, PRE_COPY):
        with pytest.raises(ProtocolError, match=r"device_state\.state"):
            path(before, after)
        return
    direct = (after,) if after in ARCS[before] else ()
    assert WAYS.get((before, after), direct) == path(before, after)
    assert (before == after) == (path(before, after) == ())


@pytest.mark.parametrize("number", [5, 7, 8, -1, 1 << 31])
def test_states_that_do_not_exist(number: int) -> None:
    """Those of peer-to-peer DMA are not here either."""
    with pytest.raises(ProtocolError, match=r"device_state\.state"):
        path(RUNNING, number)


def drained(outgoing: Outgoing, size: int) -> list[bytes]:
    """All parcels of a state."""
    parcels = []
    while parcel := outgoing.take(size):
        parcels.append(parcel)
    return parcels


@given(
    early=st.binary(min_size=1, max_size=200),
    last=st.binary(min_size=1, max_size=200),
    size=st.integers(PARCEL.size + 1, 90),
    left=st.integers(0, 200),
    cuts=st.lists(st.integers(1, 50), max_size=40),
)
@settings(max_examples=200, deadline=None)
def test_the_last_state_arrives_however_the_bytes_are_cut(
    early: bytes, last: bytes, size: int, left: int, cuts: list[int]
) -> None:
    """An early copy may be given up anywhere between two parcels, or not be brought along at all."""
    first, second = drained(Outgoing(1, early), size), drained(Outgoing(2, last), size)
    data = b"".join([*first[: left % (len(first) + 1)], *second])
    incoming, whole = Incoming(), 0
    for cut in [*cuts, len(data)]:
        whole += incoming.put(data[:cut])
        data = data[cut:]
    assert last == incoming.finish()
    assert whole >= 1


def test_parcels_are_as_long_as_was_asked() -> None:
    """But for the last; behind it nothing comes, and what would hold no byte is refused."""
    outgoing = Outgoing(1, bytes(range(100)))
    assert [40, 40, 40, 40, 20, 0] == [len(outgoing.take(40)) for _ in range(6)]
    with pytest.raises(ProtocolError, match=r"mig_data\.size"):
        outgoing.take(PARCEL.size)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_state_that_is_not_whole(count: int) -> None:
    """It is refused in the end, also if an earlier one was."""
    incoming = Incoming()
    parcels = drained(Outgoing(2, bytes(100)), 41)
    assert 4 == len(parcels)
    for parcel in [*drained(Outgoing(1, b"early"), 30), *parcels[:count]] if count else []:
        incoming.put(parcel)
    with pytest.raises(ProtocolError, match="no whole state came"):
        incoming.finish()


@pytest.mark.parametrize(
    ("parcel", "field"),
    [
        (PARCEL.pack(0x1234, 1, 0, 4, 4) + b"data", "mig_data magic"),
        (PARCEL.pack(0x6D6D, 1, 0, (64 << 20) + 1, 4) + b"data", "mig_data length"),
        (PARCEL.pack(0x6D6D, 1, 0, 0, 0), "mig_data length"),
        (PARCEL.pack(0x6D6D, 1, 0, 4, 0), "mig_data size"),
        (PARCEL.pack(0x6D6D, 1, 0, 4, 5) + b"datum", "mig_data size"),
        (PARCEL.pack(0x6D6D, 1, 1, 4, 3) + b"ata", "mig_data place"),
    ],
)
def test_what_is_no_parcel(parcel: bytes, field: str) -> None:
    """It is refused, with the field that is wrong."""
    with pytest.raises(ProtocolError, match=field):
        Incoming().put(parcel)


def test_parcels_of_two_states_do_not_mix() -> None:
    """One that does not go on where the last one ended is refused."""
    one, two = drained(Outgoing(1, bytes(60)), 46), drained(Outgoing(2, bytes(60)), 46)
    incoming = Incoming()
    incoming.put(one[0])
    with pytest.raises(ProtocolError, match="mig_data place"):
        incoming.put(two[1])
