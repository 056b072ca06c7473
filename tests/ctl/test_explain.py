"""`mmioctl explain`: no daemon, and names that iced gives, too."""

from __future__ import annotations

import json
from typing import Any

import iced_x86 as iced
import pytest

from mmiod.ctl import explain
from mmiod.ctl.__main__ import main
from tests.x86.forms import REGISTER_NAMES, executed_forms, legal_modes
from tests.x86.predicted import decoded
from tests.x86.trial import draw


def explained(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:  # noqa: ANN401  JSON
    """The answer as a program reads it."""
    assert 0 == main(["explain", "--json", *arguments])
    return json.loads(capsys.readouterr().out)


def test_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    """Decode, plan, steps and result, from the registers that are given."""
    assert 0 == main(["explain", "f0480fb1", "4b08", "--set", "rbx=0x1000", "rax=7", "rcx=9"])
    expected = """\
f0 48 0f b1 4b 08  (64-bit code)
cmpxchg qword ds:[rbx+0x8], rcx
length    6
prefixes  lock, rex.1000
plan      exchange_if, atomic; by generator
step      probe  address=0x1008 size=0x8 intent=write
step      read   address=0x1008 size=0x8
step      cas    address=0x1008 size=0x8 old=0x0 new=0x0
result    rax=0x0 rip=0x6
"""
    assert expected == capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "mode", "operands"),
    [
        ("8b05f0ffffff", "64", ["eax", "dword ds:[rip-0x10]"]),
        ("678b0500000000", "64", ["eax", "dword ds:[eip]"]),
        ("a3001000000000000000"[:18], "64", ["dword ds:[0x1000]", "eax"]),
        ("8b04cd00000000", "32", ["eax", "dword ds:[ecx*8]"]),
        ("8a6603", "16", ["ah", "byte ss:[bp+0x3]"]),
        ("408a31", "64", ["sil", "byte ds:[rcx]"]),
        ("6444 8800", "64", ["byte fs:[rax]", "r8b"]),
        ("d7", "64", ["al", "byte ds:[rbx+al]"]),
        ("0fa318", "32", ["dword ds:[eax+bit ebx]", "ebx"]),
        ("8c18", "32", ["word ds:[eax]", "ds"]),
        ("0f6f08", "32", ["mm1", "qword ds:[eax]"]),
        ("62f17f8a6f08", "64", ["xmm1", "16 bytes ds:[rax]", "16 x 1 bytes, only k2, others 0"]),
        ("c4e1f89008", "64", ["k1", "qword ds:[rax]"]),
    ],
)
def test_operands(capsys: pytest.CaptureFixture[str], code: str, mode: str, operands: list[str]) -> None:
    """Sizes, segments, addresses and registers of all kinds."""
    assert operands == explained(capsys, *code.split(), "--mode", mode)["operands"]


@pytest.mark.parametrize(
    ("code", "outcome", "detail"),
    [
        ("8b", "need more", "at least 1 more bytes"),
        ("f08b00", "fault", "#UD"),
        ("66" * 15, "fault", "#GP(0x0)"),
        ("0f58c0", "unsupported", "no instruction that accesses"),
    ],
)
def test_bytes_without_a_plan(
    capsys: pytest.CaptureFixture[str], code: str, outcome: str, detail: str
) -> None:
    """They are explained, too."""
    answer = explained(capsys, code)
    assert outcome == answer["outcome"]
    assert answer["detail"].startswith(detail)


def test_fault_while_running(capsys: pytest.CaptureFixture[str]) -> None:
    """The steps end where the guest gets its exception."""
    answer = explained(capsys, "8b00", "--set", "rax=0x800000000000")
    assert ([], "#GP(0x0)") == (answer["steps"], answer["fault"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["8b0"], "BYTES: '8b0' is not hexadecimal"),
        (["90" * 16], "BYTES: 16 bytes; an instruction has 1 to 15"),
        ([""], "BYTES: 0 bytes"),
        (["8b00", "--set", "rqx=1"], "'rqx' is no register; there are: rax,"),
        (["8b00", "--set", "rax=x"], "--set: 'x' is no number for rax"),
        (["8b00", "--set", "rax=-1"], "--set: -1 does not fit rax"),
    ],
)
def test_mistakes_are_named(capsys: pytest.CaptureFixture[str], arguments: list[str], words: str) -> None:
    """A usage error names the argument and its value."""
    assert 2 == main(["explain", *arguments])
    shown = capsys.readouterr()
    assert "" == shown.out
    assert words in shown.err


def test_every_form_is_explained_with_iceds_registers() -> None:
    """Length and register operands are those that iced tells, in the mode that has the most of them."""
    for code in executed_forms():
        mode = max(legal_modes(code))
        case = draw(code, mode, 0)
        instruction = decoded(case.code, mode)
        answer = explain.explained(case.code, mode, {})
        assert instruction.len == answer["length"]
        assert registers(instruction) <= set(answer["operands"]), case


def registers(instruction: iced.Instruction) -> set[str]:
    """The register operands in small letters, in Intel's spelling."""
    numbers = [
        instruction.op_register(number)
        for number in range(instruction.op_count)
        if instruction.op_kind(number) == iced.OpKind.REGISTER
    ]
    names = {REGISTER_NAMES[number].lower() for number in numbers}
    return {f"{name[:-1]}b" if name[0] == "r" and name[-1] == "l" else name for name in names}
