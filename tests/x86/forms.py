"""The instruction forms that mmiod executes, as iced knows them: a form is an iced `Code`.

`TARGET` holds the forms that the project set out to execute, by family and by rule: legacy
integer and string instructions with a memory operand, and moves and broadcasts of vectors.
`BEYOND` are the families that it executes besides.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from functools import cache
from itertools import chain
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import iced_x86 as iced

from mmiod.x86 import Mode

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code


def _names(of: Any) -> dict[Any, str]:  # noqa: ANN401
    """The members of an enumeration of iced, which is a module of numbers at run time."""
    assert isinstance(of, ModuleType)
    return {value: name for name, value in vars(of).items() if isinstance(value, int)}


CODES: Final[dict[Code, str]] = _names(iced.Code)
BY_NAME: Final = {name: code for code, name in CODES.items()}
KINDS: Final = _names(iced.OpCodeOperandKind)
REGISTERS: Final = {name: value for value, name in _names(iced.Register).items()}
REGISTER_NAMES: Final = _names(iced.Register)
_MNEMONICS: Final = _names(iced.Mnemonic)
_ENCODINGS: Final = _names(iced.EncodingKind)


@cache
def mnemonic(code: Code) -> str:
    """The form's mnemonic."""
    return _MNEMONICS[iced.OpCodeInfo(code).mnemonic]


@cache
def encoding(code: Code) -> str:
    """LEGACY, VEX, EVEX, or one that is nobody's."""
    return _ENCODINGS[iced.OpCodeInfo(code).encoding]


@cache
def operand_kinds(code: Code) -> tuple[str, ...]:
    """What the form's operands may be."""
    form = iced.OpCodeInfo(code)
    return tuple(KINDS[form.op_kind(number)] for number in range(form.op_count))


@cache
def legal_modes(code: Code) -> tuple[Mode, ...]:
    """The modes in which the form exists; of the vendors' decoders Intel's counts."""
    form = iced.OpCodeInfo(code)
    legal = {
        Mode.CODE16: form.mode16 and form.intel_decoder16,
        Mode.CODE32: form.mode32 and form.intel_decoder32,
        Mode.CODE64: form.mode64 and form.intel_decoder64,
    }
    return tuple(mode for mode, exists in legal.items() if exists)


# --- families ----------------------------------------------------------------------------

_CONDITIONS: Final = "O NO B AE E NE BE A S NS P NP L GE LE G".split()


def _with_sizes(words: str, sizes: str) -> str:
    return " ".join(word + size for word in words.split() for size in sizes)


_INTEGER: Final = {
    "mov": "MOV",
    "movzx/movsx": "MOVZX MOVSX MOVSXD",
    "movnti/movbe/movdiri": "MOVNTI MOVBE MOVDIRI",
    "string": _with_sizes("MOVS CMPS STOS LODS SCAS", "BWDQ") + " " + _with_sizes("INS OUTS", "BWD"),
    "alu": "ADD OR ADC SBB AND SUB XOR CMP",
    "test": "TEST",
    "not/neg/inc/dec": "NOT NEG INC DEC",
    "xchg/xadd/cmpxchg": "XCHG XADD CMPXCHG CMPXCHG8B CMPXCHG16B",
    "bt": "BT BTS BTR BTC",
    "setcc": " ".join(f"SET{condition}" for condition in _CONDITIONS),
    "cmov": " ".join(f"CMOV{condition}" for condition in _CONDITIONS),
    "shift/rotate": "ROL ROR RCL RCR SHL SHR SAL SAR",
    "shld/shrd": "SHLD SHRD",
    "mul/div": "MUL IMUL DIV IDIV",
    "push/pop": "PUSH POP",
    "call/jmp": "CALL JMP",
    "bsf/popcnt": "BSF BSR TZCNT LZCNT POPCNT",
    "crc32/adx": "CRC32 ADCX ADOX",
    "movdir64b/enqcmd": "MOVDIR64B ENQCMD ENQCMDS",
    "rao-int": "AADD AAND AOR AXOR",
    "xlat": "XLATB",
}
_MOVES: Final = frozenset(
    """
    MOVUPS MOVUPD MOVSS MOVSD MOVLPS MOVLPD MOVHPS MOVHPD MOVSLDUP MOVSHDUP MOVDDUP MOVAPS MOVAPD
    MOVNTPS MOVNTPD MOVD MOVQ MOVDQA MOVDQU MOVNTDQ MOVNTDQA LDDQU MOVNTSS MOVNTSD MOVNTQ
    """.split()
)
_WIDTHS: Final = frozenset("MOVDQA32 MOVDQA64 MOVDQU8 MOVDQU16 MOVDQU32 MOVDQU64 MOVSH MOVW".split())
_BMI: Final = frozenset("ANDN BLSR BLSMSK BLSI BZHI PEXT PDEP MULX BEXTR SHLX SARX SHRX RORX".split())
_IMPLICIT: Final = frozenset({"SEG_RSI", "SEG_RDI", "ES_RDI", "SEG_RBX_AL"})
_FAMILY_OF: Final = {word: family for family, words in _INTEGER.items() for word in words.split()}


