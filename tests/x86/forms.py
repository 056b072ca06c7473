"""The instruction forms that mmiod executes, as iced knows them: a form is an iced `Code`."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import iced_x86 as iced
from attrs import define

from mmiod.x86 import Mode

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code

STRINGS: Final = frozenset(
    word + size
    for words, sizes in (("MOVS CMPS STOS LODS SCAS", "BWDQ"), ("INS OUTS", "BWD"))
    for word in words.split()
    for size in sizes
)
EXECUTED: Final = STRINGS | set(
    "MOV MOVZX MOVSX MOVSXD ADD OR ADC SBB AND SUB XOR CMP TEST XCHG IN OUT".split()
)


def _names(of: Any) -> dict[Any, str]:  # noqa: ANN401
    """The members of an enumeration of iced, which is a module of numbers at run time."""
    assert isinstance(of, ModuleType)
    return {value: name for name, value in vars(of).items() if isinstance(value, int)}


CODES: Final[dict[Code, str]] = _names(iced.Code)
KINDS: Final = _names(iced.OpCodeOperandKind)
REGISTERS: Final = {name: value for value, name in _names(iced.Register).items()}
_MNEMONICS: Final = _names(iced.Mnemonic)


@define
class Case:
    """One instruction and the registers it starts from."""

    form: str
    mode: Mode
    code: bytes
    alias: bytes
    """The same instruction in an encoding that Unicorn knows."""
    gpr: list[int]
    rflags: int


def mnemonic(code: Code) -> str:
    """The form's mnemonic."""
    return _MNEMONICS[iced.OpCodeInfo(code).mnemonic]


def operand_kinds(code: Code) -> list[str]:
    """What the form's operands may be."""
    form = iced.OpCodeInfo(code)
    return [KINDS[form.op_kind(number)] for number in range(form.op_count)]


def executed_forms() -> list[Code]:
    """The forms in scope: a memory operand or a port, no load of a segment register."""
    return [code for code in CODES if _in_scope(code)]


def _in_scope(code: Code) -> bool:
    if iced.OpCodeInfo(code).encoding != iced.EncodingKind.LEGACY or mnemonic(code) not in EXECUTED:
        return False
    kinds = operand_kinds(code)
    if kinds[0] == "SEG_REG" or any("XMM" in kind for kind in kinds):
        return False
    return mnemonic(code) in ("IN", "OUT") or any(
        "MEM" in kind or kind in ("SEG_RSI", "ES_RDI") for kind in kinds
    )


def legal_modes(code: Code) -> list[Mode]:
    """The modes in which the form exists."""
    form = iced.OpCodeInfo(code)
    legal = {Mode.CODE16: form.mode16, Mode.CODE32: form.mode32, Mode.CODE64: form.mode64}
    return [mode for mode, exists in legal.items() if exists]
