"""The opcode table's text: prefixes that choose opcodes, groups, and mistakes in it."""

from __future__ import annotations

import pytest

from mmiod.x86.encoding import MANDATORY
from mmiod.x86.table import Opcode, parse

NP, OPERAND_SIZE, F3, F2 = (MANDATORY[name] << 24 for name in ("NP", "66", "F3", "F2"))


def names(*lines: str) -> dict[int, str]:
    """The mnemonics of a table without groups, by opcode number."""
    entries = parse(lines)
    return {number: entry.mnemonic for number, entry in entries.items() if isinstance(entry, Opcode)}


def test_a_line_without_prefix_takes_what_others_leave() -> None:
    """F3 0F BC is TZCNT; 0F BC with any other prefix, or none, is BSF."""
    found = names("0FBC bsf find Gv,Ev", "F3.0FBC tzcnt combine Gv,Ev")
    assert {"bsf"} == {found[0x0FBC | prefix] for prefix in (NP, OPERAND_SIZE, F2)}
    assert "tzcnt" == found[0x0FBC | F3]


def test_a_prefix_is_needed_where_it_is_written() -> None:
    """NP and 66 leave F2 and F3 to nobody."""
    found = names("NP.0F38F0 movbe load_swapped Gv,Ev", "66.0F38F0 movbe load_swapped Gv,Ev")
    assert {0x0F38F0 | NP, 0x0F38F0 | OPERAND_SIZE} == set(found)


def test_opcodes_of_one_byte_have_no_such_prefixes() -> None:
    """8B is MOV whatever comes before it."""
    assert {0x8B: "mov"} == names("8B mov load Gv,Ev")


def test_group() -> None:
    """`/n` is ModRM.reg; what no line names is nobody's."""
    group = parse(["FE/0 inc modify Eb lock", "FE/1 dec modify Eb lock"])[0xFE]
    assert isinstance(group, list)
    assert ["inc", "dec", *[None] * 6] == [entry and entry.mnemonic for entry in group]


@pytest.mark.parametrize(
    "lines",
    [
        ("8B mov load Gv,Ev", "8B mov load Gv,Ev"),
        ("FE/0 inc modify Eb", "FE/0 inc modify Eb"),
        ("FE/0 inc modify Eb", "FE inc modify Eb"),
        ("FE inc modify Eb", "FE/0 inc modify Eb"),
    ],
)
def test_a_number_is_given_once(lines: tuple[str, str]) -> None:
    """Two lines for one opcode stop the program at its start."""
    with pytest.raises(AssertionError):
        parse(lines)
