"""A process that tries cases, and may die of one: the other end of `campaign.Pool`.

Standard input has jobs, a line each: form, first seed, seeds in each mode.  Standard output
tells each case before it is tried, then what came of the job, as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import TYPE_CHECKING, Final

from tests.x86.forms import BY_NAME, legal_modes
from tests.x86.predicted import decoded, memory_operands
from tests.x86.situations import Case, Unplaceable, situation
from tests.x86.trial import difference, draw

if TYPE_CHECKING:
    from iced_x86._iced_x86_py import Code

FAILURES: Final = 3
"""A form has had enough."""
_SEEDS: Final = 8
"""States in which a smaller instruction is tried."""


def main() -> None:
    """Do jobs until there is none; Ctrl-C is for the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        form, first, count = line.split()
        tell(json.dumps(job(BY_NAME[form], int(first), int(count))))


def tell(line: str) -> None:
    """At once: the next thing may be our end."""
    os.write(1, line.encode() + b"\n")


def job(code: Code, first: int, count: int) -> dict[str, object]:
    """How many cases there were, and those that failed, shrunk: [bytes, mode, seed, difference]."""
    tried, failures = 0, []
    for mode in legal_modes(code):
        for seed in range(first, first + count):
            case = draw(code, mode, seed)
            tried += 1
            if attempt(case) is not None:
                small = shrunk(case)
                failures.append([small.code.hex(), int(mode), small.seed, attempt(small)])
            if len(failures) == FAILURES:
                break
    return {"tried": tried, "failures": failures}


def attempt(case: Case) -> str | None:
    """The difference, or what was raised."""
    tell(f"case {case.code.hex()} {int(case.mode)} {case.seed}")
    try:
        return difference(case)
    except Exception as error:  # noqa: BLE001  whatever mmiod or an oracle raises is a difference
        return f"{type(error).__name__}: {error}"


def shrunk(case: Case) -> Case:
    """A case of the same form that fails with fewer bytes, more of them 0, in the lowest of some states."""
    smaller = True
    while smaller:
        smaller = False
        for code in _simpler(case.code):
            found = _failing(code, case)
            if found is not None:
                case, smaller = found, True
                break
    return case


def _simpler(code: bytes) -> list[bytes]:
    """Each byte left out, then each byte 0."""
    shorter = [code[:at] + code[at + 1 :] for at in range(len(code))]
    return shorter + [code[:at] + b"\0" + code[at + 1 :] for at in range(len(code)) if code[at]]


def _failing(code: bytes, case: Case) -> Case | None:
    instruction, old = decoded(code, case.mode), decoded(case.code, case.mode)
    same = instruction.code == old.code and memory_operands(instruction) == memory_operands(old)
    if not same or instruction.len != len(code):
        return None
    for seed in range(_SEEDS):
        try:
            candidate = situation(code, case.mode, seed)
        except Unplaceable:
            return None
        if attempt(candidate) is not None:
            return candidate
    return None


if __name__ == "__main__":
    main()
