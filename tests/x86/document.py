"""Fills the tables of docs/instructions.md from the opcode tables, and from a run of the oracles.

    python -m tests.x86.document docs/instructions.md

What stands between `<!-- table NAME -->` and the next `<!-- end -->` is replaced.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Final

from mmiod.x86 import Mode, NotSupported, Undefined, decode, opcodes
from mmiod.x86.vector_opcodes import FORMS
from tests.x86.campaign import Results, campaign, judged_forms
from tests.x86.coverage import COUNTED, Coverage, covered, totals
from tests.x86.forms import BEYOND, TARGET, judge

_BLOCK: Final = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

REFUSED: Final = (
    ("instructions on registers alone", "8bc3", 64, "they do not exit"),
    ("LOCK where nothing is modified in memory", "f08b00", 64, "so does a processor"),
    ("x87 loads and stores", "d900", 64, "no driver keeps its registers' values in floating point"),
    ("FXSAVE, FXRSTOR, XSAVE, XRSTOR", "0fae00", 64, "a context in a device is a mistake of the guest's"),
    ("arithmetic on vectors: SSE", "0f5800", 64, "compilers do not fold a volatile access into it"),
    ("arithmetic on vectors: AVX", "c5f85800", 64, "the same"),
    ("arithmetic on vectors: AVX-512", "62f17c485800", 64, "the same"),
    ("gather and scatter", "c4e26d920408", 64, "many accesses whose order is nobody's"),
    ("compress and expand", "62f27d488800", 64, "the number of bytes depends on the mask"),
    ("far RET, IRET", "cf", 64, "a stack in a device, and a change of privilege"),
    (
        "far pointers: LDS, LES, LFS, LGS, LSS",
        "c400",
        32,
        "a pointer in a device is a mistake of the guest's",
    ),
    ("system structures: LGDT, LIDT, LLDT, LTR, VMX", "0f0110", 64, "the hypervisor intercepts them itself"),
    ("XOP, 3DNow!, MPX, AMX", "0f0f0090", 64, "processors no longer, or drivers not yet, have them"),
    ("APX (REX2)", "d5118b00", 64, "no processor has it yet"),
)
"""What is refused, an example's bytes and mode, and why."""


def filled(text: str, found: list[Coverage] | None = None) -> str:
    """The document with its tables as they are now; the figures only where they are known."""

    def render(block: re.Match[str]) -> str:
        name = block[2]
        if name == "coverage":
            return block[0] if found is None else f"{block[1]}\n{_coverage(found)}\n\n{block[3]}"
        return f"{block[1]}\n{_RENDERERS[name]()}\n\n{block[3]}"

    return _BLOCK.sub(render, text)


def _table(head: str, rows: Iterable[tuple[str, ...]]) -> str:
    columns = head.count("|") + 1
    return "\n".join([f"| {head} |", "|---" * columns + "|", *(f"| {' | '.join(row)} |" for row in rows)])


def _coverage(found: list[Coverage]) -> str:
    rows = []
    for target, title in ((True, "**of the target**"), (False, "**besides**")):
        rows += [_row(one.family, one.covered, one.forms) for one in found if one.target == target]
        rows.append(_row(title, *totals(found, target=target)))
    return _table("family | forms | proven | by", rows)


def _row(family: str, proven: int, forms: int) -> tuple[str, ...]:
    codes = (TARGET | BEYOND).get(family, [])
    return family, str(forms), str(proven), ", ".join(sorted({judge(code).value for code in codes}))


def _integer() -> str:
    """Mnemonics by shape, in the order of the table."""
    shapes: dict[str, dict[str, None]] = {}
    for line in opcodes.lines():
        _, name, shape, *_ = line.split()
        if shape != "undefined":
            shapes.setdefault(shape, {})[name] = None
    return _table("shape | instructions", ((shape, " ".join(names)) for shape, names in shapes.items()))


def _vector() -> str:
    """Mnemonics by shape, with their encodings."""
    shapes: dict[str, dict[str, None]] = {}
    for form in chain.from_iterable(FORMS.values()):
        shapes.setdefault(form.opcode.shape, {})[form.opcode.mnemonic] = None
    return _table(
        "shape | instructions", ((shape, " ".join(sorted(n))) for shape, n in sorted(shapes.items()))
    )


def _refused() -> str:
    return _table("refused | example | answer | why", (_refusal(*row) for row in REFUSED))


def _refusal(what: str, code: str, mode: int, why: str) -> tuple[str, ...]:
    outcome = decode(bytes.fromhex(code), Mode(mode))
    assert isinstance(outcome, NotSupported | Undefined), f"{what}: {code} is executed"
    return what, f"`{code}`", "unsupported" if isinstance(outcome, NotSupported) else "#UD", why


_RENDERERS: Final[dict[str, Callable[[], str]]] = {
    "integer": _integer,
    "vector": _vector,
    "refused": _refused,
}


def main(path: Path) -> None:
    """Run the oracles, and write the document."""
    results = Results()
    for results in campaign(judged_forms(), COUNTED):  # noqa: B007  the last ones are all
        pass
    found = covered(results.cases, {failure.form for failure in results.failed})
    path.write_text(filled(path.read_text(), found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
