"""Every executed form against Unicorn or this CPU: accesses, registers, flags, RIP."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from mmiod.x86 import Mode
from tests.x86 import campaign, worker
from tests.x86.__main__ import main
from tests.x86.campaign import Results, Worker, judged_forms
from tests.x86.coverage import COUNTED, Coverage, covered, table, totals
from tests.x86.differences import TABLE, Difference
from tests.x86.document import filled
from tests.x86.forms import BEYOND, BY_NAME, CODES, TARGET, encoding, executed_forms
from tests.x86.native import missing
from tests.x86.oracle import execute
from tests.x86.situations import Case, situation
from tests.x86.trial import by_unicorn, difference, draw, native

DOCUMENT = Path(__file__).parents[2] / "docs" / "instructions.md"
RATCHET = 785, 134
"""Forms of the target and besides that are proven; these may only grow."""


@pytest.fixture(scope="module")
def results() -> Results:
    """All forms that an oracle can run here, `COUNTED` cases in each mode."""
    last = Results()
    for so_far in campaign.campaign(judged_forms(), COUNTED):
        last = so_far
    return last


@pytest.mark.parametrize("family", [*TARGET, *BEYOND])
def test_family_equals_its_oracle(family: str, results: Results) -> None:
    """Each form of the family does what its oracle does, in every mode in which it exists."""
    forms = {CODES[code] for code in (TARGET | BEYOND)[family]}
    assert [] == [str(failure) for failure in results.failed if failure.form in forms]
    assert forms.intersection(judged_forms()) == forms.intersection(results.cases)


@pytest.mark.needs("avx512")
def test_coverage_never_falls(results: Results) -> None:
    """Of the forms that iced's tables have, by the written rule, all are proven; the document says so."""
    found = covered(results.cases, {failure.form for failure in results.failed})
    proven, besides = totals(found, target=True)[0], totals(found, target=False)[0]
    assert RATCHET[0] <= proven, table(found)
    assert RATCHET[1] <= besides, table(found)
    text = DOCUMENT.read_text()
    assert text == filled(text, found), "make generate"


def test_a_form_that_fails_or_was_tried_too_seldom_does_not_count() -> None:
    """A case less than `COUNTED` in each mode, or one difference, and the form is lacking."""
    cases = dict.fromkeys(map(CODES.__getitem__, executed_forms()), 3 * COUNTED)
    cases["TEST_RM8_R8"] -= 1
    found = {one.family: one for one in covered(cases, {"XLAT_M8"})}
    assert Coverage("test", True, 12, ("TEST_RM8_R8",)) == found["test"]
    assert (0, 1) == (found["xlat"].covered, found["xlat"].forms)
    assert ("    not XLAT_M8" in table(list(found.values())).splitlines()) is True
    assert found["bmi"].covered == found["bmi"].forms


@pytest.mark.needs("avx512")
@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.forms)
def test_known_difference_is_still_one(row: Difference) -> None:
    """Unicorn does otherwise than mmiod, and this CPU does not."""
    code, mode, seed = row.proof
    case = situation(bytes.fromhex(code), mode, seed)
    assert row.excuses(case)
    assert native(case)
    assert None is difference(case)
    assert execute(case) != _unicorns(case)


def _unicorns(case: Case) -> object:
    try:
        return by_unicorn(case)
    except Exception as error:  # noqa: BLE001  that it refuses the instruction is a difference, too
        return error


def test_the_native_oracle_says_why_it_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on x86-64 Linux there is a reason instead of a crash."""
    missing.cache_clear()
    with monkeypatch.context() as patched:
        patched.setattr("platform.machine", lambda: "riscv64")
        assert "riscv64 linux is not x86-64 Linux" == missing()
    missing.cache_clear()


def test_without_the_native_oracle_the_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Unicorn is wrong nobody judges, and forms that it does not know are left out."""
    monkeypatch.setattr("tests.x86.trial.missing", lambda: "no such CPU")
    monkeypatch.setattr("tests.x86.campaign.missing", lambda: "no such CPU")
    monkeypatch.setattr("tests.x86.trial.execute", lambda _: pytest.fail("it would be compared"))
    code, mode, seed = TABLE[0].proof
    assert None is difference(situation(bytes.fromhex(code), mode, seed))
    assert {"LEGACY"} == {encoding(BY_NAME[name]) for name in judged_forms()}


# --- failures ----------------------------------------------------------------------------


def test_failure_is_shrunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left is what it takes to fail: here LOCK, the opcode and an operand; in the first state."""
    monkeypatch.setattr(worker, "difference", lambda case: "planted" if 0xF0 in case.code else None)
    monkeypatch.setattr(worker, "tell", lambda _: None)
    found = (draw(BY_NAME["ADD_RM32_R32"], Mode.CODE64, seed) for seed in range(1, 100))
    case = next(case for case in found if 0xF0 in case.code and case.code[0] in (0x2E, 0x36, 0x64, 0x67))
    small = worker.shrunk(case)
    assert (b"\xf0\x01", 0) == (small.code[:2], small.seed)
    assert len(small.code) < len(case.code)


def test_process_that_dies_is_a_failure_of_its_last_case(monkeypatch: pytest.MonkeyPatch) -> None:
    """The case is named with the command that shows it again, and the next job has a new process."""
    program = "import os; input(); print('case 8b00 64 7', flush=True); os.abort()"

    def started() -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe, text=True)

    monkeypatch.setattr(campaign, "_started", started)
    one = Worker()
    for _ in range(2):
        tried, [failure] = one.run("MOV_R32_RM32", 0, 20)
        assert (1, "8b00", 64, 7) == (tried, failure.code, failure.mode, failure.seed)
        assert "the process died: -6" == failure.difference
        assert str(failure).endswith("again: .venv/bin/python -m tests.x86 --replay 8b00 64 7")


def test_replay_shows_the_case(capsys: pytest.CaptureFixture[str]) -> None:
    """The command of a failure; a case that does not differ any more says so."""
    assert 0 == main(["--replay", "8b00", "64", "7"])
    shown = capsys.readouterr().out
    assert shown.startswith("mov eax,[rax]\nCase(form='MOV_R32_RM32'")
    assert shown.endswith("no difference\n")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--replay", "zz", "64", "0"], "zz 64 0 is no case"),
        (["--replay", "8b00", "48", "0"], "8b00 48 0 is no case"),
        (["--form", "NOSUCH*"], "no form matches NOSUCH*"),
    ],
)
def test_mistakes_are_named(arguments: list[str], words: str) -> None:
    """The argument that is wrong is in the message."""
    with pytest.raises(SystemExit, match=words.replace("*", r"\*")):
        main(arguments)
