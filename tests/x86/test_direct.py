"""The direct form does what the generator does, or declines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from attrs import evolve
from hypothesis import given, strategies as st

from mmiod.values import READ, VcpuState
from mmiod.x86 import SLOW, GuestFault, Mode, Plan, decode
from tests.x86.forms import CODES, executed_forms, legal_modes, mnemonic
from tests.x86.oracle import Driver, Effect
from tests.x86.states import AC, AM, PE, VM, flat, plan_of
from tests.x86.trial import cases

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code

MOVES = frozenset({"MOV", "MOVZX", "MOVSX", "MOVSXD"})
FORMS = sorted(
    (code, mode)
    for code in executed_forms()
    if mnemonic(code) in MOVES and "SREG" not in CODES[code]
    for mode in legal_modes(code)
)

segments = st.tuples(
    st.one_of(st.just(0), st.integers(0, 0xFFFF_FFFF)),
    st.sampled_from([0xFFFF, 0xFFFF_FFFF, 0x2_0000, 0]),
    st.sampled_from([0xC093, 0xC093, 0xC091, 0xC097, 0xC09B, 0xC013, 0]),
)


@st.composite
def states(draw: st.DrawFn) -> tuple[Plan, VcpuState]:
    """A move, and a state that may or may not let it through."""
    code, mode = draw(st.sampled_from(FORMS))
    case = draw(st.sampled_from(cases(code, mode, 20)))
    plan = decode(case.code, mode)
    assert isinstance(plan, Plan)
    vcpu = evolve(flat(mode), gpr=list(case.gpr), rip=draw(st.integers(0, 0xFFFF)))
    for segment in vcpu.segments:
        segment.base, segment.limit, segment.attributes = draw(segments)
    if draw(st.booleans()):  # anywhere, also where nothing is canonical
        vcpu.gpr = draw(st.lists(st.integers(0, (1 << 64) - 1), min_size=16, max_size=16))
    vcpu.cr0 = draw(st.sampled_from([0, PE, PE | AM]))
    vcpu.rflags = draw(st.sampled_from([2, 0x8D7, 2 | AC, 2 | 1 << 16, 2 | VM if mode is Mode.CODE16 else 2]))
    vcpu.cpl = draw(st.sampled_from([0, 3]))
    return plan, vcpu


@given(states())
def test_direct_equals_generator(drawn: tuple[Plan, VcpuState]) -> None:
    """Address, size, direction, stored value and delta are the generator's; a fault is always declined."""
    plan, vcpu = drawn
    direct = plan.direct
    assert direct is not None
    address, driver = direct.linear(vcpu), Driver()
    try:
        delta = driver.drive(plan.run(vcpu))
    except GuestFault:
        assert SLOW == address
        return
    if address == SLOW:
        return
    [effect] = driver.trace
    kind = "read" if direct.direction is READ else "write"
    value = effect.value if direct.direction is READ else direct.value(vcpu)
    assert Effect(kind, address, direct.size, value) == effect
    assert delta == direct.delta(vcpu, value)


@pytest.mark.parametrize(("code", "mode"), FORMS, ids=[f"{CODES[code]}-{mode}" for code, mode in FORMS])
def test_every_plain_move_has_a_direct_form(code: Code, mode: Mode) -> None:
    """Moves of one register are direct, and in flat segments they are not declined."""
    for case in cases(code, mode, 5):
        plan = decode(case.code, mode)
        assert isinstance(plan, Plan)
        assert plan.direct is not None
        segment = plan.instruction.operands
        vcpu = flat(mode, gpr=case.gpr)
        vcpu.segments[1].attributes |= 2
        if all(getattr(operand, "segment", 0) != 1 for operand in segment):
            assert SLOW != plan.direct.linear(vcpu), case


@pytest.mark.parametrize(
    ("mode", "rbx", "limit", "slow"),
    [
        (Mode.CODE64, 0x7FFF_FFFF_FFFC, 0, False),
        (Mode.CODE64, 0x7FFF_FFFF_FFFD, 0, True),
        (Mode.CODE64, 0xFFFF_8000_0000_0000, 0, False),
        (Mode.CODE64, 0xFFFF_7FFF_FFFF_FFFF, 0, True),
        (Mode.CODE64, 0xFFFF_FFFF_FFFF_FFFC, 0, False),
        (Mode.CODE64, 0xFFFF_FFFF_FFFF_FFFD, 0, True),
        (Mode.CODE32, 0x1000, 0x1003, False),
        (Mode.CODE32, 0x1000, 0x1002, True),
    ],
)
def test_the_last_byte_counts(mode: Mode, rbx: int, limit: int, slow: bool) -> None:
    """An access that ends beyond the segment or the canonical half is declined."""
    direct, vcpu = plan_of("8b 03", mode).direct, flat(mode, rbx=rbx)
    vcpu.segments[3].limit = limit
    assert direct is not None
    assert slow == (direct.linear(vcpu) == SLOW)


@pytest.mark.parametrize("code", ["01 00", "f0 01 00", "87 00", "a4", "aa", "8c 18", "ec", "38 00"])
def test_others_have_none(code: str) -> None:
    """Modifying, comparing, strings, ports and selectors take the generator."""
    assert None is plan_of(code).direct
