"""Every plan there is: what can fault shows before anything is accessed."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest
from attrs import define, field
from hypothesis import given, settings, strategies as st

from mmiod.values import DS, ES, FS, SS, ExtendedState, RegisterSet, Retry, Segment, VcpuState
from mmiod.x86 import (
    GuestFault,
    Mode,
    Plan,
    Probe,
    ProbePort,
    ProbeSystem,
    ReadSystem,
    Run,
    Step,
    Suspend,
    Transfer,
    WriteSystem,
    decode,
)
from mmiod.x86.plan import SHAPES
from mmiod.x86.strings import ELEMENTS
from tests.x86.states import flat, plan_of

RCX = 1
OPERAND = bytes([0x83]) + bytes(8)
"""ModRM [rbx + 0], and zeros as displacement and immediate."""


def encodings() -> Iterator[bytes]:
    """Each opcode of each map with each prefix that may belong to it, in all three encodings."""
    for opcode in range(256):
        for modrm in (*range(0x83, 0xC3, 8), 0xC1):
            tail = bytes([opcode, modrm]) + bytes(8)
            for prefix in (b"", b"\x66", b"\xf3", b"\xf2"):
                for escape in (b"", b"\x0f", b"\x0f\x38", b"\x0f\x3a"):
                    yield prefix + escape + tail
        tail = bytes([opcode]) + OPERAND
        for pp in range(4):
            for number in (1, 2, 3):
                for wide in (0, 0x80):
                    for length in range(3):
                        if length < 2:
                            yield bytes([0xC4, 0xE0 | number, wide | 0x78 | length << 2 | pp]) + tail
                        yield bytes([0x62, 0xF0 | number, wide | 0x7C | pp, 0x08 | length << 5]) + tail


@cache
def plans(mode: Mode) -> dict[str, list[Plan]]:
    """A plan for every opcode of the tables, by shape."""
    found: dict[int, Plan] = {}
    for code in encodings():
        plan = decode(code, mode)
        if isinstance(plan, Plan):
            found.setdefault(id(plan.instruction.opcode), plan)
    by_shape: dict[str, list[Plan]] = {}
    for plan in found.values():
        by_shape.setdefault(plan.instruction.opcode.shape, []).append(plan)
    return by_shape


def test_all_shapes_are_here() -> None:
    """No shape of the tables escapes these tests."""
    every = set(plans(Mode.CODE64)) | set(plans(Mode.CODE32))
    assert set() == (set(SHAPES) | set(ELEMENTS)) - every


def vcpu(mode: Mode, **registers: object) -> VcpuState:
    """Everything enabled, CPL 0, operands apart from each other; misaligned ones are elsewhere."""
    vectors = ExtendedState(RegisterSet(0x2F), pasid=1 << 31, x87=bytes(160))
    vectors.k = [(1 << 64) - 1] * 8
    state = flat(
        mode, rbx=0x1000, rsi=0x2000, rdi=0x3000, rsp=0x4800, rbp=0x4880, rcx=3, rdx=0x10, rax=0x5000,
        cr4=1 << 18 | 1 << 9, xcr0=0xE7, extended=vectors,
    )  # fmt: skip
    for name, value in registers.items():
        setattr(state, name, value)
    return state


@define
class Spy:
    """Drives a plan on memory of zeros, and throws at one of the places where a driver may."""

    throw_at: int = -1
    exception: Exception = field(factory=lambda: GuestFault(14, 2, 0xBAD))
    effects: list[str] = field(factory=list)
    probes: list[Step] = field(factory=list)
    places: int = 0
    fresh: bool = True
    """No access yet, or none behind the last probe."""

    def drive(self, run: Run) -> object:
        """The delta, or what the plan raised."""
        try:
            step = next(run)
            while True:
                step = run.throw(self.exception) if self._throws(step) else run.send(self._answer(step))
        except StopIteration as end:
            return end.value
        except (GuestFault, Suspend) as stop:
            return stop

    def _throws(self, step: Step) -> bool:
        """Whether this is the place: a probe, or the first access."""
        probe = isinstance(step, Probe | ProbePort | Transfer)
        if isinstance(step, ProbeSystem | ReadSystem | WriteSystem) or not (probe or self.fresh):
            return False
        self.places += 1
        return self.places - 1 == self.throw_at

    def _answer(self, step: Step) -> int:
        if isinstance(step, ProbeSystem | ReadSystem | WriteSystem):
            return 0
        self.fresh = isinstance(step, Probe | ProbePort | Transfer)
        if self.fresh:
            self.probes.append(step)
        else:
            self.effects.append(str(step))
        return 0


EVERY = [
    (mode, plan) for mode in (Mode.CODE64, Mode.CODE32) for some in plans(mode).values() for plan in some
]
SINGLE = [(mode, plan) for mode, plan in EVERY if plan.instruction.opcode.shape not in ELEMENTS]


@pytest.mark.parametrize("exception", [GuestFault(14, 2, 0xBAD), Suspend(Retry())])
def test_stop_at_any_place_of_any_instruction(exception: Exception) -> None:
    """At each probe and the first access a fault or a question ends it, and nothing was accessed."""
    stopped = 0
    for mode, plan in SINGLE:
        calm = Spy()
        calm.drive(plan.run(vcpu(mode)))
        for number in range(calm.places):
            spy = Spy(number, exception)
            assert exception is spy.drive(plan.run(vcpu(mode))), plan
            assert [] == spy.effects, plan
            stopped += 1
    assert stopped > len(SINGLE)


def test_only_a_single_access_goes_without_a_probe() -> None:
    """A plan of several accesses, of which one is to memory, probes before the first."""
    alone = 0
    for mode, plan in SINGLE:
        spy = Spy()
        spy.drive(plan.run(vcpu(mode)))
        if not spy.probes and spy.effects:
            assert 1 == len(spy.effects), plan
            alone += 1
    assert alone > 100


@pytest.mark.parametrize("code", ["8b 03", "89 03"])
def test_page_fault_precedes_alignment(code: str) -> None:
    """Where #AC may come behind translation, which has priority over it, even one access is probed."""
    state = vcpu(Mode.CODE64, cpl=3, rflags=2 | 1 << 18, cr0=1 | 1 << 18)
    state.gpr[3] = 0x1001
    spy, page_fault = Spy(), Spy(0)
    aligned = spy.drive(plan_of(code).run(state))
    assert isinstance(aligned, GuestFault)
    assert (17, 1) == (aligned.vector, len(spy.probes))
    assert page_fault.exception is page_fault.drive(plan_of(code).run(state))


