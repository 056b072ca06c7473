"""What iced knows of each form without executing it, against what a plan does: operands, accesses, flags."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from mmiod.x86 import Mode, Plan, decode
from tests.x86.forms import BEYOND, CODES, TARGET, legal_modes
from tests.x86.oracle import Outcome, execute
from tests.x86.predicted import (
    ARITHMETIC,
    decoded,
    flags_changed,
    flags_read,
    flags_undefined,
    memory_operands,
    operand_bytes,
)
from tests.x86.situations import Case
from tests.x86.trial import cases

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code

COUNT = 4
FAMILIES = TARGET | BEYOND
KINDS = {"read": "read", "write": "write", "enqueue": "write"}


def in_every_mode(code: Code) -> list[Case]:
    """A few cases of a form in each mode."""
    return [case for mode in legal_modes(code) for case in cases(code, mode, COUNT)]


@pytest.mark.parametrize("family", FAMILIES)
def test_length_and_operand(family: str) -> None:
    """The length is iced's, and so is the size of the operand in memory."""
    for code in FAMILIES[family]:
        for case in in_every_mode(code):
            plan = decode(case.code, case.mode)
            assert isinstance(plan, Plan), case
            assert decoded(case.code, case.mode).len == plan.length
            memory = plan.instruction.memory
            assert (memory is None) == (family in ("in/out", "string"))
            assert memory is None or operand_bytes(code) == memory.size


@pytest.mark.parametrize("family", FAMILIES)
def test_accesses(family: str) -> None:
    """Each access has the kind and size that iced knows; masked and repeated ones may be fewer or more."""
    for code in FAMILIES[family]:
        for case in in_every_mode(code):
            instruction = decoded(case.code, case.mode)
            found = execute(case)
            accesses = [(KINDS[one.kind], one.size) for one in found.trace if one.kind in KINDS]
            expected = [
                (kind, one.size)
                for one in memory_operands(instruction)
                for kind, happens in (("read", one.reads), ("write", one.writes))
                if happens
            ]
            if found.fault is not None or instruction.has_op_mask or family in {"vmaskmov", "string"}:
                assert {kind for kind, _ in accesses} <= {kind for kind, _ in expected}, case
            else:
                assert sorted(expected) == sorted(accesses), case


@pytest.mark.parametrize("family", FAMILIES)
def test_flags(family: str) -> None:
    """Flags that iced does not call read change nothing, those that it does not call modified stay."""
    for code in FAMILIES[family]:
        for case in in_every_mode(code):
            instruction = decoded(case.code, case.mode)
            other = evolve(case, rflags=case.rflags ^ ARITHMETIC & ~flags_read(instruction))
            first, second = execute(case), execute(other)
            changed = flags_changed(instruction)
            for one, started in ((first, case), (second, other)):
                assert not (one.rflags ^ started.rflags) & ~changed, case
            assert _without_flags(first) == _without_flags(second), case
            defined = changed & ~flags_undefined(instruction, case.gpr)
            kept = ~(first.rflags ^ case.rflags) & ~(second.rflags ^ other.rflags)
            assert not (first.rflags ^ second.rflags) & defined & ~kept, case


def _without_flags(one: Outcome) -> Outcome:
    return evolve(one, rflags=0)


def test_every_form_exists_somewhere() -> None:
    """A form without a mode would be proven by nothing."""
    assert [] == [CODES[code] for codes in FAMILIES.values() for code in codes if not legal_modes(code)]
    assert set(Mode) == {mode for codes in FAMILIES.values() for code in codes for mode in legal_modes(code)}
