"""One case in mmiod and in its oracle: the difference in words, or None."""

from __future__ import annotations

from functools import cache
from random import Random
from typing import TYPE_CHECKING, Final

import attrs
import iced_x86 as iced

from mmiod.x86 import Mode
from tests.x86.differences import TABLE
from tests.x86.forms import BY_NAME, CODES, REGISTERS, Judge, judge, mnemonic
from tests.x86.generator import encode
from tests.x86.layout import ENTRY, segments
from tests.x86.native import Native, missing
from tests.x86.oracle import Effect, Outcome, execute
from tests.x86.predicted import (
    NUMBERS,
    decoded,
    element_bytes,
    flags_undefined,
    linear_address,
    memory_operands,
    operand_bytes,
)
from tests.x86.situations import Case, Unplaceable, situation

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code, Register

    from tests.x86.emulator import Emulator

_VISIBLE: Final = 0xCD7
"""All flags but those that belong to the system, which user code cannot set."""


def draw(code: Code, mode: Mode, seed: int) -> Case:
    """A case of a form, always the same for a seed."""
    random = Random(f"{CODES[code]} {mode} {seed}")
    while True:
        try:
            return situation(encode(code, mode, random), mode, seed)
        except Unplaceable:
            continue


def cases(code: Code, mode: Mode, count: int) -> list[Case]:
    """The first cases of a form."""
    return [draw(code, mode, seed) for seed in range(count)]


def difference(case: Case) -> str | None:
    """What mmiod does otherwise than the oracle of the case; nothing where there is none here."""
    if native(case) and missing():
        return None
    actual = execute(case)
    expected = _by_this_cpu(case) if native(case) else by_unicorn(case)
    _forget_undefined(case, expected, actual)
    return _words(expected, actual)


def native(case: Case) -> bool:
    """Whether this CPU is the oracle: Unicorn does not know the form, or is known to be wrong."""
    return judge(BY_NAME[case.form]) is Judge.NATIVE or any(row.excuses(case) for row in TABLE)


def by_unicorn(case: Case) -> Outcome:
    """What Unicorn makes of it."""
    return _emulator(case.mode).run(case)


@cache
def _emulator(mode: Mode) -> Emulator:
    from tests.x86.emulator import Emulator  # noqa: PLC0415  its library takes its time

    return Emulator(mode)


@cache
def _native() -> Native:
    return Native()


def _forget_undefined(case: Case, *outcomes: Outcome) -> None:
    """What the manual leaves open is not compared."""
    undefined = flags_undefined(decoded(case.code, case.mode), case.gpr)
    name = mnemonic(BY_NAME[case.form])
    nothing = name in ("BSF", "BSR") and outcomes[0].trace[0].value == 0
    for one in outcomes:
        if nothing:  # SDM vol. 2, BSF: the destination is undefined
            one.gpr[NUMBERS[decoded(case.code, case.mode).op0_register]] = 0
        one.rflags &= ~undefined
        if name.startswith("CMPS"):  # the order of its two reads
            one.trace.sort(key=lambda effect: effect.address)


def _words(expected: Outcome, actual: Outcome) -> str | None:
    """The fields that differ."""
    found = []
    for name in (one.name for one in attrs.fields(Outcome)):
        wanted, got = getattr(expected, name), getattr(actual, name)
        if isinstance(wanted, list) and name != "trace" and len(wanted) == len(got):
            pairs = zip(wanted, got, strict=True)
            found += [
                f"{name}[{number}] {_text(one)} not {_text(other)}"
                for number, (one, other) in enumerate(pairs)
                if one != other
            ]
        elif wanted != got:
            found.append(f"{name} {_text(wanted)} not {_text(got)}")
    return "expected " + "; ".join(found) if found else None


def _text(value: object) -> str:
    if isinstance(value, int):
        return f"{value:#x}"
    if isinstance(value, Effect):
        return f"{value.kind} {value.address:#x}+{value.size} {value.value:#x}"
    if isinstance(value, list | tuple):
        return "(" + ", ".join(map(_text, value)) + ")"
    return str(value)


# --- this CPU ----------------------------------------------------------------------------


def _by_this_cpu(case: Case) -> Outcome:
    """Registers and memory from the processor; accesses from iced and the mask."""
    after = _native().run(case)
    places = [(segment.selector, segment.base) for segment in segments(case.mode)]
    rip = ENTRY[case.mode] + len(case.code)
    trace = _predicted_trace(case, after)
    return Outcome(trace, after.gpr, after.rflags & _VISIBLE, rip, places, after.zmm, after.k, after.mm)


def _predicted_trace(case: Case, after: Case) -> list[Effect]:
    """All lanes that are accessed, in ascending order."""
    instruction = decoded(case.code, case.mode)
    [memory] = memory_operands(instruction)
    address = linear_address(instruction, case.mode, case.gpr)
    if memory.reads and memory.writes:
        return [_effect("read", case, address, memory.size), _effect("write", after, address, memory.size)]
    lanes = _lanes(case)
    places = [(address + offset, size) for offset, size in _runs(lanes, element_bytes(instruction.code))]
    kind, holder = ("write", after) if memory.writes else ("read", case)
    return [_effect(kind, holder, at, size) for at, size in places]


def _effect(kind: str, holder: Case, address: int, size: int) -> Effect:
    return Effect(kind, address, size, int.from_bytes(holder.read(address, size), "little"))


def _lanes(case: Case) -> list[bool]:
    """Which elements of the memory operand are accessed; `suppression` shows that it is so."""
    instruction = decoded(case.code, case.mode)
    size, element = operand_bytes(instruction.code), element_bytes(instruction.code)
    count = size // element
    name = mnemonic(instruction.code)
    if name.startswith(("VMASKMOV", "VPMASKMOV")):
        register = case.zmm[_vector_number(instruction.op1_register)]
        return [bool(register >> 8 * element * (lane + 1) - 1 & 1) for lane in range(count)]
    if not instruction.has_op_mask or name.endswith("DUP"):
        return [True] * count
    mask = case.k[instruction.op_mask - REGISTERS["K0"]]
    places = count
    if "BROADCAST" in name:
        places = iced.RegisterInfo(instruction.op0_register).size // element
    selected = {place % count for place in range(places) if mask >> place & 1}
    return [lane in selected for lane in range(count)]


def _vector_number(register: Register) -> int:
    return int(register - iced.RegisterInfo(register).base)


def _runs(lanes: list[bool], element: int) -> list[tuple[int, int]]:
    """Neighbouring lanes as (offset, size) in bytes."""
    runs: list[tuple[int, int]] = []
    for number, selected in enumerate(lanes):
        if selected and runs and sum(runs[-1]) == number * element:
            runs[-1] = runs[-1][0], runs[-1][1] + element
        elif selected:
            runs.append((number * element, element))
    return runs