@settings(max_examples=300)
@given(
    case=st.sampled_from(SINGLE),
    segment=st.sampled_from([ES, SS, DS, FS, None]),
    attributes=st.sampled_from([0, 0xC091, 0xC099, 0xC013]),
    limit=st.sampled_from([0, 0x1000, 0x1003, 0x3000, 0x47FF, 0x4801, 0xFFFF_FFFF]),
    rbx=st.sampled_from([0x1000, 0x1001, 1 << 47, (1 << 47) - 1, 0xFFFF_FFFE, 1 << 63]),
    rsp=st.sampled_from([0x4800, 2, 0, 1 << 47, (1 << 63) + 4]),
    rax=st.sampled_from([0x5000, 0x5001, 1 << 63]),
    cpl=st.sampled_from([0, 3]),
    flags=st.sampled_from([2, 2 | 1 << 18]),
)
def test_fault_of_a_segment_or_an_address_comes_first(
    case: tuple[Mode, Plan], segment: int | None, attributes: int, limit: int, rbx: int, rsp: int, rax: int,
    cpl: int, flags: int,
) -> None:  # fmt: skip
    """Limits, types, canonical form, alignment: #GP, #SS and #AC come before any access.

    Of an instruction that would be done without them; what was read may fault by itself.
    """
    mode, plan = case
    if isinstance(Spy().drive(plan.run(vcpu(mode))), GuestFault):
        return
    state = vcpu(mode, cpl=cpl, rflags=flags, cr0=1 | 1 << 18)
    state.gpr[3], state.gpr[4], state.gpr[0] = rbx, rsp, rax
    state.tr = Segment(0x8000, 0x67, 0x28, 0x8B)
    if segment is not None:
        state.segments[segment] = Segment(0, limit, 8, attributes)
    spy = Spy()
    outcome = spy.drive(plan.run(state))
    if isinstance(outcome, GuestFault) and outcome.vector in {12, 13, 17}:
        assert [] == spy.effects


@settings(max_examples=200)
@given(
    case=st.sampled_from([(mode, plan) for mode, plan in EVERY if plan.instruction.opcode.shape in ELEMENTS]),
    throw_at=st.integers(0, 12),
    count=st.integers(0, 5),
    down=st.booleans(),
)
def test_stop_between_iterations(case: tuple[Mode, Plan], throw_at: int, count: int, down: bool) -> None:
    """A REP that faults did all of the iterations that its delta tells, and nothing of the next."""
    mode, single = case
    plan = decode(b"\xf3" + single.instruction.code, mode)
    assert isinstance(plan, Plan)
    state = vcpu(mode, rflags=2 | down << 10)
    state.gpr[RCX] = count
    spy = Spy(throw_at)
    outcome = spy.drive(plan.run(state))
    if not isinstance(outcome, GuestFault):
        return
    done = count - outcome.delta.registers[RCX] if outcome.delta is not None else 0
    calm = Spy()
    if done:
        calm.drive(plan.run(state, done))
    assert calm.effects == spy.effects


def test_spy_sees_what_a_plan_does() -> None:
    """A read-modify-write is one probe and two effects; it may be stopped before the first."""
    spy = Spy()
    spy.drive(plan_of("01 03").run(vcpu(Mode.CODE64)))
    assert (1, 2, 2) == (len(spy.probes), len(spy.effects), spy.places)
