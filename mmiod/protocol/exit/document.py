"""Fills the tables of docs/protocol.md from the table.

    python -m mmiod.protocol.exit.document docs/protocol.md

A line `<!-- table NAME -->` names a structure, message or set of numbers; what stands
between it and the next `<!-- end -->` is replaced.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Final

from mmiod.protocol.exit.table import LAYOUTS, NUMBERS, Layout, Member, Numbers

_BLOCK: Final = re.compile(r"(<!-- table (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """The document with its tables as they are now.

    Raises:
        KeyError: for a marker that names nothing.
    """
    return _BLOCK.sub(lambda found: f"{found[1]}\n{_render(found[2])}\n{found[3]}", text)


def named(text: str) -> set[str]:
    """What the document has tables of."""
    return {name for _, name, _ in _BLOCK.findall(text)}


def _render(name: str) -> str:
    return _layout(LAYOUTS[name]) if name in LAYOUTS else _numbers(NUMBERS[name])


def _layout(layout: Layout) -> str:
    rows = [_row(str(member.offset), _type(member), member.name, member.comment) for member in layout.members]
    if layout.type is not None:
        rows.insert(0, _row("0", "header", "header", f"type {layout.type}"))
    return "\n".join([_title(layout), "", "| offset | type | field | |", "|---:|---|---|---|", *rows, ""])


def _title(layout: Layout) -> str:
    if layout.type is None:
        return f"`{layout.name}`, {layout.size} bytes{_after(layout.comment)}"
    towards = "to the daemon" if layout.to_daemon else "to the client"
    return f"**{layout.name}** ({layout.type}), {towards}, {layout.size} bytes{_after(layout.note)}"


def _after(comment: str) -> str:
    return f": {comment}" if comment else ""


def _type(member: Member) -> str:
    return f"{member.type}[{member.count}]" if member.count > 1 else member.type


def _numbers(numbers: Numbers) -> str:
    kind = "bit" if numbers.bits else "value"
    rows = [_row(str(number), f"`{label}`", note) for label, number, note in numbers.members]
    title = f"`{numbers.name}`{_after(numbers.comment)}"
    return "\n".join([title, "", f"| {kind} | name | |", "|---:|---|---|", *rows, ""])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"


def main(path: str) -> None:
    """Rewrite the document at `path`."""
    document = Path(path)
    document.write_text(filled(document.read_text()))


if __name__ == "__main__":
    main(sys.argv[1])
