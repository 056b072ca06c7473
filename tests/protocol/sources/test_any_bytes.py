"""Structures of any bytes, and the tables that they are read by."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings, strategies as st

from mmiod.errors import ProtocolError
from mmiod.protocol.exit import NUMBERS, Answer, SourceExit, encode_completion
from mmiod.protocol.sources import (
    SOURCES,
    Settled,
    acrn,
    bhyve,
    ghcb,
    hyperv,
    kvm,
    read,
    svm,
    td_l2,
    tdvmcall,
    xen,
)
from mmiod.protocol.sources.layout import Layout, layout
from mmiod.values import Completion, DecodedExit, Fault, Forward, RawExit, Retry, Values
from tests.protocol.messages import completions, refusal, states, vector_states
from tests.protocol.sources.stage import Stage

OnStage = Callable[..., Stage]

LENGTHS = [
    ("GHCB", ghcb.GHCB.length),
    ("SVM", svm.VMSA.length),
    ("TDVMCALL", tdvmcall.REGISTERS.length),
    ("TD_L2", td_l2.RETURNED.length + td_l2.GUEST_STATE.length),
    ("KVM", kvm.RUN.length),
    ("HYPERV", hyperv.MESSAGE.length),
    ("XEN", xen.IOREQ.length),
    ("ACRN", acrn.SLOT.length),
    ("BHYVE", bhyve.EXIT.length),
]


@pytest.mark.parametrize(("source", "length"), LENGTHS)
def test_structure_that_is_too_short_is_refused(source: str, length: int, on_stage: OnStage) -> None:
    """One byte less than the structure has is no structure."""
    error = refusal(lambda: on_stage(source).exit(bytes(length - 1)))

    assert NUMBERS["error"]["MALFORMED"] == error.code
    assert length - 1 == error.value


def test_layout_that_is_not_a_table_is_a_mistake() -> None:
    """A line without offset, type and name is found when the module is loaded."""
    with pytest.raises(ValueError, match="0x10 rax"):
        layout("x", "0x8 u64 rcx\n0x10 rax")


def test_layouts_do_not_overlap() -> None:
    """No two fields of a structure share a byte, save where registers are meant to."""
    modules = (acrn, bhyve, ghcb, hyperv, kvm, svm, td_l2, tdvmcall, xen)
    found = {id(one): one for module in modules for one in vars(module).values() if isinstance(one, Layout)}
    assert len(found) >= 20
    for one in found.values():
        ends = sorted((offset, offset + size) for offset, size in one.fields.values())
        assert all(end <= start for (_, end), (start, _) in pairwise(ends)), one.name
        assert ends[-1][1] <= one.length


# --- anything --------------------------------------------------------------------------------


class NoMemory:
    """Nothing is reachable."""

    def holds(self, _gpa: int, _length: int) -> bool:
        """No."""
        return False

    def read(self, _gpa: int, _length: int) -> bytes:
        """Never called."""
        raise AssertionError


WITH_FIRST = {
    "KVM": (8, [2, 6, 17, 29, 30]),
    "HYPERV": (0, [0x8000_0000, 0x8000_0001, 0x8001_0000, 0x8001_0001]),
}
WITH_FIRST |= {"BHYVE": (0, [0, 3, 4, 9, 15]), "ACRN": (0, [0, 1, 2]), "SVM": (0x3C0, [0x7B, 0x7C, 0x400])}
WITH_FIRST |= {"TD_L2": (0, [30, 31, 32, 48]), "TDVMCALL": (88, [0x1E, 0x1F, 0x20, 0x30])}
WITH_FIRST |= {"GHCB": (0x390, [0x7B, 0x7C, 0x8000_0001, 0x8000_0002]), "XEN": (31, [0, 1, 2])}
"""Where a structure says what it is, and what it may say."""


@st.composite
def bodies(draw: st.DrawFn, source: str, length: int) -> bytes:
    """Mostly zeros and small numbers, of about the right length, and a kind that leads on."""
    body = bytearray(length + draw(st.sampled_from([0, 16, 4096])))
    for _ in range(draw(st.integers(0, 12))):
        at = draw(st.integers(0, len(body) - 1))
        data = draw(st.binary(max_size=8))
        body[at : at + len(data)] = data[: len(body) - at]
    place, kinds = WITH_FIRST[source]
    kind = draw(st.sampled_from(kinds))
    body[place : place + (1 if source == "XEN" else 4)] = kind.to_bytes(1 if source == "XEN" else 4, "little")
    return bytes(body)


@pytest.mark.parametrize(("source", "length"), LENGTHS)
@settings(max_examples=150)
@given(data=st.data())
def test_any_bytes_are_an_exit_an_answer_or_an_error(source: str, length: int, data: st.DataObject) -> None:
    """Nothing else: and any completion of the exit becomes bytes that a client can read."""
    module = SOURCES[NUMBERS["source"][source]]
    body = data.draw(bodies(source, length) | st.binary(max_size=length + 8))
    arrived = SourceExit(0, 1, body, state=data.draw(st.none() | states))
    arrived.supplied.extended = data.draw(st.none() | vector_states())
    try:
        found = read(module, arrived, NoMemory())
    except ProtocolError:
        return
    if isinstance(found, Settled):
        encoded(found.answer)
        return
    assert isinstance(found, DecodedExit | RawExit)
    given_back = data.draw(completions if isinstance(found, RawExit) else accessed(found))
    encoded(module.answer(arrived, found, given_back))


def accessed(exit_: DecodedExit) -> st.SearchStrategy[Completion]:
    """What a decoded exit may come to."""
    size = 0 if exit_.direction else exit_.size * exit_.count
    return st.sampled_from([Values(b"\xa5" * size), Retry(), Forward(), Fault(13, 0)])


def encoded(answer: Answer) -> None:
    """It can be sent."""
    encode_completion(
        answer,
        vcpu=0,
        sequence=1,
        posted=0,
        interrupt=False,
        guest_ns=0,
        deadline_ns=0,
    )