def _family(code: Code) -> str | None:
    """The family of a form of the target, by the rule."""
    kinds = operand_kinds(code)
    if not iced.OpCodeInfo(code).is_instruction or not any("MEM" in k or k in _IMPLICIT for k in kinds):
        return None
    name, how = mnemonic(code), encoding(code)
    if how == "LEGACY" and any(kind.startswith(("XMM", "MM")) for kind in kinds):
        mmx = any(kind.startswith("MM_") for kind in kinds)
        return ("mmx" if mmx else "sse") if name in _MOVES else None
    if how == "LEGACY":
        return _FAMILY_OF.get(name) if "CMPXCHG486" not in CODES[code] else None
    if how not in ("VEX", "EVEX"):
        return None
    if name.startswith(("VBROADCAST", "VPBROADCAST")):
        return f"{how.lower()} broadcast"
    moves = _MOVES if how == "VEX" else _MOVES - {"MOVDQA", "MOVDQU", "LDDQU"} | _WIDTHS
    return f"{how.lower()} move" if name[0] == "V" and name[1:] in moves else None


def _family_beyond(code: Code) -> str | None:
    """The family of a form that is executed besides."""
    name, how = mnemonic(code), encoding(code)
    if how == "LEGACY" and name in ("IN", "OUT"):
        return "in/out"
    if not any("MEM" in kind for kind in operand_kinds(code)):
        return None
    if "PMOVSX" in name or "PMOVZX" in name:
        return "pmovsx/pmovzx"
    if how != "VEX":
        return None
    if name.startswith("KMOV"):
        return "kmov"
    if name.startswith(("VMASKMOVP", "VPMASKMOV")):
        return "vmaskmov"
    return "bmi" if name in _BMI else None


def _grouped(found: Iterator[tuple[str | None, Code]]) -> dict[str, list[Code]]:
    families: dict[str, list[Code]] = {}
    for family, code in found:
        if family is not None:
            families.setdefault(family, []).append(code)
    return dict(sorted(families.items()))


TARGET: Final = _grouped((_family(code), code) for code in CODES)
BEYOND: Final = _grouped((_family_beyond(code), code) for code in CODES)


def executed_forms() -> list[Code]:
    """All forms in scope."""
    return list(chain.from_iterable((*TARGET.values(), *BEYOND.values())))


# --- oracles -----------------------------------------------------------------------------


class Judge(enum.Enum):
    """Who can execute a form."""

    UNICORN = "Unicorn"
    NATIVE = "this CPU"
    MANUAL = "the manual"


_MANUAL: Final = frozenset("MOVDIRI MOVDIR64B ENQCMD ENQCMDS AADD AAND AOR AXOR VMOVSH VMOVW".split())
"""Neither Unicorn nor the processors that we have execute these."""


@cache
def judge(code: Code) -> Judge:
    """The oracle of a form: Unicorn knows no VEX, no EVEX and no alias of TEST."""
    if mnemonic(code) in _MANUAL:
        return Judge.MANUAL
    unknown = encoding(code) != "LEGACY" or CODES[code].endswith(("F6R1", "F7R1"))
    return Judge.NATIVE if unknown else Judge.UNICORN
