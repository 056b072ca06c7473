"""How things look to people: aligned tables, sizes of time, numbers in hex."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

_LARGEST: Final = (1 << 64) - 1
_UNITS: Final = ((1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "us"))


def table(head: Sequence[str], rows: Iterable[Sequence[str]], right: frozenset[str] = frozenset()) -> str:
    """Columns under their names, two spaces apart; those in `right` are flush right."""
    lines = [list(head), *(list(row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if name in right else cell.ljust(width)
            for name, cell, width in zip(head, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def duration(ns: int | None) -> str:
    """Nanoseconds, to three digits."""
    if ns is None:
        return "-"
    for factor, unit in _UNITS:
        if ns >= factor:
            return f"{ns / factor:.3g}{unit}" if ns < 100 * factor else f"{ns // factor}{unit}"
    return f"{ns}ns"


def fields(values: Mapping[str, int]) -> str:
    """Named fields; small numbers are decimal."""
    return " ".join(f"{name}={value if value < 10 else hex(value)}" for name, value in values.items())


def number(text: str) -> int:
    """What an access can hold, read from a command line.

    Raises:
        ValueError: it is none, in a sentence.
    """
    try:
        value = int(text, 0)
    except ValueError:
        raise ValueError(f"{text!r} is no number, such as 16 or 0x10") from None
    if not 0 <= value <= _LARGEST:
        raise ValueError(f"{text} is not within 0..{_LARGEST:#x}")
    return value


def hexadecimal(value: int, size: int = 0) -> str:
    """A number in hex, with the digits of `size` bytes."""
    return f"0x{value:0{2 * size}x}"
