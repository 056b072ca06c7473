"""Every executed form against Unicorn: accesses, registers, flags, RIP."""

from __future__ import annotations

import os
from collections import Counter

import pytest
from attrs import evolve

from mmiod.x86 import Mode, Plan, decode
from tests.x86.forms import Case, executed_forms, legal_modes, mnemonic
from tests.x86.generator import cases
from tests.x86.oracle import Driver, Oracle, Outcome, outcome

CASES = int(os.environ.get("MMIOD_ORACLE_CASES", "20"))
FORMS = executed_forms()
FAMILIES = sorted({mnemonic(code) for code in FORMS})


@pytest.fixture(scope="module")
def oracles() -> dict[Mode, Oracle]:
    """One Unicorn for each mode."""
    return {mode: Oracle(mode) for mode in Mode}


def execute(case: Case, oracle: Oracle) -> Outcome:
    """The case in mmiod."""
    plan = decode(case.code, case.mode)
    assert isinstance(plan, Plan), plan
    vcpu, driver = oracle.state(case), Driver()
    delta = driver.drive(plan.run(vcpu))
    return outcome(vcpu, delta, driver.trace)


def canonical(result: Outcome, case: Case) -> Outcome:
    """The order of CMPS's two reads is not architectural; QEMU reads 4 bytes for MOVSXD r16."""
    if case.form.startswith("CMPS"):
        result.trace.sort(key=lambda effect: effect.address)
    if case.form == "MOVSXD_R16_RM16":
        result.trace = [evolve(effect, size=2, value=effect.value & 0xFFFF) for effect in result.trace]
    return result


@pytest.mark.parametrize("family", FAMILIES)
def test_family_equals_unicorn(family: str, oracles: dict[Mode, Oracle]) -> None:
    """Each form of the family does what Unicorn does, in every mode in which it exists."""
    forms = [code for code in FORMS if mnemonic(code) == family]
    for code in forms:
        for mode in legal_modes(code):
            oracle = oracles[mode]
            for case in cases(code, mode, CASES, oracle.bases):
                expected = canonical(oracle.run(case), case)
                actual = canonical(execute(case, oracle), case)
                assert expected == actual, (case, case.code.hex())


FAMILY_OF = {
    "MOV": "mov", "MOVZX": "movx", "MOVSX": "movx", "MOVSXD": "movx", "TEST": "test", "XCHG": "xchg",
    "IN": "port", "OUT": "port", **dict.fromkeys("ADD OR ADC SBB AND SUB XOR CMP".split(), "alu"),
}  # fmt: skip


def test_every_form_in_scope_is_covered() -> None:
    """(forms, forms in the modes they exist in) per family; each of the latter runs CASES times above."""
    forms, instances = Counter[str](), Counter[str]()
    for code in FORMS:
        family = FAMILY_OF.get(mnemonic(code), "string")
        forms[family] += 1
        instances[family] += len(legal_modes(code))
    counted = {family: (forms[family], instances[family]) for family in sorted(forms)}
    assert {
        "alu": (128, 312),
        "mov": (23, 57),
        "movx": (15, 31),
        "port": (12, 36),
        "string": (26, 68),
        "test": (12, 30),
        "xchg": (4, 10),
    } == counted
    assert CASES >= 20
