"""How many of the forms in scope are proven, by family.

A form counts when `COUNTED` random cases in each mode in which it exists decode to iced's
length, make the oracle's accesses and end in its state.  A form that no oracle runs counts
when its cases in `manual` hold.  What there is to count is computed from iced's tables (`forms`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from attrs import frozen

from tests.x86.forms import BEYOND, CODES, TARGET, Judge, judge, legal_modes
from tests.x86.manual import ROWS, run

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code

COUNTED: Final = 20
"""Cases of a form in each mode."""


@frozen
class Coverage:
    """A family's forms: all, those that are proven, and those that are not."""

    family: str
    target: bool
    """Whether it is one of those that the project set out to execute."""
    forms: int
    lacking: tuple[str, ...]

    @property
    def covered(self) -> int:
        """Forms that are proven."""
        return self.forms - len(self.lacking)


def covered(cases: Mapping[str, int], failed: set[str]) -> list[Coverage]:
    """By family, given the cases that were tried of each form, and the forms with a difference."""
    rows = [(row.form, run(row) == (list(row.accesses), row.after)) for row in ROWS]
    manual = {form for form, _ in rows} - {form for form, holds in rows if not holds}

    def counts(code: Code) -> bool:
        name = CODES[code]
        if judge(code) is Judge.MANUAL:
            return name in manual
        return name not in failed and cases.get(name, 0) >= COUNTED * len(legal_modes(code))

    return [
        Coverage(family, target, len(codes), tuple(CODES[code] for code in codes if not counts(code)))
        for target, families in ((True, TARGET), (False, BEYOND))
        for family, codes in families.items()
    ]


def totals(found: list[Coverage], *, target: bool) -> tuple[int, int]:
    """Forms that are proven, and all."""
    chosen = [one for one in found if one.target == target]
    return sum(one.covered for one in chosen), sum(one.forms for one in chosen)


def table(found: list[Coverage]) -> str:
    """For people."""
    lines = []
    for target, title in ((True, "all"), (False, "besides")):
        for one in found:
            if one.target == target:
                lines.append(_line(one.family, one.covered, one.forms))
                lines += [f"    not {name}" for name in one.lacking]
        lines += [_line(title, *totals(found, target=target)), ""]
    return "\n".join(lines).rstrip()


def _line(name: str, proven: int, forms: int) -> str:
    return f"{name:24} {proven:4}/{forms}"
